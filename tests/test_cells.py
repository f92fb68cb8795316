"""What only cells do: states without units, and checks of sizes before those of types, beside torch.nn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import fused_rnn

CELLS = ("LSTMCell", "GRUCell", "RNNCell")
of_every_cell = pytest.mark.parametrize("name", CELLS)


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def arguments(name: str, x: torch.Tensor, *, given: bool, units: int = 0, rows: int = 2) -> tuple[Any, ...]:
    """The input and, if `given`, a state that needs gradients."""
    shape = (rows, units) if x.dim() == 2 else (units,)
    h, c = (torch.randn(shape, dtype=x.dtype, requires_grad=True) for _ in range(2))
    return (x, *([] if not given else [(h, c) if name == "LSTMCell" else h]))


@of_every_cell
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [True, False], ids=["state", "no state"])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_a_cell_without_units_makes_empty_states_with_the_gradients_of_torch(
    name: str, bias: bool, given: bool, batched: bool
) -> None:
    theirs = getattr(torch.nn, name)(3, 0, bias)
    ours = getattr(fused_rnn, name)(3, 0, bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, requires_grad=True) if batched else torch.randn(3, requires_grad=True)
    inputs, gradients = arguments(name, x, given=given), []
    leaves = [x, *(flat(inputs[1]) if given else [])]
    for cell in (theirs, ours, fused_rnn.convert(copy.deepcopy(theirs))):
        results = flat(cell(*inputs))
        assert [tuple(result.shape) for result in results] == [(2, 0) if batched else (0,)] * len(results)
        assert len({id(result) for result in results}) == len(results)
        wanted = [*leaves, *cell.parameters()]
        gradients.append([torch.autograd.grad(r.sum(), wanted, retain_graph=True) for r in results])
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


@of_every_cell
def test_a_cell_of_fewer_than_no_units_is_refused_as_in_torch(name: str) -> None:
    for each in (torch.nn, fused_rnn):
        with pytest.raises(RuntimeError, match="negative dimension"):
            getattr(each, name)(3, -1)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_layer_without_units_is_refused_as_in_torch(name: str) -> None:
    for each in (torch.nn, fused_rnn):
        with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
            getattr(each, name)(3, 0)


@of_every_cell
@pytest.mark.parametrize(
    ("features", "units", "rows"), [(4, 5, 2), (3, 6, 2), (3, 5, 3)], ids=["input", "state", "batch of the state"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64], ids=str)
def test_wrong_sizes_are_reported_before_wrong_types(
    name: str, features: int, units: int, rows: int, dtype: torch.dtype
) -> None:
    raised = []
    for each in (torch.nn, fused_rnn):
        x, *states = arguments(name, torch.randn(2, features), given=True, units=units, rows=rows)
        states = [
            tuple(t.to(dtype) for t in state) if isinstance(state, tuple) else state.to(dtype) for state in states
        ]
        with pytest.raises(RuntimeError) as caught:
            getattr(each, name)(3, 5)(x.to(dtype), *states)
        raised.append(str(caught.value))
    assert raised[1].startswith(raised[0])


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_cell_on_the_meta_device_knows_what_torchs_knows(name: str, grad: bool) -> None:
    cells = [getattr(mode, name)(3, 5, device="meta") for mode in (torch.nn, fused_rnn)]
    with torch.set_grad_enabled(grad):
        for shape in ((3,), (2, 3)):
            theirs, ours = (cell(torch.zeros(shape, device="meta")) for cell in cells)
            if name != "LSTMCell":
                theirs, ours = (theirs,), (ours,)
            assert [(t.shape, t.dtype, t.requires_grad) for t in ours] == [
                (t.shape, t.dtype, t.requires_grad) for t in theirs
            ]
        for x in (torch.zeros(2, 7, device="meta"), torch.zeros(1, 2, 3, device="meta"), torch.zeros(7, device="meta")):
            for cell in cells:
                with pytest.raises((RuntimeError, ValueError)):
                    cell(x)
