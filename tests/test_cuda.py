"""The layers on a GPU against the same layers on the CPU, by every schedule; skipped where there is no GPU.

The longer check, with sanitizers, graphs and times, is tools/gpu_check.sh.
"""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from bench.verify import TOLERANCES
from fused_rnn import _autograd, _ops
from fused_rnn._tensors import Arguments

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SCHEDULES = ("per_step", "small_block", "one_block", "cluster", "grid")
# Schedule: the hidden size that it is tried with.
HIDDEN_SIZES = {"per_step": 37, "small_block": 37, "one_block": 37, "cluster": 200, "grid": 200}


def results(layer: torch.nn.RNNBase, x: torch.Tensor, **arguments: torch.Tensor) -> list[torch.Tensor]:
    """Output and every gradient of one training step, as float64 on the CPU."""
    x = x.detach().clone().requires_grad_()
    output, _ = layer(x, **arguments)
    output.double().square().sum().backward()
    found = [output, x.grad, *(p.grad for p in layer.parameters())]
    return [t.detach().double().cpu() for t in found if t is not None]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc compiles the cells")
@pytest.mark.parametrize("kind", [fused_rnn.SLSTM, fused_rnn.CoupledLSTM, fused_rnn.IndRNN, fused_rnn.MinLSTM])
def test_own_cells_agree_with_float64_on_the_cpu(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    torch.manual_seed(0)
    layer, x = kind(5, 40, bidirectional=True), torch.randn(6, 11, 5)
    with fused_rnn.strict():
        expected = results(copy.deepcopy(layer).double(), x.double())
        actual = results(layer.cuda(), x.cuda())
    tolerance = TOLERANCES[torch.float32]
    for found, wanted in zip(actual, expected, strict=True):
        assert (found - wanted).abs().max() <= tolerance.gradients * wanted.abs().max()


def choose(schedule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a schedule run, and float32 exact; the test is skipped where the schedule cannot run the type here."""
    if dtype == torch.float64 and schedule != "per_step":
        pytest.skip("float64 runs by per_step alone")
    if schedule == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters need compute capability 9.0")
    monkeypatch.setenv("FUSED_RNN_CUDA_SCHEDULE", schedule)
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("make", [fused_rnn.LSTM, fused_rnn.GRU, fused_rnn.RNN])
def test_a_schedule_agrees_with_float64_on_the_cpu(
    make: Callable[..., torch.nn.RNNBase], schedule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(schedule, dtype, monkeypatch)
    layer = make(5, HIDDEN_SIZES[schedule], bidirectional=True, dtype=dtype)
    x = torch.randn(6, 11, 5, dtype=dtype)
    expected = results(copy.deepcopy(layer).double(), x.double())
    actual = results(layer.cuda(), x.cuda())
    layer.zero_grad()
    again = results(layer, x.cuda())
    tolerance = TOLERANCES[dtype]
    for index, (found, wanted, repeated) in enumerate(zip(actual, expected, again, strict=True)):
        limit = tolerance.outputs if index == 0 else tolerance.gradients
        assert (found - wanted).abs().max() <= limit * wanted.abs().max()
        if index == 0:
            assert torch.equal(found, repeated)


@pytest.mark.parametrize("names", [("lengths",), ("resets",), ("lengths", "resets")], ids="+".join)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("make", [fused_rnn.LSTM, fused_rnn.GRU, fused_rnn.RNN])
def test_rows_that_end_and_start_anew_agree_with_float64_on_the_cpu(
    make: Callable[..., torch.nn.RNNBase], schedule: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(schedule, torch.float32, monkeypatch)
    layer = make(5, HIDDEN_SIZES[schedule], bidirectional=True)
    x = torch.randn(9, 11, 5)
    given = {"lengths": torch.randint(0, 10, (11,)), "resets": torch.rand(9, 11) < 0.3}
    given = {name: given[name] for name in names}
    expected = results(copy.deepcopy(layer).double(), x.double(), **given)
    actual = results(layer.cuda(), x.cuda(), **{name: value.cuda() for name, value in given.items()})
    for index, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        limit = TOLERANCES[torch.float32].outputs if index == 0 else TOLERANCES[torch.float32].gradients
        assert (found - wanted).abs().max() <= limit * wanted.abs().max()


def variant_results(cell: str, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Output and every gradient of a recurrence, as float64 on the CPU."""
    constants = {"zoneout", "recurrent_mask"}
    given = {name: t.detach().clone().requires_grad_(name not in constants) for name, t in given.items()}
    output = _autograd.recurrence(cell, Arguments(**given)).output
    torch.autograd.backward(output.double().square().sum())
    found = [output, *(t.grad for t in given.values() if t.grad is not None)]
    return [t.detach().double().cpu() for t in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "lstm_peephole"])
def test_variants_agree_with_float64_on_the_cpu(
    cell: str, schedule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(schedule, dtype, monkeypatch)
    spec = _ops.CELLS[cell]
    time_steps, batch, directions, size = 6, 11, 2, HIDDEN_SIZES[schedule]
    given = {
        "gates": torch.randn(time_steps, batch, directions, spec.gates, size),
        "w_hh": torch.randn(directions, spec.gates * size, size) / size**0.5,
        "zoneout": torch.rand(time_steps, batch, directions, spec.states, size),
        "recurrent_mask": torch.bernoulli(torch.full((directions, batch, size), 0.75)) / 0.75,
    }
    if spec.unit_weights > 0:
        given["unit_weights"] = torch.randn(directions, spec.unit_weights, size) / 4
        given["unit_weights"][:, -1] = torch.inf  # nothing is clipped, so that rounding turns nothing around
    given = {name: t.to(dtype) for name, t in given.items()}
    expected = variant_results(cell, {name: t.double() for name, t in given.items()})
    actual = variant_results(cell, {name: t.cuda() for name, t in given.items()})
    tolerance = TOLERANCES[dtype]
    for index, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        limit = tolerance.outputs if index == 0 else tolerance.gradients
        assert (found - wanted).abs().max() <= limit * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("schedule", "size"), [("per_step", 300), ("small_block", 37), ("one_block", 40), ("cluster", 100)]
)
@pytest.mark.parametrize("make", [fused_rnn.LSTM, fused_rnn.GRU, fused_rnn.RNN])
def test_layer_norms_agree_with_float64_on_the_cpu(
    make: Callable[..., torch.nn.RNNBase],
    schedule: str,
    size: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(schedule, dtype, monkeypatch)
    layer = make(5, size, bidirectional=True, layer_norm=True, dtype=dtype)
    x = torch.randn(6, 11, 5, dtype=dtype)
    expected = results(copy.deepcopy(layer).double(), x.double())
    on_cpu = results(copy.deepcopy(layer), x)  # norms of 16 bits may be further off than the table says
    with fused_rnn.strict():
        actual = results(layer.cuda(), x.cuda())
    for index, (found, wanted, theirs) in enumerate(zip(actual, expected, on_cpu, strict=True)):
        limit = TOLERANCES[dtype].outputs if index == 0 else TOLERANCES[dtype].gradients
        allowed = torch.maximum(limit * wanted.abs().max(), 2.0 * (theirs - wanted).abs().max())
        assert (found - wanted).abs().max() <= allowed


def test_what_a_forced_schedule_cannot_run_is_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_RNN_CUDA_SCHEDULE", "one_block")
    with pytest.raises(RuntimeError, match="one_block: needs at least"):
        fused_rnn.LSTM(4, 4096, device="cuda")(torch.zeros(2, 2, 4, device="cuda"))


def test_tensors_on_two_devices_are_refused_by_name() -> None:
    layer = fused_rnn.GRU(4, 8, device="cuda")
    with pytest.raises(RuntimeError, match=r"h_0|hx|device"):
        layer(torch.zeros(2, 2, 4, device="cuda"), torch.zeros(1, 2, 8))
