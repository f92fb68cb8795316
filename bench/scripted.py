"""A layer-norm LSTM as one wrote it for TorchScript, which runs the loop over steps without Python.

The equations are those of fused_rnn.LSTM with `layer_norm`, and so are the parameters. Each step has both GEMMs, as
was usual: the cell was a function of one input and one state.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fused_rnn

from .reference import hold_parameters, parameters_of


def _step(
    x: Tensor, h: Tensor, c: Tensor,
    w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor,
    gain_ih: Tensor, gain_hh: Tensor, gain_c: Tensor, b_c: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from_x = F.layer_norm(torch.mm(x, w_ih.t()), [w_ih.size(0)], gain_ih, b_ih)
    from_h = F.layer_norm(torch.mm(h, w_hh.t()), [w_hh.size(0)], gain_hh, b_hh)
    i, f, g, o = (from_x + from_h).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(F.layer_norm(c, [c.size(1)], gain_c, b_c)), c


def _sequence(
    x: Tensor, h: Tensor, c: Tensor,
    w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor,
    gain_ih: Tensor, gain_hh: Tensor, gain_c: Tensor, b_c: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    output: list[Tensor] = []
    for x_t in x.unbind(0):
        h, c = _step(x_t, h, c, w_ih, w_hh, b_ih, b_hh, gain_ih, gain_hh, gain_c, b_c)
        output.append(h)
    return torch.stack(output), h, c


class LSTM(torch.nn.Module):
    """One layer in one direction; the arguments are fused_rnn.LSTM's, with a layer norm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        hold_parameters(self, fused_rnn.LSTM(*args, **kwargs))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)  # it is what this is about
            self._sequence = torch.jit.script(_sequence)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Output [T, B, H] and (h_n, c_n)."""
        p = parameters_of(self)
        zero = x.new_zeros(x.shape[1], p["weight_hh"].shape[1])
        h_0, c_0 = (zero, zero) if state is None else (state[0][0], state[1][0])
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "gain_ih", "gain_hh", "gain_c", "bias_c")
        output, h, c = self._sequence(x, h_0, c_0, *(p[name] for name in names))
        return output, (h.unsqueeze(0), c.unsqueeze(0))
