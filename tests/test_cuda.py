"""The layers on a GPU against the same layers on the CPU, by every schedule; skipped where there is no GPU.

The longer check, with sanitizers, graphs and times, is bench/gpu_check.sh.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

import fused_rnn
from bench.verify import TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SCHEDULES = ("per_step", "one_block", "cluster", "grid")
# Schedule: the hidden size that it is tried with.
HIDDEN_SIZES = {"per_step": 37, "one_block": 37, "cluster": 200, "grid": 200}


def results(layer: torch.nn.RNNBase, x: torch.Tensor) -> list[torch.Tensor]:
    """Output and every gradient of one training step, as float64 on the CPU."""
    x = x.detach().clone().requires_grad_()
    output, _ = layer(x)
    output.double().square().sum().backward()
    found = [output, x.grad, *(p.grad for p in layer.parameters())]
    return [t.detach().double().cpu() for t in found if t is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("make", [fused_rnn.LSTM, fused_rnn.GRU, fused_rnn.RNN])
def test_a_schedule_agrees_with_float64_on_the_cpu(
    make: Callable[..., torch.nn.RNNBase], schedule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == torch.float64 and schedule != "per_step":
        pytest.skip("float64 runs by per_step alone")
    if schedule == "cluster" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters need compute capability 9.0")
    monkeypatch.setenv("FUSED_RNN_CUDA_SCHEDULE", schedule)
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    torch.manual_seed(0)
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


def test_what_a_forced_schedule_cannot_run_is_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_RNN_CUDA_SCHEDULE", "one_block")
    with pytest.raises(RuntimeError, match="one_block: needs at least"):
        fused_rnn.LSTM(4, 4096, device="cuda")(torch.zeros(2, 2, 4, device="cuda"))


def test_tensors_on_two_devices_are_refused_by_name() -> None:
    layer = fused_rnn.GRU(4, 8, device="cuda")
    with pytest.raises(RuntimeError, match=r"h_0|hx|device"):
        layer(torch.zeros(2, 2, 4, device="cuda"), torch.zeros(1, 2, 8))
