"""The recurrence in plain torch: the operator's results, and the gates found again in what the operator saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fused_rnn import _ops, _reference, _tensors
from tests.test_autograd import CELLS, draw
from tests.tolerances import TOLERANCES, relative_error


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("time_steps", [0, 1, 5])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])
def test_plain_torch_computes_what_the_operator_does(
    cell: str, proj: int, time_steps: int, dtype: torch.dtype
) -> None:  # fmt: skip
    for with_state in (True, False):
        tensors = {name: t.detach() for name, t in draw(cell, time_steps, 3, 2, 5, proj, dtype).items()}
        names = ("gates", "w_hh", "b_hh", "w_hr", *(("h_0", "c_0") if with_state else ()))
        arguments: Any = [tensors.get(name) if name in names else None for name in (*names[:4], "h_0", "c_0")]
        expected = _ops.forward(cell, _tensors.Arguments(*arguments), True)
        actual = _reference.recurrence(cell, *arguments)
        assert len(actual) == (4 if cell == "lstm" else 2)
        for one, other in zip(actual, expected, strict=False):
            assert one.dtype == dtype
            assert relative_error(one, other.double()) <= 2 * TOLERANCES[dtype].outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_the_gates_come_back_from_what_was_saved(cell: str, dtype: torch.dtype) -> None:
    tensors = {name: t.detach() for name, t in draw(cell, 5, 3, 2, 7, dtype=dtype).items()}
    tensors["gates"][0] *= 100.0  # activations saturate: other gates give the same ones
    arguments = _tensors.Arguments(**tensors)
    result = _ops.forward(cell, arguments, True)
    gates = _reference.gates_of(cell, arguments, result.output, result.cells, result.saved)
    again = _ops.forward(cell, arguments._replace(gates=gates), True)
    assert gates.isfinite().all()
    for one, other in zip(again, result, strict=True):
        assert relative_error(one, other.double()) <= 8 * torch.finfo(dtype).eps


def test_a_gradient_where_nothing_arrives_is_none() -> None:
    x = torch.ones(2)
    assert _reference.pull(lambda x: (2 * x,), (x,), (True,), (None,)) == (None,)
    assert _reference.pull(lambda x: (2 * x,), (x,), (False,), (x,)) == (None,)


def test_tangents_by_two_gradients_are_tangents() -> None:
    x, y = torch.randn(3), torch.randn(3)
    found, missing = _reference.push(lambda x, y: (x * y, x), (x, y), (None, torch.ones(3)), (x, None))
    assert missing is None
    assert found is not None
    assert torch.equal(found, x)
