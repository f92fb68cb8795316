"""What a cell that is not one says: the class, the line, the gate or state, and what to write instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import fused_rnn
from fused_rnn.cells import sigmoid, tanh, where


def cell(step: Any = None, **attributes: Any) -> Any:
    """A cell of one gate."""
    return type(
        "Faulty",
        (fused_rnn.Cell,),
        {"gates": ("a",), "step": step or (lambda _, gate, state: {"h": gate.a}), **attributes},  # noqa: ARG005
    )


def step_with_if(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": gate.a} if gate.a > 0 else {"h": -gate.a}


def step_with_truth(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": gate.a or state.h}


def step_with_torch(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": torch.sigmoid(gate.a)}


def step_with_method(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": gate.a.sigmoid()}


def step_with_math(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": math.exp(gate.a)}


def step_with_numpy(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": np.exp(gate.a)}


def step_with_power(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": gate.a**0.5}


def step_with_division(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    return {"h": gate.a * (1 / 0)}


def step_that_sets(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
    state.h = gate.a
    return {"h": gate.a}


STEPS = [
    (step_with_if, r"test_cell_errors.py:\d+, `return .* if gate.a > 0 .*`: .*use where\(condition, a, b\)"),
    (step_with_truth, r"no truth while a cell is traced: use where"),
    (step_with_torch, r"torch.sigmoid does not know .* functions of a cell are in fused_rnn.cells"),
    (step_with_method, r"a value has no 'sigmoid': the functions of a cell"),
    (step_with_math, r"a value is no number while a cell is traced"),
    (step_with_numpy, r"numpy cannot compute with a value|no number while"),
    (step_with_power, r"a power must be an integer from 1 to 16, got 0.5: use sqrt, or exp and log"),
    (step_with_division, r"division by zero"),
    (lambda _, gate, state: {"h": where(gate.a == 0, state.h, gate.a)}, r"not compared for equality: use where\(a < b"),
    (lambda _, gate, state: {"h": gate.a if gate.a != 0 else state.h}, r"not compared for equality"),
    (lambda _, gate, state: {"h": gate.a * float("nan")}, r"got one that is none \(nan\)"),  # noqa: ARG005
    (lambda _, gate, state: {"h": where((gate.a > 0) & (gate.a < 1), gate.a, state.h)}, r"one where within another"),
    (lambda _, gate, state: {"h": where(gate.a > 0 and gate.a < 1, gate.a, state.h)}, r"in place of `and`"),
    (lambda _, gate, state: {"h": max(gate.a, state.h)}, r"maximum and minimum in place of max and min"),
    (lambda _, gate, state: {"h": 2**gate.a}, r"the operators \+ - \* / and \*\* with an integer"),  # noqa: ARG005
    (lambda _, gate, state: {"h": gate.a @ state.h}, r"the operators \+ - \* /"),
    (lambda _, gate, state: {"h": gate.a**state.h}, r"a power must be .*, got a value: use sqrt, or exp and log"),
    (lambda _, gate, state: {"h": gate["a"]}, r"a gate is an attribute, not an item, got 'a'"),  # noqa: ARG005
    (lambda _, gate, state: {"h": gate.a[0]}, r"one number of one unit, which has no parts"),  # noqa: ARG005
    (lambda _, gate, state: {"h": gate.a * torch.nn.Parameter(torch.ones(1))}, r"torch.mul does not know|unit_weights"),  # noqa: ARG005
    (step_that_sets, r"state 'h' cannot be set: step returns the new states"),
    (lambda _, gate, state: {"h": gate.b}, r"Faulty has no gate 'b'; it has a"),  # noqa: ARG005
    (lambda _, gate, state: {"h": gate.a * state.c}, r"Faulty has no state 'c'; it has h"),
    (lambda _, gate, state: {"h": tanh("a") * gate.a}, r"could not convert string|must be"),  # noqa: ARG005
    (lambda _, gate, state: {"h": where(1, gate.a, state.h)}, r"where needs a comparison such as a < b, got int"),
    (lambda _, gate, state: gate.a, r"must return a dict with the new states h, got Value"),  # noqa: ARG005
    (lambda _, gate, state: {"h": gate.a, "c": gate.a}, r"the new states h, got \['c', 'h'\]"),  # noqa: ARG005
    (lambda _, gate, state: {"h": str(gate)}, r"returns a state that is no value"),  # noqa: ARG005
    (lambda _, gate, state: {"h": 2 * state.h}, r"never reads the gate a: leave it out"),  # noqa: ARG005
    (lambda _, gate, state: {"h": state.h + 0 * gate.a}, r"never changes the state h"),
]


@pytest.mark.parametrize(("step", "message"), STEPS, ids=[message for _, message in STEPS])
def test_faulty_step_is_told_by_its_line(step: Any, message: str) -> None:
    with pytest.raises(fused_rnn.CellError, match=message):
        fused_rnn.Recurrent(cell(step), 3, 4)


ATTRIBUTES = [
    ({"gates": "a"}, r"Faulty.gates must be a tuple of names, got 'a'"),
    ({"gates": ("a", "a")}, r"gates must be names as of variables, each once"),
    ({"gates": ("for",)}, r"gates must be names as of variables, .* got \('for',\)"),
    ({"gates": ("x",)}, r"a gate cannot be called 'x'"),
    ({"gates": ()}, r"must have gates or input_gates"),
    ({"input_gates": ("a",)}, r"each with a name of its own"),
    ({"unit_weights": ("hh",)}, r"names .* none of a parameter such as weight_ih, got \('hh',\)"),
    ({"unit_weights": ("w",)}, r"must take \(self, gate, state, unit\), since the cell has unit_weights"),
    ({"step": lambda _, gate, state, unit: {"h": gate.a}}, r"gate, state\), since .* no unit_weights"),  # noqa: ARG005
    ({"gates": ("a", "b"), "step": lambda _, gate, state: {"h": 0.5}}, r"never reads the gates a, b: leave them out"),  # noqa: ARG005
    ({"step": fused_rnn.Cell.step}, r"step: a cell needs a method step\(self, gate, state\)"),
    ({"states": ()}, r"states must be 1 to 4 names, got 0"),
    ({"states": ("h", "c")}, r"must return a dict with the new states h, c"),
    ({"unit_weights": ("w",), "step": lambda _, gate, state, unit: {"h": gate.a}}, r"never reads the unit weight w"),  # noqa: ARG005
    (
        {"states": ("h", "c"), "step": lambda _, gate, state: {"h": gate.a, "c": gate.a}},  # noqa: ARG005
        r"never reads the state c: it is no state then",
    ),
]


@pytest.mark.parametrize(("attributes", "message"), ATTRIBUTES, ids=[message for _, message in ATTRIBUTES])
def test_faulty_attributes_are_named(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(fused_rnn.CellError, match=message):
        fused_rnn.Recurrent(cell(**attributes), 3, 4)


def test_numbers_of_numpy_are_numbers() -> None:
    def step(self: Any, gate: Any, state: Any) -> Any:  # noqa: ARG001
        return {"h": np.float32(0.5) * tanh(gate.a) + np.float64(0.25)}

    assert "0.5" in cell(step).source()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"cell must be a fused_rnn.Cell, or a class of them, got LSTM"):
        fused_rnn.Recurrent(torch.nn.LSTM, 3, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_heads must divide hidden_size"):
        fused_rnn.SLSTM(3, 10, num_heads=4)
    with pytest.raises(TypeError, match="did you mean num_heads"):
        fused_rnn.Recurrent(cell(), 3, 4, numheads=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean return_states"):
        fused_rnn.SLSTM(3, 8, device="meta")(torch.ones(1, 1, 3, device="meta"), return_state=True)
    with pytest.raises(ValueError, match="zoneout should be"):
        fused_rnn.SLSTM(3, 8, zoneout=2.0)
    with pytest.raises(ValueError, match="recurrent_dropout needs a W_hh"):
        fused_rnn.IndRNN(3, 8, recurrent_dropout=0.1)
    layer = fused_rnn.SLSTM(3, 8, device="meta")  # which compiles nothing
    x = torch.randn(2, 1, 3, device="meta")
    with pytest.raises(TypeError, match=r"hx must be a tuple of 4 Tensors, \(h, c, n, m\), got Tensor"):
        layer(x, torch.zeros(1, 1, 8, device="meta"))
    with pytest.raises(RuntimeError, match=r"hidden\[2\]"):
        layer(x, tuple(torch.zeros(1, 1, 8 - (k == 2), device="meta") for k in range(4)))
    layer.hidden_size = 4
    with pytest.raises(RuntimeError, match="input_size, hidden_size and num_heads cannot change"):
        layer(x)


ARGUMENTS: dict[str, tuple[float, ...]] = {"clip": (0.75, -0.5, 0.5), "maximum": (0.5, 0.25), "minimum": (0.5, 0.25)}
FUNCTIONS = [name for name in fused_rnn.cells.__all__ if name[0].islower() and name not in {"build", "load", "where"}]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_and_tensors_go_through_the_same_functions(name: str) -> None:
    function = getattr(fused_rnn.cells, name)
    first, *others = ARGUMENTS.get(name, (0.5,))
    assert function(torch.tensor(first), *others).item() == pytest.approx(function(first, *others), rel=1e-6)


def test_where_takes_tensors_and_numbers() -> None:
    assert where(torch.tensor([True, False]), 1.0, 2.0).tolist() == [1.0, 2.0]
    assert where(sigmoid(0.0) > 0.25, 1.0, 2.0) == 1.0
    assert sigmoid(-800.0) == 0.0


def test_what_is_set_later_is_told() -> None:
    x = torch.randn(2, 1, 12, device="meta")
    for name, value in (("num_layers", 1), ("bidirectional", True), ("bias", False), ("proj_size", 3)):
        layer = fused_rnn.MinGRU(12, 12, num_layers=2, device="meta")
        setattr(layer, name, value)
        with pytest.raises(RuntimeError, match="incorrect number of RNN parameters"):
            layer(x)
    for name in ("recurrent_dropout", "weight_dropout"):
        with pytest.raises(ValueError, match=f"MinGRU: {name} needs a W_hh"):
            setattr(fused_rnn.MinGRU(12, 12, device="meta"), name, 0.5)
    heads = fused_rnn.SLSTM(12, 12, num_heads=3, device="meta")
    heads.num_heads = 2
    with pytest.raises(RuntimeError, match="num_heads cannot change"):
        heads(x)


@pytest.mark.parametrize("size", [(11,), (1, 12), (13,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_unit_weights_are_checked_one_by_one(size: tuple[int, ...], dtype: torch.dtype) -> None:
    names = ("u", "v")
    weighted = cell(lambda _, gate, state, unit: {"h": gate.a * unit.u + state.h * unit.v}, unit_weights=names)
    layer = fused_rnn.Recurrent(weighted, 12, 12, device="meta")
    layer.weight_v_l0 = torch.nn.Parameter(torch.zeros(size, dtype=dtype, device="meta"))
    layer.weight_u_l0 = torch.nn.Parameter(torch.zeros(24 - sum(size), device="meta"))
    with pytest.raises(RuntimeError, match=r"weight_[uv]_l0 must have shape \[12\] and the type"):
        layer(torch.randn(2, 1, 12, device="meta"))


@pytest.mark.parametrize("heads", [True, 2.0, "2", None], ids=repr)
def test_heads_are_a_whole_number(heads: Any) -> None:
    with pytest.raises(TypeError, match=r"SLSTM: num_heads should be of type int, got: "):
        fused_rnn.SLSTM(3, 8, num_heads=heads)
    assert fused_rnn.SLSTM(3, 8, num_heads=np.int64(2), device="meta").num_heads == 2
    with pytest.raises(ValueError, match="MinGRU: num_heads needs a W_hh"):
        fused_rnn.MinGRU(3, 8, num_heads=2)


def test_names_must_be_a_sequence() -> None:
    with pytest.raises(fused_rnn.CellError, match=r"Faulty.input_gates must be a tuple of names, got None"):
        fused_rnn.Recurrent(cell(input_gates=None), 3, 4)
