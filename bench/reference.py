"""The LSTM and the GRU with all that fused_rnn adds to torch.nn, in plain torch, step by step.

A layer is single and has one direction. This is what the features are verified against, in float64. What fused_rnn
draws at random is given here, as masks. The formulas are those of its documentation; nothing of its kernels is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fused_rnn


def parameters_of(layer: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters of a single layer by name, without the suffix `_l0`."""
    return {name.removesuffix("_l0"): parameter for name, parameter in layer.named_parameters()}


def hold_parameters(layer: torch.nn.Module, like: torch.nn.Module) -> None:
    """Register parameters with the names and shapes of another layer's."""
    for name, parameter in like.named_parameters():
        layer.register_parameter(name, torch.nn.Parameter(parameter.detach().clone()))


class _Layer(torch.nn.Module):
    """What the two share: everything but the formulas of a step."""

    units: int

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        *,
        lengths: Tensor | None = None,  # [B]
        resets: Tensor | None = None,  # [T, B] bool
        kept: Tensor | None = None,  # [T, B, states, H] bool: the units that zoneout keeps
        recurrent_mask: Tensor | None = None,  # [B, H], factors of h where it enters W_hh
        weight_mask: Tensor | None = None,  # like W_hh, factors
    ) -> tuple[Tensor, Any]:
        """Output [T, B, H] and final state, in torch.nn's form."""
        p = parameters_of(self)
        w_hh = p["weight_hh"] if weight_mask is None else p["weight_hh"] * weight_mask
        from_x = self._with_bias(F.linear(x, p["weight_ih"]), "ih", p)
        states = self._initial(x, state)
        output = []
        for t in range(len(x)):
            before = states if resets is None else [s.masked_fill(resets[t].unsqueeze(1), 0.0) for s in states]
            h = before[0] if recurrent_mask is None else before[0] * recurrent_mask
            after = self._step(from_x[t], self._with_bias(F.linear(h, w_hh), "hh", p), before, p)
            if kept is not None:
                after = [torch.where(kept[t, :, s], before[s], after[s]) for s in range(len(after))]
            if lengths is None:
                states = after
                output.append(after[0])
            else:
                active = (t < lengths).unsqueeze(1)
                states = [torch.where(active, new, old) for new, old in zip(after, states, strict=True)]
                output.append(after[0] * active)
        last = tuple(s.unsqueeze(0) for s in states)
        return torch.stack(output), last[0] if len(last) == 1 else last

    def _initial(self, x: Tensor, state: Any) -> list[Tensor]:
        raise NotImplementedError

    def _step(self, from_x: Tensor, from_h: Tensor, before: list[Tensor], p: dict[str, Tensor]) -> list[Tensor]:
        """The states after a step, h first, from the two pre-activations [B, G*H]."""
        raise NotImplementedError

    def _with_bias(self, gates: Tensor, of: str, p: dict[str, Tensor]) -> Tensor:
        """Pre-activations [..., G*H] after their norm, where there is one, and their bias."""
        if f"gain_{of}" not in p:
            return gates + p[f"bias_{of}"]
        sizes = self._norms(p["weight_hh"].shape[1])
        tensors = gates, p[f"gain_{of}"], p[f"bias_{of}"]
        parts = zip(*(tensor.split_with_sizes(sizes, -1) for tensor in tensors), strict=True)
        return torch.cat([F.layer_norm(part, part.shape[-1:], gain, bias) for part, gain, bias in parts], -1)

    def _norms(self, hidden_size: int) -> list[int]:
        """How many pre-activations each norm is over."""
        raise NotImplementedError


class LSTM(_Layer):
    """With a layer norm or peepholes where the parameters are there; the arguments are fused_rnn.LSTM's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        hold_parameters(self, fused_rnn.LSTM(*args, **kwargs))

    def _initial(self, x: Tensor, state: Any) -> list[Tensor]:
        return _zeros(x, parameters_of(self), 2) if state is None else [s[0] for s in state]

    def _norms(self, hidden_size: int) -> list[int]:
        return [4 * hidden_size]

    def _step(self, from_x: Tensor, from_h: Tensor, before: list[Tensor], p: dict[str, Tensor]) -> list[Tensor]:
        i, f, g, o = (from_x + from_h).chunk(4, -1)
        c = before[1]
        p_i, p_f, p_o = p["weight_peephole"].chunk(3) if "weight_peephole" in p else c.new_zeros(3)
        c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        seen = F.layer_norm(c, c.shape[-1:], p["gain_c"], p["bias_c"]) if "gain_c" in p else c
        return [torch.sigmoid(o + p_o * c) * torch.tanh(seen), c]


class GRU(_Layer):
    """With a layer norm where the parameters are there; the arguments are fused_rnn.GRU's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        hold_parameters(self, fused_rnn.GRU(*args, **kwargs))

    def _initial(self, x: Tensor, state: Any) -> list[Tensor]:
        return _zeros(x, parameters_of(self), 1) if state is None else [state[0]]

    def _norms(self, hidden_size: int) -> list[int]:
        return [2 * hidden_size, hidden_size]

    def _step(self, from_x: Tensor, from_h: Tensor, before: list[Tensor], _p: dict[str, Tensor]) -> list[Tensor]:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.chunk(3, -1), from_h.chunk(3, -1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        return [(1.0 - z) * torch.tanh(x_n + r * h_n) + z * before[0]]


def _zeros(x: Tensor, p: dict[str, Tensor], states: int) -> list[Tensor]:
    return [x.new_zeros(x.shape[1], p["weight_hh"].shape[1])] * states
