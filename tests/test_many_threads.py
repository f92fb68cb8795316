"""Machines of more cores than this one: more threads than there are cores are right, and planned by the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn import _ops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNTS = (4, 8, 16, 64)
STEPS, WIDTH = 17, 24  # for which own kernels make all gradients: a library's GEMMs may differ with its threads
MAKERS: dict[str, Callable[[], torch.nn.Module]] = {
    "lstm": lambda: fused_rnn.LSTM(WIDTH, 300),
    "gru": lambda: fused_rnn.GRU(WIDTH, 300, bidirectional=True),
    "rnn": lambda: fused_rnn.RNN(WIDTH, 300, num_layers=2),
    "projected": lambda: fused_rnn.LSTM(WIDTH, 300, proj_size=70),
    "layer_norm": lambda: fused_rnn.GRU(WIDTH, 100, layer_norm=True),
    "zoneout": lambda: fused_rnn.LSTM(WIDTH, 100, zoneout=0.2).eval(),
    "bfloat16": lambda: fused_rnn.LSTM(WIDTH, 300, dtype=torch.bfloat16),
}


@pytest.fixture(autouse=True)
def _threads_of_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(layer: torch.nn.Module, rows: int) -> list[Tensor]:
    """Of a sequence whose rows end and restart: output, final states, all gradients."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, rows, WIDTH, generator=generator).to(next(layer.parameters()).dtype).requires_grad_()
    lengths, resets = (
        torch.randint(0, STEPS + 1, (rows,), generator=generator),
        torch.rand(STEPS, rows, generator=generator) < 0.2,
    )
    output, states = layer(x, lengths=lengths, resets=resets)
    finals = states if isinstance(states, tuple) else (states,)
    total = sum(t.float().square().sum() for t in (output, *finals))
    return [output, *finals, *torch.autograd.grad(total, [x, *layer.parameters()])]


@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize("name", MAKERS)
def test_many_threads_change_no_bit(name: str, rows: int) -> None:
    layer = MAKERS[name]()
    torch.set_num_threads(1)
    expected = results(layer, rows)
    for count in COUNTS:
        torch.set_num_threads(count)
        found = results(layer, rows)
        # A norm's parameters have their gradients from torch's sums.
        judged = 2 if name == "layer_norm" else len(found)
        assert all(map(torch.equal, found[:judged], expected[:judged])), count


@pytest.mark.parametrize("rows", [1, 19])
def test_many_threads_change_no_bit_of_int8(rows: int) -> None:
    layer, x = fused_rnn.quantize(fused_rnn.LSTM(WIDTH, 300, proj_size=70)), torch.randn(STEPS, rows, WIDTH)
    torch.set_num_threads(1)
    expected = layer(x)[0]
    for count in COUNTS:
        torch.set_num_threads(count)
        assert torch.equal(layer(x)[0], expected), count


def planned(cell: str, batch: int, size: int, threads: int) -> dict[str, Any]:
    problem = _ops.Problem(cell, torch.float32, 100, batch, 1, size, 0, input_size=size)
    found: dict[str, Any] = _ops.cpu_plan(problem, True, threads)
    return found


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("batch", [1, 4, 16, 64, 256])
@pytest.mark.parametrize("size", [16, 64, 256, 1024])
def test_more_threads_are_never_expected_to_take_longer(cell: str, batch: int, size: int, direction: str) -> None:
    before = None
    for threads in (1, 2, *COUNTS):
        plan = planned(cell, batch, size, threads)[direction]
        parts = plan["direction_parts"] * plan["row_parts"] * plan["unit_parts"]
        assert plan["threads"] == parts <= threads
        assert before is None or plan["step_cycles"] <= before
        before = plan["step_cycles"]


def test_small_steps_stay_on_few_threads_and_large_ones_take_all() -> None:
    for cell in ("lstm", "gru", "rnn_tanh"):
        for threads in COUNTS:
            assert planned(cell, 1, 16, threads)["forward"]["threads"] == 1
            assert planned(cell, 256, 1024, threads)["forward"]["threads"] == threads
