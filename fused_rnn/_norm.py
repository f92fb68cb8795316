"""Layer norms in plain torch: those of the input projection, and the recurrent ones of `_reference`.

Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fused_rnn import _modes, _ops
from fused_rnn._saved import keep, kept
from fused_rnn._tensors import HALF_TYPES

# The gates that one norm joins: all of an LSTM's; of a GRU r and z, and n alone. The kernels say so in csrc/cells.
_GROUPS = {"gru": [2, 1]}


def normalize_gates(cell: str, gates: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """Gates [..., G, H] after their norms, with gain and bias [G, H]."""
    sizes = _GROUPS.get(cell, [gates.shape[-2]])
    biases = [None] * len(sizes) if bias is None else bias.split_with_sizes(sizes)
    parts = zip(gates.split_with_sizes(sizes, -2), gain.split_with_sizes(sizes), biases, strict=True)
    normalized = [
        _normalize(part.flatten(-2), w.flatten(), None if b is None else b.flatten()).view(part.shape)
        for part, w, b in parts
    ]
    return normalized[0] if len(normalized) == 1 else torch.cat(normalized, -2)


def normalize_recurrent(cell: str, gates: Tensor, norm: Tensor) -> Tensor:
    """The recurrent gates [..., G, H] after their norm, whose parameters are the first rows of `norm` [N, H]."""
    rows = 2 * gates.shape[-2]
    return normalize_gates(cell, gates, norm[0:rows:2], norm[1:rows:2])


def normalize_cell_state(c: Tensor, norm: Tensor) -> Tensor:
    """The cell state [..., H] after its norm, whose parameters are the last two rows of `norm` [N, H]."""
    return _normalize(c, norm[-2], norm[-1])


def _normalize(values: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """Layer norm over the last dimension with derivatives of every order.

    Of torch's layer_norm, third derivatives and tangents of tangents are wrong (torch 2.13; pytorch issues 175754 and
    196700). So it computes values and first derivatives alone, three times as fast as single operations do.
    """
    if _modes.is_transformed() or _modes.has_tangents():
        hat, _ = _hat_of(values)
        return (hat * gain if bias is None else bias + hat * gain).to(values.dtype)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return F.layer_norm(values, values.shape[-1:], gain, bias, _ops.NORM_EPSILON)
    result: Tensor = _LayerNorm.apply(values, gain, bias)  # type: ignore[no-untyped-call]
    return result


def _hat_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values with mean 0 and variance 1, and what they were multiplied by, from single operations.

    Those of half types are float32, as inside of torch's layer_norm: float16 has neither the epsilon nor derivatives.
    """
    values = values.float() if values.dtype in HALF_TYPES else values
    centered = values - values.mean(-1, keepdim=True)  # var_mean warns of no values
    scale = torch.rsqrt(centered.square().mean(-1, keepdim=True) + _ops.NORM_EPSILON)
    return centered * scale, scale


class _LayerNorm(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        result, mean, scale = torch.native_layer_norm(values, values.shape[-1:], gain, bias, _ops.NORM_EPSILON)
        keep(ctx, (values, gain, bias, mean, scale))
        return result

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        values, gain, bias, *moments = kept(ctx)
        if not torch.is_grad_enabled():
            needed = list(ctx.needs_input_grad)
            return torch.ops.aten.native_layer_norm_backward(  # type: ignore[no-any-return]
                d, values, values.shape[-1:], *moments, gain, bias, needed
            )
        hat, scale = _hat_of(values)
        d = d.to(hat.dtype)
        g = d * gain
        d_values = scale * (g - g.mean(-1, keepdim=True) - hat * (g * hat).mean(-1, keepdim=True))
        d_gain, d_bias = (each.flatten(0, -2).sum(0).to(gain.dtype) for each in (d * hat, d))
        return d_values.to(values.dtype), d_gain, None if bias is None else d_bias
