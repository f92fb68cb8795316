"""Differentiate the recurrence of one layer: an autograd.Function around the two operators.

The forward operator keeps what the backward operator needs only when a gradient is wanted. The backward operator
returns the gradients of the gate pre-activations; weight gradients are then single GEMMs over all steps and
rows, e.g. dW_hh = sum over t of d_gates_h[t]^T h[t - 1], where h[t - 1] is the output shifted by one step.

First derivatives and vmap run the operators. Second ones and forward-mode differentiate the recurrence in plain torch.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from fused_rnn import _modes, _ops, _reference, _route, _strict, _vmap
from fused_rnn._ops import ForwardResult
from fused_rnn._route import Forward, Graph, Route
from fused_rnn._saved import keep, kept, take
from fused_rnn._tensors import Arguments, Incoming, Kept
from fused_rnn._weight_gradients import w_hh_gradient, w_hr_gradient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NO_GRADIENTS: Any = Arguments(gates=None, w_hh=None)  # type: ignore[arg-type]
_NO_TANGENTS: Any = ForwardResult(*[None] * len(ForwardResult._fields))  # type: ignore[arg-type]


class RecurrenceResult(NamedTuple):
    """What a recurrence leaves; c_n and cells have shape [0] where there is no cell state or nothing was kept."""

    output: Tensor  # [T, B, D, P]
    h_n: Tensor  # [D, B, P]
    c_n: Tensor  # [D, B, E*H]
    cells: Tensor  # [T, B, D, E*H]


def recurrence(
    cell: str, arguments: Arguments, *, heads: int = 1, keep_cells: bool = False, route: Route | None = None
) -> RecurrenceResult:
    """The recurrence by the route of its layer, differentiable in all its real arguments but the masks.

    Nothing is saved without grad, except that `keep_cells` asks for the cells.
    """
    if route is None:
        route = _route.of_recurrence()
    if route.kind is Forward.REFERENCE:
        _strict.reference_path(route.reason)
        absent = arguments.gates.new_empty(0)
        return RecurrenceResult._make((*_reference.recurrence(cell, *arguments, heads=heads), absent, absent)[:4])
    trained = wants_gradient(arguments)
    if route.graph is Graph.TRANSFORMABLE or (route.graph is Graph.NODE and trained):
        node = EagerRecurrence if route.graph is Graph.TRANSFORMABLE else DirectRecurrence
        return _recurrence_result(node.apply(cell, heads, *arguments))  # type: ignore[no-untyped-call]
    keep_cells = keep_cells or (route.graph is Graph.OPERATOR and trained)
    # A trace in grad mode would hold the registered gradients as a piece of Python.
    with torch.no_grad() if _modes.is_traced() else nullcontext():
        return _recurrence_result(_ops.forward(cell, arguments, keep_cells, heads))


def _recurrence_result(results: Sequence[Tensor]) -> RecurrenceResult:
    output, h_n, c_n, cells, *_ = results
    return RecurrenceResult(output, h_n, c_n, cells)


def wants_gradient(tensors: Sequence[Tensor | None]) -> bool:
    if torch.is_grad_enabled():
        for t in tensors:  # a loop, since short calls feel a generator
            if t is not None and t.requires_grad:
                return True
    return False


class EagerRecurrence(Function):
    """The differentiable recurrence with all that torch offers: second derivatives, vmap and tangents.

    It returns the six tensors of the operator, the last two not differentiable. One more result stands for the gates in
    the graph, `anchor`. It has their shape, but one zero for storage (a tensor with a tangent must have all): the gates
    themselves are not kept, and this is where their second derivatives arrive.
    """

    @staticmethod
    def forward(cell: str, heads: int, *given: Any) -> tuple[Tensor, ...]:
        """Run the operator and make the anchor."""
        arguments = Arguments._make(given)
        anchor = _reference.anchor_of(cell, arguments.gates, dense=_modes.has_tangents())
        return (*_ops.forward(cell, arguments, True, heads), anchor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save the tensors of the backward pass, and for tangents, which come at once, all arguments."""
        cell, ctx.heads, *given = inputs
        *found, anchor = output
        arguments, results = Arguments._make(given), ForwardResult._make(found)
        ctx.strict = _strict.active()
        _keep(ctx, cell, arguments._replace(gates=anchor), results)
        ctx.save_for_forward(*arguments, *_differentiable(cell, results))

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments, each only where it is asked for."""
        *d_results, d_anchor = d_outputs
        incoming = incoming_gradients(ctx.cell, d_results)
        found: Any = _NO_GRADIENTS
        if not incoming.are_zero():
            _, _, *need = ctx.needs_input_grad
            given = (ctx.cell, ctx.heads, *need, *incoming, *kept(ctx))
            if _route.of_gradients(incoming).graph is Graph.NODE:
                with _strict.resumed(ctx.strict):
                    found = RecurrenceGradients.apply(*given)  # type: ignore[no-untyped-call]
            else:
                found = RecurrenceGradients.forward(*given)
        d_gates, *others = found
        if d_anchor is not None:
            d_gates = d_anchor if d_gates is None else d_gates + d_anchor
        return (None, None, d_gates, *others)

    @staticmethod
    def jvp(ctx: Any, _cell: None, _heads: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Tangents of the results; None for those that are not differentiable."""
        _strict.reference_path(_route.TANGENTS.reason)
        saved = iter(ctx.saved_tensors)
        arguments, results = take(Arguments, saved), tuple(saved)
        found = _reference.push(partial(_reference.recurrence, ctx.cell, heads=ctx.heads), arguments, tangents, results)
        moving: Any = Arguments._make(tangents).gates
        anchor = torch.zeros_like(arguments.gates) if moving is None else moving
        return (*_NO_TANGENTS._replace(**dict(zip(ForwardResult._fields, found, strict=False))), anchor)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor | None, ...], Any]:
        """Run all members as one batch, whose weight gradients are then one GEMM."""
        return _vmap.batched(EagerRecurrence.apply, _vmap.RECURRENCE, info.batch_size, in_dims, arguments)


class DirectRecurrence(EagerRecurrence):
    """The same outside of transforms, without a `setup_context`, for which torch looks up a signature at every call."""

    setup_context = Function.setup_context

    @staticmethod
    def forward(ctx: Any, cell: str, heads: int, *arguments: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run the operator and save the tensors of the backward pass."""
        output = EagerRecurrence.forward(cell, heads, *arguments)
        EagerRecurrence.setup_context(ctx, (cell, heads, *arguments), output)
        return output


class Given(NamedTuple):
    """What `RecurrenceGradients` is a function of, beside the cell and its heads."""

    need: Any  # of Arguments: whether each gradient is needed
    incoming: Incoming
    arguments: Arguments  # with the anchor for gates
    results: Kept

    @classmethod
    def of(cls, given: Sequence[Any]) -> Given:
        rest = iter(given)
        return cls(take(Arguments, rest), take(Incoming, rest), take(Arguments, rest), take(Kept, rest))


class RecurrenceGradients(Function):
    """The backward pass as a node of its own, which has derivatives again: those of the recurrence in plain torch.

    Differentiable are what arrives (`Incoming`) and the arguments of the recurrence, with `anchor` in the place of the
    gates. The results of the forward pass are not, since they depend on the arguments.
    """

    generate_vmap_rule = True  # weights may be the same for all members while their gradients are not

    @staticmethod
    def forward(cell: str, heads: int, *given: Any) -> tuple[Tensor | None, ...]:
        """The gradients of the arguments, from the fields of `Given` one after the other."""
        return tuple(recurrence_gradients(cell, heads, Given.of(given)))  # vmap wants no other kind of tuple

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:  # noqa: ARG004
        """Save everything."""
        ctx.cell, ctx.heads, *given = inputs
        rest = iter(given)
        ctx.need = take(Arguments, rest)
        ctx.strict = _strict.active()
        ctx.set_materialize_grads(False)
        keep(ctx, tuple(rest), for_tangents=True)

    @staticmethod
    def backward(ctx: Any, *d_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of what arrived and of the arguments."""
        _strict.reference_path(_route.SECOND_DERIVATIVES.reason, held=ctx.strict)
        function, variables = RecurrenceGradients._in_plain_torch(ctx, kept(ctx))
        _, _, *wanted = ctx.needs_input_grad
        need: Any = Given.of(wanted)
        found = _reference.pull(function, variables, (*need.incoming, *need.arguments), d_gradients)
        return (None, None, *_NO_GRADIENTS, *found, *[None] * len(Kept._fields))

    @staticmethod
    def jvp(ctx: Any, _cell: None, _heads: None, *tangents: Any) -> tuple[Tensor | None, ...]:
        """Tangents of the gradients."""
        _strict.reference_path(_route.TANGENTS_OF_GRADIENTS.reason, held=ctx.strict)
        tensors = kept(ctx)
        function, variables = RecurrenceGradients._in_plain_torch(ctx, tensors)
        arguments = Given.of((*ctx.need, *tensors)).arguments
        gradients = [t if need else None for t, need in zip(arguments, ctx.need, strict=True)]
        moving = Given.of(tangents)
        return _reference.push(function, variables, (*moving.incoming, *moving.arguments), gradients)

    @staticmethod
    def _in_plain_torch(
        ctx: Any, tensors: Sequence[Any]
    ) -> tuple[Callable[..., tuple[Tensor | None, ...]], tuple[Tensor | None, ...]]:
        """The same gradients as a function of what arrives and the arguments, and those: gates in place of anchor."""
        _, incoming, arguments, (output, cells, saved, _) = Given.of((*ctx.need, *tensors))
        with torch.no_grad():
            gates = _reference.gates_of(ctx.cell, arguments, output, cells, saved, ctx.heads)

        def gradients(*variables: Tensor | None) -> tuple[Tensor | None, ...]:
            rest = iter(variables)
            d_results, values = take(Incoming, rest), take(Arguments, rest)
            recurrence = partial(_reference.recurrence, ctx.cell, heads=ctx.heads)
            return _reference.pull(recurrence, values, ctx.need, d_results)

        return gradients, (*incoming, *arguments._replace(gates=gates.detach() + arguments.gates))


def _differentiable(cell: str, results: ForwardResult) -> tuple[Tensor, ...]:
    """Those results of the operator that have derivatives."""
    if _ops.CELLS[cell].states == 1:
        return results.output, results.h_n
    return results.output, results.h_n, results.c_n, results.cells


def _keep(ctx: Any, cell: str, arguments: Arguments, results: ForwardResult) -> None:
    """Save what `recurrence_gradients` needs: no gate pre-activations, but what stands for them."""
    ctx.cell = cell
    ctx.set_materialize_grads(False)
    absent = (results.c_n, results.cells) if _ops.CELLS[cell].states == 1 else ()
    ctx.mark_non_differentiable(*absent, results.saved, results.hidden)
    keep(ctx, (*arguments, *Kept(results.output, results.cells, results.saved, results.hidden)))


_Operator = _ops.named_arguments("forward")


def _keep_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """The same for the operator by itself."""
    given = _Operator(*inputs)
    ctx.can_differentiate, ctx.heads = given.save, given.heads
    arguments = {name: getattr(given, name) for name in Arguments._fields}
    _keep(ctx, given.cell, Arguments(**{**arguments, "gates": None}), ForwardResult._make(output))


def _gradients_of_operator(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    if not ctx.can_differentiate:
        raise RuntimeError(
            "fused_rnn: this recurrence kept nothing for a backward pass, since torch.export or torch.jit.trace"
            " recorded it for inference: differentiate the module itself"
        )
    incoming, found = incoming_gradients(ctx.cell, d_outputs), _NO_GRADIENTS
    if not incoming.are_zero():
        saved = iter(kept(ctx))
        need = _Operator(*ctx.needs_input_grad)
        needed: Any = Arguments(**{name: getattr(need, name) for name in Arguments._fields})
        given = Given(needed, incoming, take(Arguments, saved), take(Kept, saved))
        found = recurrence_gradients(ctx.cell, ctx.heads, given)
    return tuple(_Operator(cell=None, **found._asdict(), save=None, round_factors=None, heads=None))


# What a compiler differentiates: an operator whose saved tensors know when they were changed in place, where those of a
# Function do not. Without tangents and second derivatives, which a compiler does not ask for.
torch.library.register_autograd("fused_rnn::forward", _gradients_of_operator, setup_context=_keep_for_operator)


def incoming_gradients(cell: str, d_outputs: Sequence[Tensor | None]) -> Incoming:
    """What arrives at the results; a compiler passes zeros of shape [0] for what has no derivative."""
    d_output, d_h_n, d_c_n, d_cells, *_ = d_outputs
    return Incoming(d_output, d_h_n) if _ops.CELLS[cell].states == 1 else Incoming(d_output, d_h_n, d_c_n, d_cells)


def recurrence_gradients(cell: str, heads: int, given: Given, *, in_place: bool = False) -> Any:
    """The gradients of the arguments that need them, None elsewhere; the gates themselves may be anything.

    With `in_place` the gate gradients take the memory of what is saved.
    """
    need, incoming, arguments, (output, cells, saved, hidden) = given
    if in_place:
        result = _ops.backward_in_place(cell, incoming, arguments, output, cells, saved, heads)._replace(d_gates=saved)
    else:
        result = _ops.backward(cell, incoming, arguments, output, cells, saved, heads)
    d_gates_h = result.d_gates_h
    if d_gates_h.dim() != 5:
        d_gates_h, spec = result.d_gates, _ops.CELLS[cell]
        if spec.recurrent_gates < spec.gates:  # a slice of all has no batching rule in gradients of many at once
            d_gates_h = d_gates_h[:, :, :, : spec.recurrent_gates]
    d_gates_h = d_gates_h.reshape(*d_gates_h.shape[:3], arguments.w_hh.shape[1])  # [T, B, D, R*H]
    return _NO_GRADIENTS._replace(
        gates=result.d_gates if need.gates else None,
        w_hh=w_hh_gradient(d_gates_h, output, arguments, heads) if need.w_hh else None,
        b_hh=d_gates_h.sum((0, 1)) if need.b_hh else None,
        w_hr=w_hr_gradient(result.d_projected, hidden) if need.w_hr else None,
        h_0=result.d_h_0 if need.h_0 else None,
        c_0=result.d_c_0 if need.c_0 else None,
        unit_weights=result.d_unit_weights.sum(1) if need.unit_weights else None,
        norm=result.d_norm.sum(1) if need.norm else None,
    )
