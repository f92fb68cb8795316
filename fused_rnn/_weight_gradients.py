"""The gradients of a recurrence's matrices: single GEMMs over all steps and rows, from those of the gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fused_rnn import _reference
from fused_rnn._products import product

if TYPE_CHECKING:
    from torch import Tensor

    from fused_rnn._tensors import Arguments


def w_hh_gradient(d_gates_h: Tensor, output: Tensor, arguments: Arguments, heads: int = 1) -> Tensor:
    """dW_hh [D, R*H, P] from d_gates_h [T, B, D, R*H] and output [T, B, D, P]; D counts the heads of each direction.

    Lengths matter only for where the reverse direction starts: gradients and outputs of inactive steps are zero.
    """
    h_0, lengths, resets, mask = arguments.h_0, arguments.lengths, arguments.resets, arguments.recurrent_mask
    parts = []
    for d in range(output.shape[2]):
        backwards = d >= heads
        # The state before step t is the output of step t - 1, or of step t + 1 where a sequence is read from its end.
        after, before = slice(1, None), slice(None, -1)
        if backwards:
            after, before = before, after
        d_steps = d_gates_h[:, :, d]
        zeroed = None if resets is None else resets[after]
        vector = _reference.zero_where(zeroed, output[before, :, d])
        vector = vector if mask is None else vector * mask[d]
        part = _sum_of_outer_products(d_steps[after], vector)
        if h_0 is not None and output.shape[0] > 0:  # no step, no first step
            zeroed = None if resets is None else _first_steps(resets, lengths, backwards=backwards)
            first = _reference.zero_where(zeroed, h_0[d])
            first = first if mask is None else first * mask[d]
            d_first = _first_steps(d_steps, lengths, backwards=backwards)
            part = _sum_of_outer_products(d_first.unsqueeze(0), first.unsqueeze(0), part)
        parts.append(part)
    return _stack(parts, output.dtype)


def _first_steps(steps: Tensor, lengths: Tensor | None, *, backwards: bool) -> Tensor:
    """The step [B, ...] of [T, B, ...] that each row starts with; some step of a row of length 0."""
    if not backwards:
        return steps[0]
    if lengths is None:
        return steps[-1]
    last = (lengths - 1).clamp(0, steps.shape[0] - 1)
    return steps[last, torch.arange(steps.shape[1], device=steps.device)]


def w_hr_gradient(d_projected: Tensor, hidden: Tensor) -> Tensor:
    """dW_hr [D, P, H] from d_projected [T, B, D, P] and hidden [T, B, D, H]."""
    directions = range(hidden.shape[2])
    return _stack([_sum_of_outer_products(d_projected[:, :, d], hidden[:, :, d]) for d in directions], hidden.dtype)


def _sum_of_outer_products(left: Tensor, right: Tensor, base: Tensor | None = None) -> Tensor:
    """base + sum over t and b of left[t, b]^T right[t, b]: [T, B, M] and [T, B, N] to [M, N] in one GEMM.

    The views keep the strides of the buffers, which the GEMM takes as they are.
    """
    left, right = left.reshape(-1, left.shape[2]), right.reshape(-1, right.shape[2])
    result = product(left.t(), right, wide=True)
    return result if base is None else base + result


def _stack(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The directions' matrices as one tensor [D, M, N] in the type of the weights."""
    stacked = parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)
    return stacked.to(dtype)
