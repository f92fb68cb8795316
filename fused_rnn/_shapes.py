"""The shapes of the operators' results, from which compilers and the meta device know them without running a kernel.

A call with tensors of several devices, one of them meta, comes here too, whose results would then be memory that nobody
has written. So every rule looks at the devices first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fused_rnn._ops import CELLS
from fused_rnn._tensors import HALF_TYPES, Arguments, LayerArguments, by_direction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MODELS = ("x", "gates", "output", "left")
"""The argument whose device the others must have, as in the kernels: each operator has one of these."""


def _rule(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the shapes of an operator's results, for arguments that are on one device."""
    names = [argument.name for argument in getattr(torch.ops.fused_rnn, name).default._schema.arguments]
    model = next(names.index(one) for one in _MODELS if one in names)

    def register(shapes: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*given: Any) -> Any:
            _check_devices(names, given, model)
            return shapes(*given)

        torch.library.register_fake(f"fused_rnn::{name}", checked)
        return shapes

    return register


def _check_devices(names: Sequence[str], given: Sequence[Any], model: int) -> None:
    """All tensors are on the device of one of them; the words are those of the kernels."""
    device = given[model].device
    for name, value in zip(names, given, strict=True):
        if isinstance(value, Tensor) and value.device != device:
            raise RuntimeError(
                f"fused_rnn: {name} must be on the device of {names[model]}, {device}, got {value.device}"
            )


@_rule("product")
def _product_shape(left: Tensor, right: Tensor, bias: Tensor | None, wide: bool) -> Tensor:  # noqa: ARG001
    dtype = torch.float32 if wide and left.dtype in HALF_TYPES else left.dtype
    return left.new_empty(left.shape[0], right.shape[1], dtype=dtype)


@_rule("forward")
def _forward_shapes(cell: str, *given: Any) -> tuple[Tensor, ...]:
    arguments, save = Arguments._make(given[:-2]), given[-2]
    gates, w_hr, spec = arguments.gates, arguments.w_hr, CELLS[cell]
    time_steps, batch, directions, _, hidden_size = gates.shape
    width = hidden_size if w_hr is None else w_hr.shape[1]
    two_states = spec.states == 2
    sequence = (time_steps, batch, directions)
    saved = spec.saved + (arguments.zoneout is not None) + (0 if arguments.norm is None else spec.gates)
    return (
        gates.new_empty((*sequence, width)),
        gates.new_empty((directions, batch, width)),
        gates.new_empty((directions, batch, hidden_size) if two_states else (0,)),
        gates.new_empty((*sequence, hidden_size) if save and two_states else (0,)),
        gates.new_empty((*sequence, saved, hidden_size) if save else (0,)),
        gates.new_empty((*sequence, hidden_size) if save and w_hr is not None else (0,)),
    )


@_rule("layer")
def _layer_shapes(cell: str, *given: Any) -> tuple[Tensor, ...]:
    arguments, (directions, save, hand_out) = LayerArguments._make(given[:-3]), given[-3:]
    gates = CELLS[cell].gates
    shape = (*arguments.x.shape[:2], directions, gates, arguments.w_hh.shape[0] // (directions * gates))
    w_hr = None if arguments.w_hr is None else by_direction(arguments.w_hr, directions)
    as_gates = Arguments(arguments.x.new_empty(shape), arguments.w_hh, w_hr=w_hr)
    output, *others = _forward_shapes(cell, *as_gates, save, False)
    if not hand_out:
        return (output, *others, output.new_empty(0))
    handed_out = output.new_empty((*output.shape[:2], directions * output.shape[3]))
    return (output if save else output.new_empty(0), *others, handed_out)


@_rule("step")
def _step_shapes(cell: str, *given: Any) -> tuple[Tensor, Tensor]:
    x, w_hh = given[0], given[3]
    state = (x.shape[0], w_hh.shape[1])
    return x.new_empty(state), x.new_empty(state if CELLS[cell].states == 2 else (0,))


@_rule("backward")
def _backward_shapes(cell: str, *given: Any) -> tuple[Tensor, ...]:
    w_hr, output, _, saved, _, _, unit_weights, norm = given[5:13]
    spec = CELLS[cell]
    time_steps, batch, directions, _, hidden_size = saved.shape
    gates_shape = (time_steps, batch, directions, spec.gates, hidden_size)

    def of_rows(parameters: Tensor | None) -> Tensor:
        shape = (0,) if parameters is None else (directions, batch, *parameters.shape[1:])
        result: Tensor = output.new_empty(shape)
        return result

    return (
        output.new_empty(gates_shape),
        output.new_empty(gates_shape if spec.split or norm is not None else (0,)),
        output.new_empty((directions, batch, output.shape[3])),
        output.new_empty((directions, batch, hidden_size) if spec.states == 2 else (0,)),
        output.new_empty(output.shape if w_hr is not None else (0,)),
        of_rows(unit_weights),
        of_rows(norm),
    )


@_rule("backward_over_saved")
def _backward_over_saved_shapes(cell: str, *given: Any) -> tuple[Tensor, ...]:
    *tensors, lengths, resets = given
    d_gates, *others = _backward_shapes(cell, *tensors, None, None, lengths, resets, None, None, False)
    return (d_gates.new_empty(0), *others)


@_rule("layer_backward_over_saved")
@_rule("layer_backward")
def _layer_backward_shapes(cell: str, *given: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh, w_hr, output = given[4:9]
    need_x, need_w_ih, need_w_hh, need_bias, need_w_hr = given[-5:]
    spec, (_, batch, directions, width) = CELLS[cell], output.shape
    bias, hidden_size = w_ih.shape[:1], width if w_hr is None else w_hr.shape[1]
    return (
        x.new_empty(x.shape if need_x else (0,)),
        x.new_empty(w_ih.shape if need_w_ih else (0,)),
        x.new_empty(w_hh.shape if need_w_hh else (0,)),
        x.new_empty(bias if need_bias else (0,)),
        x.new_empty(bias if need_bias else (0,)),
        x.new_empty(w_hr.shape if need_w_hr else (0,)),
        x.new_empty((directions, batch, width)),
        x.new_empty((directions, batch, hidden_size) if spec.states == 2 else (0,)),
    )
