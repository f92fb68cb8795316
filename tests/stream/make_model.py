"""Writes small models whose values are the same on any machine: model.frnn with one stage of each kind, in version 1,
and cells.frnn with cells of version 2.

python -m tests.stream.make_model       # only after a change of the format, whose version is then another one
"""

from __future__ import annotations

from pathlib import Path

import torch

import fused_rnn

MODEL = Path(__file__).parent / "model.frnn"
CELLS = Path(__file__).parent / "cells.frnn"


def small_model() -> fused_rnn.Chain:
    """An LSTM with a projection, a GRU, tanh and Linear, with a residual."""
    layers = (
        fused_rnn.LSTM(1, 4, proj_size=2),
        fused_rnn.GRU(2, 3, bias=False),
        torch.nn.Tanh(),
        torch.nn.Linear(3, 1),
    )
    return _filled(fused_rnn.Chain(*layers, residual=True))


def cells_model() -> fused_rnn.Chain:
    """Layers with heads, with four states, with a weight of each unit, and without a W_hh."""
    layers = (fused_rnn.SLSTM(1, 4, num_heads=2), fused_rnn.IndRNN(4, 3), fused_rnn.MinGRU(3, 2, bias=False))
    return _filled(fused_rnn.Chain(*layers, torch.nn.Linear(2, 1)))


def _filled(model: fused_rnn.Chain) -> fused_rnn.Chain:
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float32) * (index + 3) % 17
            parameter.copy_((values / 16 - 0.5).view_as(parameter))
    return model


if __name__ == "__main__":
    fused_rnn.save_stream(small_model(), MODEL)
    fused_rnn.save_stream(cells_model(), CELLS)
