"""Differentiate the recurrence of one layer: an autograd.Function around the two operators.

The forward operator keeps what the backward operator needs only when a gradient is wanted. The backward operator
returns the gradients of the gate pre-activations; weight gradients are then single matrix products over all steps and
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

from fused_rnn import _modes, _ops, _reference, _strict, _vmap
from fused_rnn._saved import keep, kept
from fused_rnn._tensors import DIFFERENTIABLE, Arguments
from fused_rnn._weight_gradients import w_hh_gradient, w_hr_gradient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NUMBERS, _ARGUMENTS = DIFFERENTIABLE, len(Arguments._fields)
_NO_GRADIENT = (None,) * (_ARGUMENTS - _NUMBERS)  # of lengths and masks


class RecurrenceResult(NamedTuple):
    """What a recurrence leaves; c_n and cells have shape [0] where there is no cell state or nothing was kept."""

    output: Tensor  # [T, B, D, P]
    h_n: Tensor  # [D, B, P]
    c_n: Tensor  # [D, B, H]
    cells: Tensor  # [T, B, D, H]


def recurrence(cell: str, arguments: Arguments, *, keep_cells: bool = False) -> RecurrenceResult:
    """The recurrence, differentiable in every tensor of numbers but the masks.

    Nothing is saved without grad, except that `keep_cells` asks for the cells.
    """
    function: type[Function] | None
    if _lacks_kernel(arguments):
        return _in_plain_torch("layer norms on a GPU", "there is no CUDA kernel with them", cell, arguments)
    if _modes.only_run():
        function = None
    elif torch.compiler.is_compiling() or _modes.is_functionalized():
        keep_cells = keep_cells or wants_gradient(arguments)  # of the operator, whose gradients are registered
        function = None
    elif not _modes.tangents_of_tangents():
        function = _eager_function(arguments)
    else:  # torch's tangents of tangents are zero through any Function (pytorch issue 197867)
        why = "torch takes them for zero in a function with kernels"
        return _in_plain_torch("tangents of tangents", why, cell, arguments)
    if function is None:
        # A trace in grad mode would hold the registered gradients as a piece of Python.
        with torch.no_grad() if _modes.is_traced() else nullcontext():
            return RecurrenceResult._make(_ops.forward(cell, arguments, keep_cells)[:4])
    return RecurrenceResult._make(function.apply(cell, *arguments)[:4])  # type: ignore[no-untyped-call]


def _eager_function(arguments: Arguments) -> type[Function] | None:
    if _modes.hides_derivatives():
        return EagerRecurrence
    return DirectRecurrence if wants_gradient(arguments) else None


def _lacks_kernel(arguments: Arguments) -> bool:
    return arguments.norm is not None and arguments.gates.is_cuda


def _in_plain_torch(what: str, why: str, cell: str, arguments: Arguments) -> RecurrenceResult:
    _strict.reference_path(what, why)
    absent = arguments.gates.new_empty(0)
    return RecurrenceResult._make((*_reference.recurrence(cell, *arguments), absent, absent)[:4])


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
    def forward(cell: str, *arguments: Any) -> tuple[Tensor, ...]:
        """Run the operator and make the anchor."""
        gates = arguments[0]
        anchor = torch.zeros_like(gates) if _modes.has_tangents() else gates.new_zeros(()).expand(gates.shape)
        return (*_ops.forward(cell, Arguments._make(arguments), True), anchor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save the tensors of the backward pass, and for tangents, which come at once, all arguments."""
        cell, _, *arguments = inputs
        *results, anchor = output
        ctx.strict = _strict.active()
        _keep(ctx, cell, (anchor, *arguments), _ops.ForwardResult._make(results))
        ctx.save_for_forward(*inputs[1:], *results[: differentiable(cell)])

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of the numbers among the arguments, each only where it is asked for."""
        incoming, d_anchor = incoming_gradients(ctx.cell, d_outputs), d_outputs[6]
        found: tuple[Tensor | None, ...] = (None,) * _NUMBERS
        if any(d is not None for d in incoming):
            arguments = (ctx.cell, *ctx.needs_input_grad[1 : 1 + _NUMBERS], *incoming, *kept(ctx))
            if torch.is_grad_enabled() or _modes.is_transformed():
                with _strict.resumed(ctx.strict):
                    found = RecurrenceGradients.apply(*arguments)  # type: ignore[no-untyped-call]
            else:
                found = RecurrenceGradients.forward(*arguments)
        d_gates, *others = found
        if d_anchor is not None:
            d_gates = d_anchor if d_gates is None else d_gates + d_anchor
        return (None, d_gates, *others, *_NO_GRADIENT)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Tangents of the results; None for those that are not differentiable."""
        _strict.reference_path("tangents (forward-mode derivatives)", "the kernels have gradients only")
        arguments, results = ctx.saved_tensors[:_ARGUMENTS], ctx.saved_tensors[_ARGUMENTS:]
        found = _reference.push(partial(_reference.recurrence, ctx.cell), arguments, tangents, results)
        anchor = torch.zeros_like(arguments[0]) if tangents[0] is None else tangents[0]
        return (*found, *(None,) * (6 - len(found)), anchor)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor | None, ...], Any]:
        """Run all members as one batch, whose weight gradients are then one product."""
        return _vmap.batched(EagerRecurrence.apply, _vmap.RECURRENCE, info.batch_size, in_dims, arguments)


class DirectRecurrence(EagerRecurrence):
    """The same outside of transforms, without a `setup_context`, for which torch looks up a signature at every call."""

    setup_context = Function.setup_context

    @staticmethod
    def forward(ctx: Any, cell: str, *arguments: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Run the operator and save the tensors of the backward pass."""
        output = EagerRecurrence.forward(cell, *arguments)
        EagerRecurrence.setup_context(ctx, (cell, *arguments), output)
        return output


class RecurrenceGradients(Function):
    """The backward pass as a node of its own, which has derivatives again: those of the recurrence in plain torch.

    Differentiable are what arrives (d_output, d_h_n, d_c_n, d_cells) and the arguments of the recurrence, with `anchor`
    in the place of the gates. The results of the forward pass are not, since they depend on the arguments.
    """

    generate_vmap_rule = True  # weights may be the same for all members while their gradients are not

    @staticmethod
    def forward(cell: str, *arguments: Any) -> tuple[Tensor | None, ...]:
        """The gradients of the numbers; what arrives at the results comes before the saved tensors."""
        needed, incoming, rest = arguments[:_NUMBERS], arguments[_NUMBERS:][:4], arguments[_NUMBERS:][4:]
        return gradients_of_numbers(cell, needed, incoming, rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:  # noqa: ARG004
        """Save everything."""
        ctx.cell, ctx.needed, tensors = inputs[0], inputs[1 : 1 + _NUMBERS], inputs[1 + _NUMBERS :]
        ctx.strict = _strict.active()
        ctx.set_materialize_grads(False)
        keep(ctx, tensors, for_tangents=True)

    @staticmethod
    def backward(ctx: Any, *d_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of what arrived and of the arguments."""
        _strict.reference_path("second derivatives", "the kernels have first ones only", held=ctx.strict)
        function, variables = RecurrenceGradients._in_plain_torch(ctx, kept(ctx))
        wanted = ctx.needs_input_grad[1 + _NUMBERS :][: len(variables)]
        found = _reference.pull(function, variables, wanted, d_gradients)
        others = len(ctx.needs_input_grad) - 1 - _NUMBERS - len(found)
        return (*(None,) * (1 + _NUMBERS), *found, *(None,) * others)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        """Tangents of the gradients."""
        _strict.reference_path("tangents of gradients", "the kernels have gradients only", held=ctx.strict)
        tensors = kept(ctx)
        function, variables = RecurrenceGradients._in_plain_torch(ctx, tensors)
        numbers = tensors[4:][:_NUMBERS]
        gradients = [t if need else None for t, need in zip(numbers, ctx.needed, strict=True)]
        return _reference.push(function, variables, tangents[1 + _NUMBERS :][: len(variables)], gradients)

    @staticmethod
    def _in_plain_torch(
        ctx: Any, tensors: Sequence[Any]
    ) -> tuple[Callable[..., tuple[Tensor | None, ...]], tuple[Tensor | None, ...]]:
        """The same gradients as a function of what arrives and the numbers, and those: gates in place of anchor."""
        incoming, rest = tensors[:4], tensors[4:]
        arguments, (output, cells, saved, _) = Arguments._make(rest[:_ARGUMENTS]), rest[_ARGUMENTS:]
        with torch.no_grad():
            gates = _reference.gates_of(ctx.cell, arguments, output, cells, saved)
        numbers = arguments[1:_NUMBERS]
        others = arguments[_NUMBERS:]

        def recurrence(*variables: Any) -> tuple[Tensor, ...]:
            return _reference.recurrence(ctx.cell, *variables, *others)

        def gradients(*variables: Tensor | None) -> tuple[Tensor | None, ...]:
            return _reference.pull(recurrence, variables[4:], ctx.needed, variables[:4])

        return gradients, (*incoming, gates.detach() + arguments.gates, *numbers)


def _keep(ctx: Any, cell: str, arguments: Sequence[Any], results: _ops.ForwardResult) -> None:
    """Save what `gradients_of_numbers` needs; the gate pre-activations are not among it, something stands for them."""
    ctx.cell = cell
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*results[differentiable(cell) :])
    keep(ctx, (*arguments, results.output, results.cells, results.saved, results.hidden))


def _keep_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """The same for the operator by itself."""
    cell, _, *arguments, save, _ = inputs
    ctx.can_differentiate = save
    _keep(ctx, cell, (None, *arguments), _ops.ForwardResult._make(output))


def _gradients_of_operator(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of cell, the arguments, save and allow_tf32."""
    if not ctx.can_differentiate:
        raise RuntimeError(
            "fused_rnn: this recurrence kept nothing for a backward pass, since torch.export or torch.jit.trace"
            " recorded it for inference: differentiate the module itself"
        )
    incoming = incoming_gradients(ctx.cell, d_outputs)
    found: tuple[Tensor | None, ...] = (None,) * _NUMBERS
    if any(d is not None for d in incoming):
        found = gradients_of_numbers(ctx.cell, ctx.needs_input_grad[1 : 1 + _NUMBERS], incoming, kept(ctx))
    return (None, *found, *_NO_GRADIENT, None, None)


# What a compiler differentiates: an operator whose saved tensors know when they were written over, where those of a
# Function do not. Without tangents and second derivatives, which a compiler does not ask for.
torch.library.register_autograd("fused_rnn::forward", _gradients_of_operator, setup_context=_keep_for_operator)


def differentiable(cell: str) -> int:
    """How many of the operator's results are: output, h_n, and where there is a cell state c_n and cells."""
    return 2 * _ops.CELLS[cell].states


def incoming_gradients(cell: str, d_outputs: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """What arrives at output, h_n, c_n and cells; a compiler passes zeros of shape [0] for what has no derivative."""
    count = differentiable(cell)
    return (*d_outputs[:count], *(None,) * (4 - count))


def gradients_of_numbers(
    cell: str, needed: Sequence[bool], incoming: Sequence[Any], used: Sequence[Any], *, over: bool = False
) -> tuple[Tensor | None, ...]:
    """Gradients of the numbers among the arguments, None where `needed` (same order) is false.

    Incoming are d_output, d_h_n, d_c_n, d_cells; used are the arguments (the gates may be anything), output, cells,
    saved, hidden. With `over` the gate gradients take the memory of what is saved.
    """
    arguments, (output, cells, saved, hidden) = Arguments._make(used[:_ARGUMENTS]), used[_ARGUMENTS:]
    if over:
        result = _ops.backward_over_saved(cell, incoming, arguments, output, cells, saved)._replace(d_gates=saved)
    else:
        result = _ops.backward(cell, incoming, arguments, output, cells, saved)
    need: Any = Arguments(*needed)  # type: ignore[arg-type]
    d_gates_h = result.d_gates_h if result.d_gates_h.dim() == 5 else result.d_gates
    d_gates_h = d_gates_h.reshape(*d_gates_h.shape[:3], arguments.w_hh.shape[1])  # [T, B, D, G*H]
    return (
        result.d_gates if need.gates else None,
        w_hh_gradient(d_gates_h, output, arguments) if need.w_hh else None,
        d_gates_h.sum((0, 1)) if need.b_hh else None,
        w_hr_gradient(result.d_projected, hidden) if need.w_hr else None,
        result.d_h_0 if need.h_0 else None,
        result.d_c_0 if need.c_0 else None,
        result.d_unit_weights.sum(1) if need.unit_weights else None,
        result.d_norm.sum(1) if need.norm else None,
    )
