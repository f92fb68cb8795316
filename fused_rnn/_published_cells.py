"""Cells of the literature, written as users write theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_rnn.cells import Cell, exp, log_sigmoid, maximum, minimum, relu, sigmoid, tanh, where

if TYPE_CHECKING:
    from torch import Tensor


class CoupledLSTMCell(Cell):
    """The LSTM with coupled input and forget gates (Greff et al., 2017): i = 1 - f."""

    gates = ("f", "g", "o")
    states = ("h", "c")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        f = sigmoid(gate.f)
        c = f * state.c + (1 - f) * tanh(gate.g)
        return {"h": sigmoid(gate.o) * tanh(c), "c": c}


class SLSTMCell(Cell):
    """The sLSTM (Beck et al., 2024, equations 8 to 17): an exponential input gate, stabilized by m.

    The forget gate is a sigmoid. Where n is 0, which only a first step has, the stabilizer is the input gate's, as in
    the authors' code.
    """

    gates = ("i", "f", "z", "o")
    states = ("h", "c", "n", "m")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        kept = log_sigmoid(gate.f) + state.m
        m = where(state.n <= 0, gate.i, maximum(gate.i, kept))
        i = minimum(exp(gate.i - m), 1)
        f = minimum(exp(kept - m), 1)
        c = f * state.c + i * tanh(gate.z)
        n = f * state.n + i
        return {"h": sigmoid(gate.o) * c / n, "c": c, "n": n, "m": m}


class IndRNNCell(Cell):
    """The independently recurrent network (Li et al., 2018): each unit sees itself alone, with a weight of its own."""

    input_gates = ("a",)
    unit_weights = ("u",)

    def step(self, gate: Any, state: Any, unit: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        return {"h": relu(gate.a + unit.u * state.h)}

    def reset_parameters(self, parameters: dict[str, Tensor]) -> None:
        """The units' weights between 0 and 1."""
        parameters["u"].uniform_(0, 1)


class MinGRUCell(Cell):
    """The minimal GRU (Feng et al., 2024), whose gates see x alone."""

    input_gates = ("z", "n")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        z = sigmoid(gate.z)
        return {"h": (1 - z) * state.h + z * gate.n}


class MinLSTMCell(Cell):
    """The minimal LSTM (Feng et al., 2024), whose gates see x alone and sum to 1."""

    input_gates = ("f", "i", "n")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        f, i = sigmoid(gate.f), sigmoid(gate.i)
        return {"h": (f * state.h + i * gate.n) / (f + i)}
