"""Steppers of layers with heads: each head takes its own block of W_hh alone, as a stepper of its own would."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

import fused_rnn
from fused_rnn import _ops
from fused_rnn._published_cells import SLSTMCell
from tests.own_cells import Everything, OwnGRU
from tests.test_ops import CELLS
from tests.tolerances import relative_error

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS, INPUTS = 6, 7
OWN: tuple[tuple[type[fused_rnn.Cell], torch.dtype], ...] = (
    (OwnGRU, torch.float32),
    (SLSTMCell, torch.float64),
    (Everything, torch.float64),
)
STORAGES = [("exact", torch.float32), ("exact", torch.float64), ("bfloat16", torch.float32), ("int8", torch.float32)]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def parameters(cell: str, heads: int, size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """W_ih, W_hh, both biases, no projection and the unit weights, each with a head of the stepper in a row."""
    spec = _ops.CELLS[cell]
    shapes = ((spec.gates * size, INPUTS), (spec.gates * size, size), (spec.gates * size,), (spec.gates * size,))
    made = [torch.randn(heads, *shape, dtype=dtype) * 0.3 for shape in shapes]
    return [*made, torch.rand(heads, spec.unit_weights, size, dtype=dtype)]


def run(cell: str, given: list[torch.Tensor], storage: str, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of a stepper of these parameters, [T, B, H], and its last states, [B, H] each."""
    *matrices, weights = given
    heads, _, size = given[1].shape
    layer = [*(t.flatten(0, 1) for t in matrices), None, weights if weights.numel() else None]
    sizes = {"batch": x.shape[1], "input_size": INPUTS, "hidden_size": size, "proj_size": 0, "heads": heads}
    stepper = _ops.make_stepper(cell, [layer], storage=storage, **sizes)
    y = x.new_empty(*x.shape[:2], heads * size)
    stepper.steps(x.data_ptr(), y.data_ptr(), len(x))
    h, c = torch.empty_like(y[0]), torch.zeros_like(y[0])
    stepper.get_state(h.data_ptr(), c.data_ptr())
    return [y, h, c]


@pytest.mark.parametrize(("storage", "dtype"), STORAGES, ids=str)
@pytest.mark.parametrize("cell", [*CELLS, "lstm_peephole"])
def test_a_head_has_the_bits_of_a_stepper_of_its_own(cell: str, storage: str, dtype: torch.dtype) -> None:
    for heads, size, batch in ((1, 16, 2), (2, 21, 1), (4, 5, 9), (4, 32, 3)):  # whole vectors and parts of them
        given, x = parameters(cell, heads, size, dtype), torch.randn(STEPS, batch, INPUTS, dtype=dtype)
        together = run(cell, given, storage, x)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            for found, expected in zip(together, run(cell, [t[head, None] for t in given], storage, x), strict=True):
                assert torch.equal(found[..., own], expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(("cell", "dtype"), OWN, ids=lambda value: getattr(value, "__name__", ""))
def test_steps_of_heads_are_those_of_the_layer(cell: type[fused_rnn.Cell], dtype: torch.dtype, heads: int) -> None:
    for size, batch in ((20, 1), (64, 9)):
        layer = fused_rnn.Recurrent(cell, INPUTS, size, num_layers=2, num_heads=heads, dtype=dtype)
        x = torch.randn(STEPS, batch, INPUTS, dtype=dtype)
        stepper = fused_rnn.Stepper(layer, batch)
        found = stepper.steps(x)
        assert relative_error(found, layer(x)[0].double()) <= (5e-6 if dtype == torch.float32 else 1e-12)
        stepper.reset()
        assert torch.equal(torch.stack([stepper.step(each) for each in x]), found)
        other, third = copy.copy(stepper), fused_rnn.Stepper(layer, batch)
        third.state = stepper.state
        again = [each.steps(x) for each in (stepper, other, third)]
        assert torch.equal(again[0], again[1])
        assert torch.equal(again[0], again[2])


def test_threads_share_the_units_of_heads() -> None:
    layer, x = fused_rnn.SLSTM(300, 600, num_layers=2, num_heads=3), torch.randn(5, 3, 300)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(fused_rnn.Stepper(layer, 3).steps(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_nothing_is_multiplied_between_heads() -> None:
    layer, x = fused_rnn.SLSTM(32, 64, num_heads=4), torch.randn(STEPS, 2, 32)
    expected = fused_rnn.Stepper(layer, 2).steps(x)
    # Of the first gate of the first head; times zero it would be NaN elsewhere.
    layer.get_parameter("weight_hh_l0")[:16].fill_(float("nan"))
    stepper = fused_rnn.Stepper(layer, 2)
    found = stepper.steps(x)
    assert found[..., :16].isnan().all()
    assert torch.equal(found[..., 16:], expected[..., 16:])
    assert stepper.weight_bytes == 4 * (4 * 64 * 32 + 4 * 64 * 16)


def test_heads_have_no_projection() -> None:
    sizes = {"batch": 1, "input_size": INPUTS, "hidden_size": 4, "proj_size": 2, "heads": 2}
    layer = parameters("lstm", 1, 4, torch.float32)
    with pytest.raises(ValueError, match="heads have no projection"):
        _ops.make_stepper("lstm", [layer], storage="exact", **sizes)
