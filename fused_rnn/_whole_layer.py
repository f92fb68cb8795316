"""One layer on CPU as a single node of the graph: its kernel makes the gates of the input itself.

The gates of all steps, as many bytes as all else together, then never exist, and one call takes the place of several.
This is for eager calls with plain tensors of one type; everything else takes the projection and the recurrence apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fused_rnn import _ops, _route, _short_calls, _strict
from fused_rnn._autograd import (
    Given,
    RecurrenceGradients,
    RecurrenceResult,
    incoming_gradients,
    recurrence_gradients,
    wants_gradient,
)
from fused_rnn._products import product
from fused_rnn._route import Backward, Graph, Route
from fused_rnn._saved import keep, kept, may_run_in_place, own, take
from fused_rnn._tensors import Arguments, Incoming, Kept, LayerArguments, StepArguments, of_recurrence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ArgumentError = _ops.ArgumentError  # what a call raises that nobody has checked
_ABSENT = torch.empty(0, device="cpu")  # stands for a result that the call does not have
_NO_GRADIENTS: Any = LayerArguments(*[None] * len(LayerArguments._fields))  # type: ignore[arg-type]


def step(cell: str, arguments: StepArguments) -> tuple[Tensor, ...]:
    """One step of a plain cell, differentiable: h, and c where there is one, [B, H] and no views."""
    if wants_gradient(arguments):
        made = _short_calls.run(cell, arguments) if _route.may_be_short() else None
        apply = _Step.apply if made is None else _apply_step
        found: tuple[Tensor, ...] = apply(_Call(cell, 1, made=made), *arguments)
        return found
    return _ops.step(cell, *arguments)


def run(
    cell: str,
    arguments: LayerArguments,
    directions: int,
    places: Tensor | None = None,
    *,
    heads: int = 1,
    keep_cells: bool = False,
    handed_out: bool = False,
) -> RecurrenceResult:
    """The differentiable layer; `places` are those of the elements where x was packed.

    An output that is `handed_out` to the caller is [T, B, D*P], no view, and not read by the backward pass.
    """
    if wants_gradient(arguments):
        made = None
        if _route.may_be_short():
            made = _short_calls.run(cell, (*arguments, places), directions, hand_out=handed_out, heads=heads)
        apply = _Layer.apply if made is None else _apply_layer
        output, h_n, c_n, cells = apply(_Call(cell, directions, heads, handed_out, places, made), *arguments)
        return RecurrenceResult(output, h_n, _ABSENT if c_n is None else c_n, _ABSENT if cells is None else cells)
    result = _ops.layer(cell, arguments, directions, save=keep_cells, hand_out=handed_out, heads=heads)
    output = result.handed_out if handed_out else result.output
    return RecurrenceResult(output, result.h_n, result.c_n, result.cells)


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
    """X [T, B, I] with zeros beyond the lengths, for a weight gradient that is a GEMM with all of x.

    There a NaN would outlive the zero that it meets.
    """
    padding = torch.arange(x.shape[0], device=x.device).unsqueeze(1) >= lengths
    return x.masked_fill(padding.unsqueeze(2), 0.0)


class _Call(NamedTuple):
    """What `_Layer` is given beside `LayerArguments`."""

    cell: str
    directions: int
    heads: int = 1  # of each
    handed_out: bool = False
    places: Tensor | None = None
    made: Any = None  # what `_short_calls.run` has returned


class _Layer(Function):
    """The differentiable layer. Its backward pass gives second derivatives by the recurrence's own node."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Any) -> tuple[Tensor, ...]:
        """Run the operator, if it has not run, and save the tensors of the backward pass."""
        if call.made is not None:
            return _keep_short(ctx, call)
        results = _run_and_keep(ctx, call, LayerArguments._make(given), (*given, call.places))
        if _ops.CELLS[call.cell].states == 1:
            ctx.mark_non_differentiable(results.c_n, results.cells)
        return results.handed_out if call.handed_out else results.output, results.h_n, results.c_n, results.cells

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments, each only where it is asked for."""
        tensors = ctx.saved_tensors
        if ctx.short and not torch.is_grad_enabled() and _route.may_be_short():
            short = _short_calls.gradients(ctx, tensors, d_outputs)
            if short is not None:
                return short
        saved = iter(kept(ctx, tensors))
        incoming = incoming_gradients(ctx.cell, d_outputs)
        if incoming.are_zero():
            return (None, *_NO_GRADIENTS)
        given, places, results = take(LayerArguments, saved), next(saved), _kept_results(saved)
        if incoming.d_output is not None and incoming.d_output.dim() == 3:
            incoming = incoming._replace(d_output=incoming.d_output.reshape(results.output.shape))
        _, *needed = ctx.needs_input_grad
        return (None, *_changeable(_gradients(ctx, given, places, LayerArguments._make(needed), incoming, results)))


class _Step(Function):
    """A differentiable cell: the layer for one step, from and to tensors without a dimension for it."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Any) -> tuple[Tensor, ...]:
        """Run the operator, if it has not run, and save the tensors of the backward pass."""
        if call.made is not None:
            return _keep_short(ctx, call)
        results = _run_and_keep(ctx, call, _as_layer(given), given)
        h = results.h_n.squeeze_(0)
        return (h,) if _ops.CELLS[call.cell].states == 1 else (h, results.c_n.squeeze_(0))

    @staticmethod
    def backward(ctx: Any, *d_states: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments, each only where it is asked for."""
        tensors = ctx.saved_tensors
        if ctx.short and not torch.is_grad_enabled() and _route.may_be_short():
            short = _short_calls.gradients(ctx, tensors, d_states)
            if short is not None:
                return short
        saved = iter(kept(ctx, tensors))
        incoming = Incoming(None, *[None if d is None else d.unsqueeze(0) for d in d_states])
        if incoming.are_zero():
            return (None, *[None] * len(StepArguments._fields))
        given, results = _as_layer(take(StepArguments, saved)), _kept_results(saved)
        _, *needed = ctx.needs_input_grad
        found = _gradients(ctx, given, None, _as_layer(needed), incoming, results)
        x, h, c = (None if d is None else d.squeeze(0) for d in (found.x, found.h_0, found.c_0))
        d_arguments: Any = StepArguments(x, found.w_ih, found.b_ih, found.w_hh, found.b_hh, h, c)  # type: ignore[arg-type]
        return (None, *_changeable(d_arguments))


_apply_layer: Any = super(Function, _Layer).apply
_apply_step: Any = super(Function, _Step).apply
# Function.apply sees to transforms first, in Python: it looks for tensors of those that have ended, too, which are not
# plain.


def _keep_short(ctx: Any, call: _Call) -> tuple[Tensor, ...]:
    """What `_run_and_keep` does, after `_short_calls.run`."""
    results: tuple[Tensor, ...]
    results, to_save, ctx.present = call.made
    ctx.cell, ctx.directions, ctx.heads = call.cell, call.directions * call.heads, call.heads
    ctx.short, ctx.strict = True, _strict.active_in_eager()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*to_save)
    return results


def _kept_results(saved: Iterator[Any]) -> Kept:
    """`Kept`, with [0] for what there is not."""
    results: Sequence[Tensor | None] = take(Kept, saved)
    return Kept._make(_ABSENT if t is None else t for t in results)


def _changeable(gradients: Sequence[Any]) -> Sequence[Any]:
    """The same as no views where they have derivatives: torch lets nobody change a view that a Function has made."""
    if not torch.is_grad_enabled():
        return gradients
    return tuple(d if d is None or not d._is_view() else reshaped(d, d.shape) for d in gradients)


def _as_layer(given: Sequence[Any]) -> LayerArguments:
    """The arguments of a cell, or whether their gradients are needed, as those of a layer for one step."""
    x, w_ih, b_ih, w_hh, b_hh, h, c = given
    x, h, c = (t.unsqueeze(0) if isinstance(t, Tensor) else t for t in (x, h, c))
    return LayerArguments(x, w_ih, b_ih, w_hh, b_hh, None, h, c)


def _run_and_keep(ctx: Any, call: _Call, arguments: LayerArguments, given: Sequence[Tensor | None]) -> _ops.LayerResult:
    """The results of the operator, which are saved behind what the node was given."""
    cell, directions, heads, hand_out, *_ = call
    results = _ops.layer(cell, arguments, directions, save=True, hand_out=hand_out, heads=heads)
    ctx.cell, ctx.directions, ctx.heads, ctx.strict = cell, directions * heads, heads, _strict.active()
    ctx.short = False
    ctx.set_materialize_grads(False)
    own(results.saved)
    keep(ctx, (*given, *Kept(results.output, results.cells, results.saved, results.hidden)))
    return results


def _gradients(
    ctx: Any, given: LayerArguments, places: Tensor | None, need: Any, incoming: Incoming, results: Kept
) -> Any:
    """Gradients of every field of `LayerArguments`, each only where it is needed; no two of them share memory."""
    route = _route.of_gradients(incoming, given)
    if route.kind is Backward.ONE_CALL:
        return _gradients_by_one_call(ctx, given, need, incoming, results)
    if given.lengths is not None and places is None:
        given = given._replace(x=without_padding(given.x, given.lengths))
    two_biases: Any = not _ops.CELLS[ctx.cell].one_bias
    need_bias: Any = need.b_ih or (need.b_hh and not two_biases)
    need_gates, need_b_hh = need.x or need.w_ih or need_bias, need.b_hh and two_biases
    needed = Arguments(need_gates, need.w_hh, need_b_hh, need.w_hr, need.h_0, need.c_0, need.unit_weights)
    found = _recurrence_gradients(ctx, route, given, needed, incoming, results)
    d_x, d_w_ih, d_bias = _projection_gradients(given, (need.x, need.w_ih, need_bias), found.gates, places)
    d_b_ih, d_b_hh = _of_both_biases(d_bias, None if found.b_hh is None else found.b_hh.reshape(-1), need)
    return _NO_GRADIENTS._replace(
        x=d_x,
        w_ih=d_w_ih,
        b_ih=d_b_ih,
        w_hh=None if found.w_hh is None else found.w_hh.reshape(given.w_hh.shape),
        b_hh=d_b_hh,
        w_hr=None if found.w_hr is None else found.w_hr.reshape(-1, found.w_hr.shape[-1]),
        h_0=found.h_0,
        c_0=found.c_0,
        unit_weights=found.unit_weights,
    )


def _gradients_by_one_call(ctx: Any, given: LayerArguments, need: Any, incoming: Incoming, results: Kept) -> Any:
    in_place = may_run_in_place(results.saved) and _ops.can_run_in_place(ctx.cell)
    found = _ops.layer_backward(ctx.cell, incoming, given, results, need, in_place=in_place, heads=ctx.heads)
    return _NO_GRADIENTS._replace(
        **{name: getattr(found, f"d_{name}") for name in given._fields if getattr(need, name)}
    )


def _of_both_biases(d_bias: Tensor | None, d_b_hh: Tensor | None, need: Any) -> tuple[Tensor | None, Tensor | None]:
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

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ARG004
        """Likewise."""
        return tangent.view_as(tangent)


def _recurrence_gradients(
    ctx: Any, route: Route, given: LayerArguments, needed: Arguments, incoming: Incoming, results: Kept
) -> Any:
    """Gradients of every field of `Arguments`, in place of what is saved where the graph ends with this pass."""
    anchor: Any = None
    if _route.is_differentiated():  # a zero whose derivatives are those of the gates
        zeros = F.linear(given.x, given.w_ih, given.b_ih)
        if ctx.cell not in _ops.LOADED:  # else the values themselves: see _reference.anchor_of
            zeros = _Zeros.apply(zeros)  # type: ignore[no-untyped-call]
        gates = _ops.CELLS[ctx.cell].gates
        units = given.w_ih.shape[0] // (ctx.directions * gates)  # named, since there may be no steps or rows
        anchor = zeros.view(*given.x.shape[:2], ctx.directions, gates, units)
    w_hh, b_hh, w_hr = of_recurrence(given, ctx.directions)
    *_, h_0, c_0, lengths, resets, unit_weights, zoneout, mask = given
    arguments = Arguments(anchor, w_hh, b_hh, w_hr, h_0, c_0, unit_weights, None, lengths, resets, zoneout, mask)
    if route.graph is Graph.NODE:
        with _strict.resumed(ctx.strict):
            flat = (*needed, *incoming, *arguments, *results)
            return Arguments._make(RecurrenceGradients.apply(ctx.cell, ctx.heads, *flat))  # type: ignore[no-untyped-call]
    in_place = (
        route is _route.LIBRARY_GEMMS
        and may_run_in_place(results.saved)
        and _ops.can_run_in_place(ctx.cell)
        and not _ops.CELLS[ctx.cell].split
        and unit_weights is zoneout is mask is None
    )
    return recurrence_gradients(ctx.cell, ctx.heads, Given(needed, incoming, arguments, results), in_place=in_place)


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
