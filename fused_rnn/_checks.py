"""Checks of arguments and of the forms of the initial state, shared by all modules.

The types of the errors and the beginnings of their messages are those of torch.nn; what follows says what would fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fused_rnn._modes import are_expanded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fused_rnn._tensors import DirectionWeights

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})

Forms = tuple[tuple[str, ...], tuple[str, ...]]  # the names of an input's dimensions, without and with a batch
CELL_FORMS: Forms = (("input_size",), ("B", "input_size"))
LAYER_FORMS: Forms = (("T", "input_size"), ("T", "B", "input_size"))
BATCH_FIRST_FORMS: Forms = (("T", "input_size"), ("B", "T", "input_size"))
PACKED_FORM = ("sum of lengths", "input_size")
# The fields of DirectionWeights as users know them.
_PARAMETERS = (
    "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_peephole", "gain_ih", "gain_hh", "gain_c",
    "bias_c", "unit_weights",
)  # fmt: skip
_STATE_FORM = ("num_layers * num_directions", "B")  # and the units


class Array(Protocol):
    """A numpy array, or what has the same interface."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Lengths: TypeAlias = Tensor | Array | Sequence[int] | int  # a number where the input has no batch
Resets: TypeAlias = Tensor | Array | Sequence[Sequence[bool] | Array] | Sequence[bool]  # the last without a batch


class ArgumentTypeError(TypeError, AttributeError):
    """An argument of the wrong type; an AttributeError, too, which torch.nn raises where it asks a list for its dim."""


def check_tensor(name: str, value: object, wanted: str = "a Tensor") -> Tensor:
    """`value` is a dense tensor, whatever its type and shape, and is returned."""
    if not isinstance(value, Tensor):
        advice = ": torch.from_numpy makes one" if hasattr(value, "__array_interface__") else ""
        raise ArgumentTypeError(f"{name} must be {wanted}, got {type(value).__name__}{advice}")
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else value.dtype if value.is_quantized else value.layout
        raise NotImplementedError(f"{name} must be a dense tensor, got one that is {kind}")
    return value


def title_of(cell: str) -> str:
    """The name of a cell for people: of one written in Python its class, without the digest of its formulas."""
    return re.sub("_[0-9a-f]{12}$", "", cell)


def check_batch_size(value: object) -> None:
    """`value` counts rows."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"batch_size must be an integer above 0, got {value!r}")


def check_dimensions(owner: str, x: Any, forms: Forms) -> None:
    """`x` is a plain tensor with the dimensions of one of the forms."""
    if isinstance(x, PackedSequence):
        raise NotImplementedError(f"{owner}: input is a PackedSequence, which the layers take but not the cells")
    check_tensor(f"{owner}: input", x, "a Tensor" if forms is CELL_FORMS else "a Tensor or a PackedSequence")
    fewest, most = map(len, forms)
    if x.dim() not in (fewest, most):
        raise ValueError(
            f"{owner}: Expected input to be {fewest}D or {most}D, got {x.dim()}D instead: "
            f"input must have shape {_shape(forms[0])} or {_shape(forms[1])}, got {list(x.shape)}{_ids_hint(x)}"
        )


def _ids_hint(x: Tensor) -> str:
    """For an input of integers, whose last dimension is not that of features."""
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        return ""
    return f". input has integers ({x.dtype}): are they token ids? torch.nn.Embedding makes features of them"


def _shape(names: Sequence[str]) -> str:
    """A shape in words, e.g. (T, B, input_size)."""
    return f"({', '.join(names)})"


def check_kind(x: Tensor, weight: Tensor, mismatch: type[Exception]) -> None:
    """`x` has the weights' type, and there are kernels for it and its device; `mismatch` is raised for another type."""
    dtype = x.dtype
    if dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise mismatch(
            f"RNN input dtype ({dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({dtype}){_ids_hint(x)}"
        )
    if dtype not in DTYPES:
        names = ", ".join(sorted(map(str, DTYPES)))
        raise NotImplementedError(
            f"input has dtype {dtype}, which has no kernel; there are those for {names}{_ids_hint(x)}"
        )
    if not (x.is_cpu or x.is_cuda or x.is_meta):
        raise NotImplementedError(
            f"input is on device {x.device}, which has no kernel; there are those for cpu and cuda"
        )


def refuse_expanded_weights(owner: str, weights: Sequence[Tensor | None]) -> None:
    """The tensors are not those of torch.nn.utils' call_for_per_sample_grads, which the operators do not know."""
    if are_expanded(weights):
        raise NotImplementedError(
            f"{owner}: call_for_per_sample_grads works only with torch.nn's own operators; "
            "torch.func.vmap(torch.func.grad(...)) gives per-sample gradients"
        )


def check_device(x: Tensor, kind: str, name: str, tensor: Tensor) -> None:
    """A tensor, called `name` by users and `kind` by torch.nn, is where the input is."""
    if tensor.device != x.device:
        raise RuntimeError(
            f"Input and {kind} tensors are not at the same device, found input tensor at {x.device} and {kind} tensor "
            f"at {tensor.device}: {name} must be on {x.device}"
        )


def check_parameter_devices(x: Tensor, directions: Iterable[tuple[Sequence[str], DirectionWeights]]) -> None:
    """All parameters of each direction, beside their names, of which the first is W_ih's, are where the input is."""
    for names, parameters in directions:
        for name, parameter in zip(_PARAMETERS, parameters, strict=True):
            if parameter is not None and parameter.device != x.device:
                check_device(x, "parameter", name + names[0].removeprefix("weight_ih"), parameter)


def check_layer_input(x: Tensor, weight: Tensor, input_size: int, form: Sequence[str]) -> None:
    """The input of a layer as it was given, with the features last."""
    check_kind(x, weight, ValueError)
    if x.shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[-1]}: "
            f"input must have shape {_shape(form)}, got {list(x.shape)}"
        )


def one_state(module: object, hx: Any) -> tuple[Tensor, ...]:
    """The state in `hx`, which the caller gave."""
    return (check_tensor(f"{type(module).__name__}: hx", hx),)


def two_states(module: object, hx: Any) -> tuple[Tensor, ...]:
    """(h_0, c_0) from what the caller gave as the state of an LSTM."""
    owner = type(module).__name__
    if not isinstance(hx, (tuple, list)):
        raise ArgumentTypeError(
            f"{owner}: hx must be a tuple (h_0, c_0) of two Tensors, got {type(hx).__name__}{_lengths_hint(hx)}"
        )
    if len(hx) != 2:
        raise RuntimeError(f"{owner}: lstm expects two hidden states, hx = (h_0, c_0), got {len(hx)}")
    for index, state in enumerate(hx):
        check_tensor(f"{owner}: hx[{index}]", state)
    return hx[0], hx[1]


def _lengths_hint(hx: object) -> str:
    """For a vector of integers in the place of the state, where torch.nn's layers have no third argument."""
    if isinstance(hx, Tensor) and hx.dim() == 1 and not (hx.is_floating_point() or hx.is_complex()):
        return ": are these lengths? Give them by name, lengths=..."
    return ""


def check_layer_state_dimensions(states: Sequence[Tensor], x: Tensor) -> None:
    """The states have a batch dimension exactly where the input x has one."""
    batched, expected = x.dim() == 3, x.dim()
    if all(state.dim() == expected for state in states):
        return
    opening = "For batched 3-D input" if batched else "For unbatched 2-D input"
    form = f"as in {_shape(_state_form('hidden_size', batched))}"
    if len(states) == 1:
        (state,) = states
        raise RuntimeError(
            f"{opening}, hx should also be {expected}-D but got {state.dim()}-D tensor: {form}, got "
            f"{list(state.shape)}{_lengths_hint(state)}{_ids_hint(x)}"
        )
    given = ", ".join(f"{state.dim()}-D" for state in states)
    shapes = " and ".join(str(list(state.shape)) for state in states)
    raise RuntimeError(
        f"{opening}, hx and cx should also be {expected}-D but got ({given}) tensors: {form}, got "
        f"{shapes}{_ids_hint(x)}"
    )


def _state_form(units: str, batched: bool) -> tuple[str, ...]:
    """The names of the dimensions of a layer's state."""
    return (*_STATE_FORM[: 1 + batched], units)


def check_layer_state(
    state: Tensor, name: str, expected: tuple[int, int, int], units: str, x: Tensor, *, batch_first: bool | None
) -> None:
    """A state [L*D, B, `units`] of a layer whose input is x [T, B, I]; both have B = 1 where no batch was given.

    `batch_first` is that of the layer, None for an input that has no such order.
    """
    if state.shape != expected:
        label = name.replace("hx", "hidden")  # torch.nn's word for it
        rows, batch, width = expected
        hint = ""
        if batch_first is not None and state.shape == (rows, x.shape[0], width):
            hint = batch_hint(name, x, batch_first)
        elif state.shape == (batch, rows, width):
            hint = f": batch comes second in states, with batch_first too; give {name}.transpose(0, 1)"
        elif state.dim() == 3 and (state.shape[0], state.shape[2]) == (rows, width):
            hint = _rows_hint(name, state.shape[1], batch, leading=":, ")
        raise RuntimeError(
            f"Expected {label} size {expected}, got {list(state.shape)}: "
            f"{name} must have shape {_shape(_state_form(units, batched=True))}{hint}"
        )
    check_state_kind(state, name, x)


def batch_hint(name: str, x: Tensor, batch_first: bool) -> str:
    """For an argument whose batch has as many rows as x [T, B, I] has steps."""
    order = _shape((BATCH_FIRST_FORMS if batch_first else LAYER_FORMS)[1])
    return (
        f". The batch of {name} is {x.shape[0]} and input is read as {order}: "
        f"did you mean batch_first={not batch_first}?"
    )


def _rows_hint(name: str, given: int, batch: int, *, leading: str = "") -> str:
    """For a state of another number of rows than the input's; `leading` selects all layers where there are some."""
    opening = f". input has {batch} rows and {name} has {given}"
    if given == 1:
        return f"{opening}: give {name}.expand({'-1, ' if leading else ''}{batch}, -1)"
    if given < batch:
        return f"{opening}: is it the state of another batch? Give None to start from zero"
    return (
        f"{opening}: is this a smaller last batch? Give {name}[{leading}:{batch}] to go on with its first rows, None "
        "to start from zero, or drop_last=True to the DataLoader"
    )


def check_packed(packed: PackedSequence, lengths: Any, resets: Any) -> None:
    """The elements [N, I] of a packed sequence, which brings its own lengths."""
    if lengths is not None:
        raise ValueError("lengths must be None for a PackedSequence, which has its own")
    if resets is not None:
        raise ValueError("resets must be None for a PackedSequence: give padded input and lengths to have both")
    check_tensor("input.data", packed.data)
    if packed.data.dim() != 2:
        raise RuntimeError(
            f"input must have 2 dimensions, got {packed.data.dim()}: "
            f"input.data must have shape {_shape(PACKED_FORM)}, got {list(packed.data.shape)}{_ids_hint(packed.data)}"
        )
    for name in ("sorted_indices", "unsorted_indices"):
        order = getattr(packed, name)
        if order is not None and order.device != packed.data.device:
            raise RuntimeError(f"input.{name} is on device {order.device} but input.data is on {packed.data.device}")


def check_state_kind(state: Tensor, name: str, x: Tensor) -> None:
    """The state has the input's type and device."""
    if state.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise RuntimeError(f"{name} has dtype {state.dtype} but input has {x.dtype}: give {name}.to({x.dtype})")
    check_device(x, "hidden", name, state)


def check_cell_state_dimensions(
    owner: str, states: Sequence[Tensor], names: Sequence[str], labels: Sequence[str], x: Tensor
) -> None:
    """The states, which errors call by `names` and torch.nn's `labels`, have a batch where the input x has one."""
    for state, label in zip(states, labels, strict=False):  # no state given: nothing to check
        if state.dim() not in (1, 2):
            raise ValueError(
                f"{owner}: Expected {label} to be 1D or 2D, got {state.dim()}D instead: "
                f"it must have shape (hidden_size) or (B, hidden_size), got {list(state.shape)}"
            )
    for state, name in zip(states, names, strict=False):
        if state.dim() != x.dim():
            form = "(hidden_size)" if x.dim() == 1 else "(B, hidden_size)"
            raise RuntimeError(
                f"{name} must have shape {form} for a {x.dim()}D input, got {list(state.shape)}{_ids_hint(x)}"
            )


def check_cell_sizes(
    x: Tensor, states: Sequence[Tensor], names: Sequence[str], input_size: int, hidden_size: int
) -> None:
    """The sizes of a cell's input [B, I] and states [B, H], which come before types, as in torch.nn."""
    batch = x.shape[0]
    if x.shape[1] != input_size:
        raise RuntimeError(
            f"input has inconsistent input_size: got {x.shape[1]} expected {input_size}: "
            f"input must have shape {_shape(CELL_FORMS[1])}, got {list(x.shape)}{_ids_hint(x)}"
        )
    for index, state in enumerate(states):
        if state.shape == (batch, hidden_size):
            continue
        label = f"hidden{index}"  # torch.nn's word for it
        form = f"{names[index]} must have shape (B, hidden_size) = [{batch}, {hidden_size}], got {list(state.shape)}"
        if state.shape[0] != batch:
            hint = _rows_hint(names[index], state.shape[0], batch) if state.shape[1] == hidden_size else ""
            raise RuntimeError(
                f"Input batch size {batch} doesn't match {label} batch size {state.shape[0]}: {form}{hint}"
            )
        raise RuntimeError(
            f"{label} has inconsistent hidden_size: got {state.shape[1]}, expected {hidden_size}: {form}"
        )


def check_cell_kinds(x: Tensor, weight: Tensor, states: Sequence[Tensor], names: Sequence[str]) -> None:
    """The input and the states of a cell have the weights' type and device."""
    check_kind(x, weight, RuntimeError)
    for state, name in zip(states, names, strict=False):  # no state given: nothing to check
        check_state_kind(state, name, x)
