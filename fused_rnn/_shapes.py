"""The shapes of the operators' results, from which compilers and the meta device know them without running a kernel.

A call with tensors of several devices, one of them meta, comes here too, whose results would then be memory that nobody
has written. So every rule looks at the devices first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fused_rnn._ops import CELLS, named_arguments
from fused_rnn._tensors import HALF_TYPES, Arguments, by_direction

if TYPE_CHECKING:
    from collections.abc import Callable

_MODELS = ("x", "gates", "output", "left")
"""The argument whose device the others must have, as in the kernels: each operator has one of these."""


def _rule(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the shapes of an operator's results, for arguments that are on one device."""
    arguments = named_arguments(name)
    model = next(one for one in _MODELS if one in arguments._fields)

    def register(shapes: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*values: Any) -> Any:
            given = arguments(*values)
            _check_devices(given, model)
            return shapes(given)

        torch.library.register_fake(f"fused_rnn::{name}", checked)
        return shapes

    return register


def _check_devices(given: Any, model: str) -> None:
    """All tensors are on the device of one of them; the words are those of the kernels."""
    device = getattr(given, model).device
    for name, value in zip(given._fields, given, strict=True):
        if isinstance(value, Tensor) and value.device != device:
            raise RuntimeError(f"fused_rnn: {name} must be on the device of {model}, {device}, got {value.device}")


@_rule("product")
def _product_shape(given: Any) -> Tensor:
    left, right = given.left, given.right
    dtype = torch.float32 if given.wide and left.dtype in HALF_TYPES else left.dtype
    result: Tensor = left.new_empty(left.shape[0], right.shape[1], dtype=dtype)
    return result


@_rule("forward")
def _forward_shapes(given: Any) -> tuple[Tensor, ...]:
    return _results(given.cell, given, save=given.save)


def _results(cell: str, arguments: Arguments, *, save: bool) -> tuple[Tensor, ...]:
    """Those of `forward`."""
    gates, w_hr, spec = arguments.gates, arguments.w_hr, CELLS[cell]
    time_steps, batch, directions, _, hidden_size = gates.shape
    width = hidden_size if w_hr is None else w_hr.shape[1]
    others = spec.cell_states * hidden_size
    sequence = (time_steps, batch, directions)
    saved = (
        spec.saved
        + (0 if arguments.zoneout is None else spec.made_states)
        + (0 if arguments.norm is None else spec.gates)
    )
    return (
        gates.new_empty((*sequence, width)),
        gates.new_empty((directions, batch, width)),
        gates.new_empty((directions, batch, others) if others else (0,)),
        gates.new_empty((*sequence, others) if save and others else (0,)),
        gates.new_empty((*sequence, saved, hidden_size) if save else (0,)),
        gates.new_empty((*sequence, hidden_size) if save and w_hr is not None else (0,)),
    )


@_rule("layer")
def _layer_shapes(given: Any) -> tuple[Tensor, ...]:
    directions, gates = given.directions * given.heads, CELLS[given.cell].gates
    shape = (*given.x.shape[:2], directions, gates, given.w_ih.shape[0] // (directions * gates))
    w_hr = None if given.w_hr is None else by_direction(given.w_hr, directions)
    as_gates = Arguments(given.x.new_empty(shape), given.w_hh, w_hr=w_hr, zoneout=given.zoneout)
    output, *others = _results(given.cell, as_gates, save=given.save)
    if not given.hand_out:
        return (output, *others, output.new_empty(0))
    handed_out = output.new_empty((*output.shape[:2], directions * output.shape[3]))
    return (output if given.save else output.new_empty(0), *others, handed_out)


@_rule("quantized_layer")
def _quantized_layer_shapes(given: Any) -> tuple[Tensor, ...]:
    x, directions, spec = given.x, given.directions, CELLS[given.cell]
    time_steps, batch, width = x.shape[0], x.shape[1], given.w_hh.shape[1]
    hidden_size = given.w_hh.shape[0] // (directions * spec.gates)
    return (
        x.new_empty((time_steps, batch, directions * width)),
        x.new_empty((directions, batch, width)),
        x.new_empty((directions, batch, hidden_size) if spec.states == 2 else (0,)),
    )


@_rule("zoneout_mask")
def _zoneout_mask_shape(given: Any) -> Tensor:
    shape = (*given.x.shape[:2], given.directions, given.states, given.units)
    result: Tensor = given.x.new_empty(shape)
    return result


@_rule("step")
def _step_shapes(given: Any) -> tuple[Tensor, Tensor]:
    x, state = given.x, (given.x.shape[0], given.w_hh.shape[1])
    others = CELLS[given.cell].cell_states * state[1]
    return x.new_empty(state), x.new_empty((state[0], others) if others else (0,))


@_rule("backward")
def _backward_shapes(given: Any) -> tuple[Tensor, ...]:
    return _gradients(given, given.unit_weights, given.norm)


@_rule("backward_in_place")
def _backward_in_place_shapes(given: Any) -> tuple[Tensor, ...]:
    d_gates, *others = _gradients(given)
    return (d_gates.new_empty(0), *others)


def _gradients(given: Any, unit_weights: Tensor | None = None, norm: Tensor | None = None) -> tuple[Tensor, ...]:
    """The results of `backward`."""
    output, w_hr, spec = given.output, given.w_hr, CELLS[given.cell]
    time_steps, batch, directions, _, hidden_size = given.saved.shape
    sequence = (time_steps, batch, directions)

    def of_rows(parameters: Tensor | None) -> Tensor:
        shape = (0,) if parameters is None else (directions, batch, *parameters.shape[1:])
        result: Tensor = output.new_empty(shape)
        return result

    return (
        output.new_empty((*sequence, spec.gates, hidden_size)),
        output.new_empty((*sequence, spec.recurrent_gates, hidden_size) if spec.split or norm is not None else (0,)),
        output.new_empty((directions, batch, output.shape[3])),
        output.new_empty((directions, batch, spec.cell_states * hidden_size) if spec.states > 1 else (0,)),
        output.new_empty(output.shape if w_hr is not None else (0,)),
        of_rows(unit_weights),
        of_rows(norm),
    )


@_rule("layer_backward_in_place")
@_rule("layer_backward")
def _layer_backward_shapes(given: Any) -> tuple[Tensor, ...]:
    x, w_ih, w_hh, w_hr, output = given.x, given.w_ih, given.w_hh, given.w_hr, given.output
    spec, (_, batch, directions, width) = CELLS[given.cell], output.shape
    bias, hidden_size = w_ih.shape[:1], width if w_hr is None else w_hr.shape[1]
    return (
        x.new_empty(x.shape if given.need_x else (0,)),
        x.new_empty(w_ih.shape if given.need_w_ih else (0,)),
        x.new_empty(w_hh.shape if given.need_w_hh else (0,)),
        x.new_empty(bias if given.need_bias else (0,)),
        x.new_empty(w_hh.shape[:1] if given.need_bias else (0,)),
        x.new_empty(w_hr.shape if given.need_w_hr else (0,)),
        x.new_empty((directions, batch, width)),
        x.new_empty((directions, batch, spec.cell_states * hidden_size) if spec.states > 1 else (0,)),
        x.new_empty((directions, batch, spec.unit_weights, hidden_size) if spec.unit_weights else (0,)),
    )
