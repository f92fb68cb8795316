"""One plain layer on CPU as a single node of the graph: its kernel makes the gates of the input itself.

The gates of all steps, as many bytes as all else together, then never exist, and one call takes the place of several.
This is for eager calls with plain tensors of one type; everything else takes the projection and the recurrence apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from fused_rnn import _ops, _strict
from fused_rnn._autograd import (
    RecurrenceGradients,
    RecurrenceResult,
    are_mapped,
    differentiable,
    gradients_of_numbers,
    incoming_gradients,
    only_run,
    wants_gradient,
)
from fused_rnn._products import are_ours, product
from fused_rnn._tensors import DIFFERENTIABLE, LayerArguments, by_direction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PLAIN = (Tensor, torch.nn.Parameter)
_GIVEN = len(LayerArguments._fields)


def can_run(arguments: LayerArguments) -> bool:
    """Whether `run` takes a layer without variants; the compiler, transforms and autocast see to their own."""
    x = arguments.x
    if torch.compiler.is_compiling() or type(x) not in _PLAIN:
        return False
    dtype = x.dtype
    return (
        x.dim() == 3
        and x.shape[2] > 0
        and all(t is None or (type(t) in _PLAIN and t.dtype == dtype and t.is_cpu) for t in arguments[:DIFFERENTIABLE])
        and _nothing_watches()
    )


def _nothing_watches() -> bool:
    return (
        not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and not only_run()
    )


def can_step(tensors: Iterable[Tensor | None]) -> bool:
    """Whether `step` may be tried, whose operator finds out itself whether the tensors fit."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(t is None or type(t) in _PLAIN for t in tensors)
        and _nothing_watches()
    )


def step(cell: str, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """One step of a plain cell, without gradients."""
    return _ops.step(cell, *tensors)


def run(
    cell: str, arguments: LayerArguments, directions: int, places: Tensor | None = None, *, keep_cells: bool = False
) -> RecurrenceResult:
    """The layer, differentiable in all its numbers; `places` are those of the elements where x was packed."""
    if wants_gradient(arguments[:DIFFERENTIABLE]):
        return RecurrenceResult._make(_Layer.apply(cell, directions, places, *arguments))  # type: ignore[no-untyped-call]
    return RecurrenceResult._make(_ops.layer(cell, arguments, directions, keep_cells)[:4])


def without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """X [T, B, I] with zeros beyond the lengths, for a weight gradient that is a product with all of x.

    There a NaN would outlive the zero that it meets.
    """
    padding = torch.arange(x.shape[0], device=x.device).unsqueeze(1) >= lengths
    return x.masked_fill(padding.unsqueeze(2), 0.0)


class _Layer(Function):
    """The differentiable layer. Its backward pass gives second derivatives by the recurrence's own node."""

    @staticmethod
    def forward(ctx: Any, cell: str, directions: int, places: Tensor | None, *given: Any) -> tuple[Tensor, ...]:
        """Run the operator and save the tensors of the backward pass."""
        results = _ops.layer(cell, LayerArguments._make(given), directions, save=True)
        ctx.cell, ctx.directions, ctx.strict = cell, directions, _strict.active()
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*results[differentiable(cell) : 4])
        ctx.save_for_backward(*given, places, results.output, results.cells, results.saved, results.hidden)
        return results[:4]

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the numbers among the arguments, each only where it is asked for."""
        incoming = incoming_gradients(ctx.cell, d_outputs)
        if all(d is None for d in incoming):
            return (None,) * (3 + _GIVEN)
        saved = ctx.saved_tensors  # once: a recomputation unpacks each tensor once
        given, places, results = LayerArguments._make(saved[:_GIVEN]), saved[_GIVEN], saved[_GIVEN + 1 :]
        need: Any = LayerArguments._make(ctx.needs_input_grad[3:])
        if _can_be_one_call(given) and not torch.is_grad_enabled() and not are_mapped(incoming):
            return (None, None, None, *_gradients_by_one_call(ctx.cell, given, need, incoming, results))
        if given.lengths is not None and places is None:
            given = given._replace(x=without_padding(given.x, given.lengths))
        # The biases have one gradient where the gates have.
        split = _ops.CELLS[ctx.cell].split
        need_bias = need.b_ih or (need.b_hh and not split)
        needed = (need.x or need.w_ih or need_bias, need.w_hh, need.b_hh and split, *need[5:8], False, False)
        found = _recurrence_gradients(ctx, given, needed, incoming, results)
        d_gates, d_w_hh, d_b_hh, d_w_hr, d_h_0, d_c_0 = found[:6]
        d_x, d_w_ih, d_bias = _projection_gradients(given, (need.x, need.w_ih, need_bias), d_gates, places)
        d_b_hh = (d_bias if need.b_hh else None) if d_b_hh is None else d_b_hh.reshape(-1)
        d_w_hh = None if d_w_hh is None else d_w_hh.reshape(given.w_hh.shape)
        d_w_hr = None if d_w_hr is None else d_w_hr.reshape(-1, d_w_hr.shape[-1])
        d_b_ih = d_bias if need.b_ih else None
        return (None, None, None, d_x, d_w_ih, d_b_ih, d_w_hh, d_b_hh, d_w_hr, d_h_0, d_c_0, None, None)


def _can_be_one_call(given: LayerArguments) -> bool:
    x = given.x
    return all(
        w is None or are_ours(x.dtype, x.shape[0] * x.shape[1], *w.shape) for w in (given.w_ih, given.w_hh, given.w_hr)
    )


def _gradients_by_one_call(
    cell: str, given: LayerArguments, need: LayerArguments, incoming: Sequence[Any], results: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Those of `LayerArguments`."""
    wanted: Any = (need.x, need.w_ih, need.w_hh, need.b_ih or need.b_hh, need.w_hr)
    over = _may_write_over(cell)
    found = _ops.layer_backward(cell, incoming, given, results, wanted, over=over)
    d_b_hh = found.d_b_hh if _ops.CELLS[cell].split else found.d_b_ih
    gradients = (found.d_x, found.d_w_ih, found.d_b_ih, found.d_w_hh, d_b_hh, found.d_w_hr, found.d_h_0, found.d_c_0)
    return (*(d if each else None for d, each in zip(gradients, need, strict=False)), None, None)


def _may_write_over(cell: str) -> bool:
    """Whether nobody will look at what is saved after this pass."""
    return not torch._C._autograd._get_current_graph_task_keep_graph() and _ops.can_write_over_saved(cell)


class _Zeros(Function):
    """Zeros with the derivatives of the argument, whose values may be infinite."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gates: Tensor) -> Tensor:
        """Make them."""
        return torch.zeros_like(gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:  # noqa: ARG004
        """Pass on what arrives."""
        return d


def _recurrence_gradients(
    ctx: Any, given: LayerArguments, needed: Sequence[bool], incoming: Sequence[Any], results: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Those of `Arguments`, written over what is saved where the graph ends with this pass."""
    x, w_ih, b_ih, w_hh, b_hh, w_hr, h_0, c_0, lengths, resets = given
    anchor = None
    if torch.is_grad_enabled():  # a zero whose derivatives are those of the gates
        zeros: Tensor = _Zeros.apply(F.linear(x, w_ih, b_ih))  # type: ignore[no-untyped-call]
        anchor = zeros.view(*x.shape[:2], ctx.directions, _ops.CELLS[ctx.cell].gates, -1)
    stacked = (None if t is None else by_direction(t, ctx.directions) for t in (w_hh, b_hh, w_hr))
    kept = (anchor, *stacked, h_0, c_0, None, None, lengths, resets, None, None, *results)
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        with _strict.resumed(ctx.strict):
            found: Sequence[Tensor | None] = RecurrenceGradients.apply(ctx.cell, *needed, *incoming, *kept)  # type: ignore[no-untyped-call]
            return found
    over = _may_write_over(ctx.cell) and not _ops.CELLS[ctx.cell].split and not are_mapped(incoming)
    return gradients_of_numbers(ctx.cell, needed, incoming, kept, over=over)


def _projection_gradients(
    given: LayerArguments, needed: tuple[bool, bool, bool], d_gates: Tensor | None, places: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of x, W_ih and the biases, from those of the gates [T, B, D, G, H]."""
    if d_gates is None:
        return None, None, None
    multiply = torch.matmul if torch.is_grad_enabled() else product
    need_x, need_w, need_bias = needed
    time_steps, batch, width = given.x.shape
    x, d = (t.reshape(time_steps * batch, columns) for t, columns in ((given.x, width), (d_gates, given.w_ih.shape[0])))
    if places is not None:  # the padding has no part in it
        x, d = x.index_select(0, places), d.index_select(0, places)
    d_w = multiply(d.t(), x) if need_w else None
    d_bias = d.sum(0) if need_bias else None
    if not need_x:
        return None, d_w, d_bias
    d_x = multiply(d, given.w_ih)
    if places is not None:
        d_x = d_x.new_zeros(time_steps * batch, width).index_copy(0, places, d_x)
    return d_x.view(given.x.shape), d_w, d_bias
