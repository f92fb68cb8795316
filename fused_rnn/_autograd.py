"""Differentiate the recurrence of one layer: an autograd.Function around the two operators.

The forward operator keeps what the backward operator needs only when a gradient is wanted. The backward operator
returns the gradients of the gate pre-activations; weight gradients are then single matrix products over all steps and
rows, e.g. dW_hh = sum over t of d_gates_h[t]^T h[t - 1], where h[t - 1] is the output shifted by one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from fused_rnn import _ops

if TYPE_CHECKING:
    from collections.abc import Sequence

_HALF = (torch.bfloat16, torch.float16)


class RecurrenceResult(NamedTuple):
    """What a recurrence leaves; c_n and cells have shape [0] where there is no cell state or nothing was kept."""

    output: Tensor  # [T, B, D, P]
    h_n: Tensor  # [D, B, P]
    c_n: Tensor  # [D, B, H]
    cells: Tensor  # [T, B, D, H]


def recurrence(
    cell: str,
    gates: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    *,
    keep_cells: bool = False,
) -> RecurrenceResult:
    """The recurrence over gates [T, B, D, G, H], differentiable in every tensor of numbers.

    `lengths` [B] and `resets` [T, B] are those of `_ops.forward`. Nothing is saved without grad, except that
    `keep_cells` asks for the cells.
    """
    if torch.is_grad_enabled() and (
        gates.requires_grad
        or w_hh.requires_grad
        or (b_hh is not None and b_hh.requires_grad)
        or (w_hr is not None and w_hr.requires_grad)
        or (h_0 is not None and h_0.requires_grad)
        or (c_0 is not None and c_0.requires_grad)
    ):
        result = Recurrence.apply(  # type: ignore[no-untyped-call]
            cell, gates, w_hh, b_hh, w_hr, h_0, c_0, lengths, resets
        )
    else:
        result = _ops.forward(cell, gates, w_hh, b_hh, w_hr, h_0, c_0, lengths, resets, keep_cells)
    return RecurrenceResult._make(result[:4])


class Recurrence(Function):
    """The differentiable recurrence; returns all six tensors of the operator, the last two not differentiable."""

    @staticmethod
    def forward(
        cell: str,
        gates: Tensor,
        w_hh: Tensor,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
        h_0: Tensor | None,
        c_0: Tensor | None,
        lengths: Tensor | None,
        resets: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Run the operator and keep what backward needs."""
        return tuple(_ops.forward(cell, gates, w_hh, b_hh, w_hr, h_0, c_0, lengths, resets, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save the tensors of the backward pass; the gate pre-activations are not among them."""
        cell, _, w_hh, b_hh, w_hr, h_0, c_0, lengths, resets = inputs
        sequence, _, c_n, cells, saved, hidden = output
        ctx.cell = cell
        ctx.has_bias = b_hh is not None
        ctx.set_materialize_grads(False)
        if _ops.CELLS[cell].states == 2:
            ctx.mark_non_differentiable(saved, hidden)
        else:
            ctx.mark_non_differentiable(c_n, cells, saved, hidden)
        ctx.save_for_backward(w_hh, w_hr, sequence, cells, saved, hidden, h_0, c_0, lengths, resets)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of gates, w_hh, b_hh, w_hr, h_0 and c_0, each only where it is asked for."""
        incoming = d_outputs[:4]
        if _ops.CELLS[ctx.cell].states == 1:  # a compiler passes zeros of shape [0] for what is not differentiable
            incoming = (*incoming[:2], None, None)
        if all(d is None for d in incoming):
            return (None,) * 9
        needed = ctx.needs_input_grad[1:7]
        arguments = (ctx.cell, needed, *incoming, *ctx.saved_tensors)
        # Grad is enabled here only under create_graph=True, and in a compiler's trace, which keeps no graph of it.
        once = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        compute = RecurrenceGradients.apply if once else _gradients
        return (None, *compute(*arguments), None, None)


class RecurrenceGradients(Function):
    """The backward pass as a node of its own, where second derivatives will enter; today it refuses them."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor | None, ...]:
        """The gradients."""
        return _gradients(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Refuse."""
        raise NotImplementedError(
            "fused_rnn has no second derivatives yet: use torch.nn's layer where you differentiate a gradient "
            "(create_graph=True) through the recurrence"
        )


def _gradients(
    cell: str,
    needed: Sequence[bool],
    d_output: Tensor | None,
    d_h_n: Tensor | None,
    d_c_n: Tensor | None,
    d_cells: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    hidden: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of gates, w_hh, b_hh, w_hr, h_0, c_0; None where `needed` (same order) is false."""
    result = _ops.backward(
        cell, d_output, d_h_n, d_c_n, d_cells, w_hh, w_hr, output, cells, saved, h_0, c_0, lengths, resets
    )
    need_gates, need_w_hh, need_b_hh, need_w_hr, need_h_0, need_c_0 = needed
    d_gates_h = result.d_gates_h if _ops.CELLS[cell].split else result.d_gates
    d_gates_h = d_gates_h.flatten(3)  # [T, B, D, G*H]
    return (
        result.d_gates if need_gates else None,
        _w_hh_gradient(d_gates_h, output, h_0, lengths, resets) if need_w_hh else None,
        d_gates_h.sum((0, 1)) if need_b_hh else None,
        _w_hr_gradient(result.d_projected, hidden) if need_w_hr else None,
        result.d_h_0 if need_h_0 else None,
        result.d_c_0 if need_c_0 else None,
    )


def _w_hh_gradient(
    d_gates_h: Tensor, output: Tensor, h_0: Tensor | None, lengths: Tensor | None, resets: Tensor | None
) -> Tensor:
    """dW_hh [D, G*H, P] from d_gates_h [T, B, D, G*H], output [T, B, D, P] and h_0 [D, B, P].

    Lengths matter only for where the reverse direction starts: gradients and outputs of inactive steps are zero.
    """
    parts = []
    for direction in range(output.shape[2]):
        # The state before step t is the output of step t - 1, or of step t + 1 where a sequence is read from its end.
        after, before = slice(1, None), slice(None, -1)
        if direction == 1:
            after, before = before, after
        d_steps = d_gates_h[:, :, direction]
        zeroed = None if resets is None else resets[after]
        part = _sum_of_outer_products(d_steps[after], _zero_where(zeroed, output[before, :, direction]))
        if h_0 is not None and output.shape[0] > 0:  # no step, no first step
            zeroed = None if resets is None else _first_steps(resets, direction, lengths)
            first = _zero_where(zeroed, h_0[direction])
            d_first = _first_steps(d_steps, direction, lengths)
            part = _sum_of_outer_products(d_first.unsqueeze(0), first.unsqueeze(0), part)
        parts.append(part)
    return _stack(parts, output.dtype)


def _first_steps(steps: Tensor, direction: int, lengths: Tensor | None) -> Tensor:
    """The step [B, ...] of [T, B, ...] that each row starts with; some step of a row of length 0."""
    if direction == 0:
        return steps[0]
    if lengths is None:
        return steps[-1]
    last = (lengths - 1).clamp(0, steps.shape[0] - 1)
    return steps[last, torch.arange(steps.shape[1], device=steps.device)]


def _zero_where(mask: Tensor | None, values: Tensor) -> Tensor:
    """The values [..., N], zero in the rows where a mask [...] is set."""
    return values if mask is None else values.masked_fill(mask.unsqueeze(-1), 0.0)


def _w_hr_gradient(d_projected: Tensor, hidden: Tensor) -> Tensor:
    """dW_hr [D, P, H] from d_projected [T, B, D, P] and hidden [T, B, D, H]."""
    directions = range(hidden.shape[2])
    return _stack([_sum_of_outer_products(d_projected[:, :, d], hidden[:, :, d]) for d in directions], hidden.dtype)


def _sum_of_outer_products(left: Tensor, right: Tensor, base: Tensor | None = None) -> Tensor:
    """base + sum over t and b of left[t, b]^T right[t, b]: [T, B, M] and [T, B, N] to [M, N] in one product.

    The views keep the strides of the buffers, which the product takes as they are. On a CPU, half types are widened,
    also in the result: where the processor lacks instructions for them, their products are slower and less exact
    (torch 2.13 on AVX-512, [3200, 1024]^T [3200, 256]: float32 17 ms, bfloat16 68 ms, float16 758 ms).
    """
    left, right = left.flatten(0, 1), right.flatten(0, 1)
    if left.dtype in _HALF and left.device.type == "cpu":
        left, right = left.float(), right.float()
    return left.t() @ right if base is None else torch.addmm(base, left.t(), right)


def _stack(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The directions' matrices as one tensor [D, M, N] in the type of the weights."""
    stacked = parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)
    return stacked.to(dtype)
