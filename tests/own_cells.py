"""Cells for the tests, written as a user writes them, and a layer of any cell in plain float64 torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

import fused_rnn
from bench.own_cells import OwnGRU, OwnLSTM
from fused_rnn.cells import abs as absolute
from fused_rnn.cells import clip, exp, log, maximum, minimum, relu, sigmoid, softplus, sqrt, tanh, where

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


# Those of the benchmark among them.
__all__ = ["DiagonalLSTM", "Everything", "InputGatedGRU", "OwnElman", "OwnGRU", "OwnLSTM"]


class OwnElman(fused_rnn.Cell):
    """As fused_rnn.RNN."""

    gates = ("a",)

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override] # noqa: ARG002
        return {"h": tanh(gate.a)}


class InputGatedGRU(fused_rnn.Cell):
    """A GRU whose update gate sees x alone."""

    gates = ("r", "n")
    input_gates = ("z",)

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        n = tanh(gate.x.n + sigmoid(gate.r) * gate.h.n)
        return {"h": n + sigmoid(gate.z) * (state.h - n)}


class DiagonalLSTM(fused_rnn.Cell):
    """An LSTM whose gates see x alone, with a weight of each unit."""

    input_gates = ("f", "g", "o")
    states = ("h", "c")
    unit_weights = ("u",)

    def step(self, gate: Any, state: Any, unit: Any) -> dict[str, Any]:  # type: ignore[override]
        f = sigmoid(gate.f + unit.u * state.h)
        c = f * state.c + (1 - f) * tanh(gate.g)
        return {"h": sigmoid(gate.o) * tanh(c), "c": c}


class Everything(fused_rnn.Cell):
    """Every operation, a gate that reads x alone beside one that reads h, three states, a weight and a number."""

    gates = ("a",)
    input_gates = ("b",)
    states = ("h", "c", "d")
    unit_weights = ("w",)

    def __init__(self, rate: float = 0.3) -> None:
        self.rate = rate

    def step(self, gate: Any, state: Any, unit: Any) -> dict[str, Any]:  # type: ignore[override]
        a, b = gate.a, gate.b
        kept = where(a < b, exp(-absolute(a)), softplus(b) / (1 + softplus(b)))
        c = self.rate * state.c + kept * tanh(a + unit.w * state.c)
        d = where(b >= state.d, minimum(state.d, 0.5 * b) ** 3, maximum(clip(a, -1, 1), -state.d) - relu(b))
        scale = sqrt(1 + a**2) + log(1 + exp(minimum(b, 5)))
        return {"h": c / scale + 0.1 * tanh(d) * state.h, "c": c, "d": 0.5 * tanh(d)}


def coupled_lstm(gates: Mapping[str, Tensor], state: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...]:
    f = torch.sigmoid(gates["f"])
    c = f * state[1] + (1 - f) * torch.tanh(gates["g"])
    return torch.sigmoid(gates["o"]) * torch.tanh(c), c


def slstm(gates: Mapping[str, Tensor], state: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...]:
    """Beck et al., 2024, as in the vanilla kernel of their code, with the first step told by n = 0 everywhere."""
    _, c, n, m = state
    kept = m + F.logsigmoid(gates["f"])
    m_new = gates["i"] if bool((n == 0).all()) else torch.maximum(gates["i"], kept)
    i, f = torch.exp(gates["i"] - m_new), torch.exp(kept - m_new)
    c, n = f * c + i * torch.tanh(gates["z"]), f * n + i
    return torch.sigmoid(gates["o"]) * c / n, c, n, m_new


def indrnn(gates: Mapping[str, Tensor], state: tuple[Tensor, ...], unit: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return (torch.relu(gates["a"] + unit["u"] * state[0]),)


def mingru(gates: Mapping[str, Tensor], state: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...]:
    z = torch.sigmoid(gates["z"])
    return ((1 - z) * state[0] + z * gates["n"],)


def minlstm(gates: Mapping[str, Tensor], state: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...]:
    f, i = torch.sigmoid(gates["f"]), torch.sigmoid(gates["i"])
    return (f / (f + i) * state[0] + i / (f + i) * gates["n"],)


def layer_in_torch(
    layer: Any, x: Tensor, step: Callable[..., tuple[Tensor, ...]], first: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction, from its parameters: output [T, B, H] and the final states [1, B, H]."""
    cell, size = layer._definition, layer.hidden_size
    names, recurrent = (*cell.gates, *cell.input_gates), len(cell.gates)
    heads_size = size // layer.num_heads
    shape = (recurrent, layer.num_heads, heads_size, heads_size)
    w_hh = layer.weight_hh_l0.view(shape) if recurrent else x.new_empty(0)
    state = tuple(torch.zeros(x.shape[1], size, dtype=x.dtype) for _ in cell.states)
    if first is not None:
        state = tuple(each[0] for each in first)
    unit = {name: getattr(layer, f"weight_{name}_l0") for name in cell.unit_weights}
    outputs = []
    for x_t in x:
        gates = dict(zip(names, F.linear(x_t, layer.weight_ih_l0, layer.bias_ih_l0).chunk(len(names), 1), strict=True))
        for place, name in enumerate(cell.gates):
            heads = state[0].view(-1, layer.num_heads, heads_size).unbind(1)
            product = torch.cat([h @ w.T for h, w in zip(heads, w_hh[place], strict=True)], 1)
            gates[name] = gates[name] + product + layer.bias_hh_l0[place * size : (place + 1) * size]
        state = step(gates, state, unit)
        outputs.append(state[0])
    return torch.stack(outputs), tuple(each.unsqueeze(0) for each in state)
