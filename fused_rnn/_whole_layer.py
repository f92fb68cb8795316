"""One plain layer on CPU as a single node of the graph: its kernel makes the gates of the input itself.

The gates of all steps, as many bytes as all else together, then never exist, and one call takes the place of several.
This is for eager calls with plain tensors of one type; everything else takes the projection and the recurrence apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fused_rnn import _modes, _ops, _strict
from fused_rnn._autograd import (
    RecurrenceGradients,
    RecurrenceResult,
    differentiable,
    gradients_of_numbers,
    incoming_gradients,
    wants_gradient,
)
from fused_rnn._products import are_ours, product
from fused_rnn._saved import keep, kept, may_write_over, own
from fused_rnn._tensors import DIFFERENTIABLE_OF_LAYER, LayerArguments, by_direction

if TYPE_CHECKING:
    from collections.abc import Sequence

ArgumentError = _ops.ArgumentError  # what a call raises that nobody has checked

_PLAIN = (Tensor, torch.nn.Parameter)
_GIVEN = len(LayerArguments._fields)


def can_run(arguments: LayerArguments) -> bool:
    """Whether `run` takes a layer without variants; the compiler, transforms and autocast see to their own."""
    x = arguments.x
    if torch.compiler.is_compiling() or type(x) not in _PLAIN:
        return False
    dtype = x.dtype
    for t in arguments[:DIFFERENTIABLE_OF_LAYER]:  # a loop, since short calls feel a generator
        if t is not None and (type(t) not in _PLAIN or t.dtype != dtype or not t.is_cpu):
            return False
    return x.dim() == 3 and not x.is_nested and x.shape[2] > 0 and _modes.is_plain()


def can_step(tensors: Sequence[Tensor | None]) -> bool:
    """Whether `step` may be tried, whose operator finds out itself whether the tensors fit."""
    x = tensors[0]
    if torch.compiler.is_compiling() or x is None:
        return False
    for t in tensors:
        if t is not None and type(t) not in _PLAIN:
            return False
    return x.is_cpu and _modes.is_plain()


def step(cell: str, tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """One step of a plain cell, differentiable: h, and c where there is one, [B, H] and no views.

    From x [B, I], w_ih, b_ih, w_hh, b_hh, h [B, H] and c [B, H].
    """
    if wants_gradient(tensors):
        found: tuple[Tensor, ...] = _Step.apply(cell, *tensors)  # type: ignore[no-untyped-call]
        return found
    return _ops.step(cell, *tensors)


def run(
    cell: str,
    arguments: LayerArguments,
    directions: int,
    places: Tensor | None = None,
    *,
    keep_cells: bool = False,
    handed_out: bool = False,
) -> RecurrenceResult:
    """The layer, differentiable in all its numbers; `places` are those of the elements where x was packed.

    An output that is `handed_out` to the caller is [T, B, D*P], no view, and not read by the backward pass.
    """
    if wants_gradient(arguments[:DIFFERENTIABLE_OF_LAYER]):
        call = (cell, directions, handed_out, places)
        return RecurrenceResult._make(_Layer.apply(*call, *arguments))  # type: ignore[no-untyped-call]
    result = _ops.layer(cell, arguments, directions, save=keep_cells, hand_out=handed_out)
    return RecurrenceResult(result.handed_out if handed_out else result.output, *result[1:4])


def flattened(steps: Tensor) -> Tensor:
    """Steps [T, B, D, N] that nobody else looks at as [T, B, D*N], which torch does not take for a view."""
    if steps.shape[2] == 1 and not steps.requires_grad:
        return steps.squeeze_(2)  # the quickest way
    return reshaped(steps, (*steps.shape[:2], steps.shape[2] * steps.shape[3]))


def reshaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor that nobody else looks at in another shape; torch does not take it for a view, so it can be detached."""
    found: Tensor = torch.ops.aten._unsafe_view.default(tensor, shape)
    return found


def without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """X [T, B, I] with zeros beyond the lengths, for a weight gradient that is a product with all of x.

    There a NaN would outlive the zero that it meets.
    """
    padding = torch.arange(x.shape[0], device=x.device).unsqueeze(1) >= lengths
    return x.masked_fill(padding.unsqueeze(2), 0.0)


class _Layer(Function):
    """The differentiable layer. Its backward pass gives second derivatives by the recurrence's own node."""

    @staticmethod
    def forward(
        ctx: Any, cell: str, directions: int, handed_out: bool, places: Tensor | None, *given: Any
    ) -> tuple[Tensor, ...]:
        """Run the operator and save the tensors of the backward pass."""
        arguments = LayerArguments._make(given)
        results = _run_and_keep(ctx, cell, directions, arguments, (*given, places), hand_out=handed_out)
        ctx.mark_non_differentiable(*results[differentiable(cell) : 4])
        return (results.handed_out if handed_out else results.output, *results[1:4])

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the numbers among the arguments, each only where it is asked for."""
        incoming = incoming_gradients(ctx.cell, d_outputs)
        if all(d is None for d in incoming):
            return (None,) * (4 + _GIVEN)
        saved = kept(ctx)
        given, places, results = LayerArguments._make(saved[:_GIVEN]), saved[_GIVEN], saved[_GIVEN + 1 :]
        d_output = incoming[0]
        if d_output is not None and d_output.dim() == 3:
            incoming = (d_output.reshape(results[0].shape), *incoming[1:])
        need: Any = LayerArguments._make(ctx.needs_input_grad[4:])
        return (None,) * 4 + _changeable(_gradients(ctx, given, places, need, incoming, results))


class _Step(Function):
    """A differentiable cell: the layer for one step, from and to tensors without a dimension for it."""

    @staticmethod
    def forward(ctx: Any, cell: str, *tensors: Any) -> tuple[Tensor, ...]:
        """Run the operator and save the tensors of the backward pass."""
        results = _run_and_keep(ctx, cell, 1, _as_layer(tensors), tensors)
        states = results[1 : 1 + _ops.CELLS[cell].states]
        return tuple([state.squeeze_(0) for state in states])

    @staticmethod
    def backward(ctx: Any, *d_states: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the numbers among the arguments, each only where it is asked for."""
        if all(d is None for d in d_states):
            return (None,) * 8
        saved = kept(ctx)
        arriving = [None if d is None else d.unsqueeze(0) for d in d_states]
        incoming = (None, *arriving, *(None,) * (3 - len(arriving)))
        need: Any = _as_layer(ctx.needs_input_grad[1:])
        found = LayerArguments._make(_gradients(ctx, _as_layer(saved[:7]), None, need, incoming, saved[7:]))
        x, h, c = (None if d is None else d.squeeze(0) for d in (found.x, found.h_0, found.c_0))
        return None, *_changeable((x, found.w_ih, found.b_ih, found.w_hh, found.b_hh, h, c))


def _changeable(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The same as no views where they have derivatives: torch lets nobody change a view that a Function has made."""
    if not torch.is_grad_enabled():
        return gradients
    return tuple(d if d is None or not d._is_view() else reshaped(d, d.shape) for d in gradients)


def _as_layer(tensors: Sequence[Any]) -> Any:
    """The arguments of a cell, or whether their gradients are needed, as those of a layer for one step."""
    x, w_ih, b_ih, w_hh, b_hh, h, c = tensors
    x, h, c = (t.unsqueeze(0) if isinstance(t, Tensor) else t for t in (x, h, c))
    return LayerArguments(x, w_ih, b_ih, w_hh, b_hh, None, h, c)


def _run_and_keep(
    ctx: Any,
    cell: str,
    directions: int,
    arguments: LayerArguments,
    given: Sequence[Tensor | None],
    *,
    hand_out: bool = False,
) -> _ops.LayerResult:
    """The results of the operator, which are saved behind what the node was given."""
    results = _ops.layer(cell, arguments, directions, save=True, hand_out=hand_out)
    ctx.cell, ctx.directions, ctx.strict = cell, directions, _strict.active()
    ctx.set_materialize_grads(False)
    own(results.saved)
    keep(ctx, (*given, results.output, results.cells, results.saved, results.hidden))
    return results


def _gradients(
    ctx: Any,
    given: LayerArguments,
    places: Tensor | None,
    need: LayerArguments,
    incoming: Sequence[Any],
    results: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Those of `LayerArguments`, each only where it is needed; no two of them share memory."""
    if _can_be_one_call(given) and not torch.is_grad_enabled() and not _modes.are_mapped(incoming):
        return _gradients_by_one_call(ctx.cell, given, need, incoming, results)
    if given.lengths is not None and places is None:
        given = given._replace(x=without_padding(given.x, given.lengths))
    # The biases have one gradient where the gates have.
    split = _ops.CELLS[ctx.cell].split
    need_bias = bool(need.b_ih or (need.b_hh and not split))
    needed: Any = (need.x or need.w_ih or need_bias, need.w_hh, need.b_hh and split, *need[5:8], False, False)
    found = _recurrence_gradients(ctx, given, needed, incoming, results)
    d_gates, d_w_hh, d_b_hh, d_w_hr, d_h_0, d_c_0 = found[:6]
    d_x, d_w_ih, d_bias = _projection_gradients(given, (bool(need.x), bool(need.w_ih), need_bias), d_gates, places)
    d_w_hh = None if d_w_hh is None else d_w_hh.reshape(given.w_hh.shape)
    d_w_hr = None if d_w_hr is None else d_w_hr.reshape(-1, d_w_hr.shape[-1])
    d_b_ih, d_b_hh = _of_both_biases(d_bias, None if d_b_hh is None else d_b_hh.reshape(-1), need)
    return d_x, d_w_ih, d_b_ih, d_w_hh, d_b_hh, d_w_hr, d_h_0, d_c_0, None, None


def _can_be_one_call(given: LayerArguments) -> bool:
    x = given.x
    dtype, rows = x.dtype, x.shape[0] * x.shape[1]
    for w in (given.w_ih, given.w_hh, given.w_hr):
        if w is not None and not are_ours(dtype, rows, *w.shape):
            return False
    return True


def _gradients_by_one_call(
    cell: str, given: LayerArguments, need: LayerArguments, incoming: Sequence[Any], results: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Those of `LayerArguments`."""
    wanted: Any = (need.x, need.w_ih, need.w_hh, need.b_ih or need.b_hh, need.w_hr)
    over = may_write_over(results[2]) and _ops.can_write_over_saved(cell)
    found = _ops.layer_backward(cell, incoming, given, results, wanted, over=over)
    gradients = (found.d_x, found.d_w_ih, found.d_b_ih, found.d_w_hh, found.d_b_hh, *found[5:8])
    given_back = [d if each else None for d, each in zip(gradients, need, strict=False)]
    return (*given_back, None, None)


def _of_both_biases(
    d_bias: Tensor | None, d_b_hh: Tensor | None, need: LayerArguments
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of b_ih and b_hh, which are `d_bias` both where the cell has no other for b_hh.

    They are tensors of their own then, since a gradient may be scaled in place.
    """
    d_b_ih = d_bias if need.b_ih else None
    if not need.b_hh or d_b_hh is not None:
        return d_b_ih, d_b_hh
    return d_b_ih, d_bias if d_b_ih is None or d_bias is None else d_bias.clone()


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
        gates = _ops.CELLS[ctx.cell].gates
        units = w_hh.shape[0] // (ctx.directions * gates)  # named, since there may be no steps or rows
        anchor = zeros.view(*x.shape[:2], ctx.directions, gates, units)
    stacked = (None if t is None else by_direction(t, ctx.directions) for t in (w_hh, b_hh, w_hr))
    kept = (anchor, *stacked, h_0, c_0, None, None, lengths, resets, None, None, *results)
    if torch.is_grad_enabled() or _modes.is_transformed():
        with _strict.resumed(ctx.strict):
            found: Sequence[Tensor | None] = RecurrenceGradients.apply(ctx.cell, *needed, *incoming, *kept)  # type: ignore[no-untyped-call]
            return found
    over = (
        may_write_over(results[2])
        and _ops.can_write_over_saved(ctx.cell)
        and not _ops.CELLS[ctx.cell].split
        and not _modes.are_mapped(incoming)
    )
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
