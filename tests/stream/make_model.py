"""Writes tests/stream/model.frnn, a small model with one stage of each kind, whose values are the same on any machine.

python -m tests.stream.make_model       # only after a change of the format, whose version is then another one
"""

from __future__ import annotations

from pathlib import Path

import torch

import fused_rnn

MODEL = Path(__file__).parent / "model.frnn"


def small_model() -> fused_rnn.Chain:
    """An LSTM with a projection, a GRU, tanh and Linear, with a residual."""
    layers = (
        fused_rnn.LSTM(1, 4, proj_size=2),
        fused_rnn.GRU(2, 3, bias=False),
        torch.nn.Tanh(),
        torch.nn.Linear(3, 1),
    )
    model = fused_rnn.Chain(*layers, residual=True)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float32) * (index + 3) % 17
            parameter.copy_((values / 16 - 0.5).view_as(parameter))
    return model


if __name__ == "__main__":
    fused_rnn.save_stream(small_model(), MODEL)
