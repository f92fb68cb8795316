"""The LSTM and the GRU as cells of one's own: what the features compare with the built-in ones."""

from __future__ import annotations

from typing import Any

import fused_rnn
from fused_rnn.cells import sigmoid, tanh


class OwnLSTM(fused_rnn.Cell):
    """As fused_rnn.LSTM."""

    gates = ("i", "f", "g", "o")
    states = ("h", "c")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        i, f, o = sigmoid(gate.i), sigmoid(gate.f), sigmoid(gate.o)
        c = f * state.c + i * tanh(gate.g)
        return {"h": o * tanh(c), "c": c}


class OwnGRU(fused_rnn.Cell):
    """As fused_rnn.GRU."""

    gates = ("r", "z", "n")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        r, z = sigmoid(gate.r), sigmoid(gate.z)
        n = tanh(gate.x.n + r * gate.h.n)
        return {"h": n + z * (state.h - n)}


class LSTM(fused_rnn.Recurrent):
    """Called as fused_rnn.LSTM."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(OwnLSTM, *sizes, **options)


class GRU(fused_rnn.Recurrent):
    """Called as fused_rnn.GRU."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(OwnGRU, *sizes, **options)
