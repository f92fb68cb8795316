"""Checks of arguments and of the forms of the initial state, shared by all modules.

The types of the errors and the beginnings of their messages are those of torch.nn; what follows says what would fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def check_dimensions(owner: str, x: Any, allowed: tuple[int, int]) -> None:
    """`x` is a plain tensor of one of two numbers of dimensions, unbatched or batched."""
    if isinstance(x, PackedSequence):
        raise NotImplementedError(f"{owner}: input is a PackedSequence, which the layers take but not the cells")
    if x.dim() not in allowed:
        raise ValueError(f"{owner}: Expected input to be {allowed[0]}D or {allowed[1]}D, got {x.dim()}D instead")


def check_kind(x: Tensor, weight: Tensor, mismatch: type[Exception]) -> None:
    """`x` has the weights' type and device, and there are kernels for both; `mismatch` is raised for another type."""
    dtype = x.dtype
    if dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise mismatch(
            f"RNN input dtype ({dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({dtype})"
        )
    if dtype not in DTYPES:
        names = ", ".join(sorted(map(str, DTYPES)))
        raise NotImplementedError(f"input has dtype {dtype}, which has no kernel; there are those for {names}")
    if x.device != weight.device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, "
            f"found input tensor at {x.device} and parameter tensor at {weight.device}"
        )
    if not (x.is_cpu or x.is_meta):
        raise NotImplementedError(f"input is on device {x.device}, which has no kernel; there are those for cpu")


def check_layer_input(x: Tensor, weight: Tensor, input_size: int) -> None:
    """The input of a layer, [T, B, I] or [B, T, I]."""
    check_kind(x, weight, ValueError)
    if x.shape[2] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[2]} "
            f"(input has shape {list(x.shape)})"
        )


def split_state(owner: str, hx: Any) -> tuple[Tensor, Tensor]:
    """(h_0, c_0) from what the caller gave as the state of an LSTM."""
    if isinstance(hx, (tuple, list)):
        if len(hx) != 2:
            raise RuntimeError(f"{owner}: lstm expects two hidden states, hx = (h_0, c_0), got {len(hx)}")
        for index, state in enumerate(hx):
            if not isinstance(state, Tensor):
                raise TypeError(f"{owner}: hx[{index}] must be a Tensor, got {type(state).__name__}")
        return hx[0], hx[1]
    raise TypeError(f"{owner}: hx must be a tuple (h_0, c_0) of two Tensors, got {type(hx).__name__}")


def check_single_state(owner: str, hx: Any) -> None:
    """The state of a GRU or an RNN is one tensor."""
    if not isinstance(hx, Tensor):
        raise TypeError(f"{owner}: hx must be a Tensor, got {type(hx).__name__}")


def check_layer_state_dimensions(states: Sequence[Tensor], *, batched: bool) -> None:
    """The states have a batch dimension exactly where the input has one."""
    expected = 3 if batched else 2
    if all(state.dim() == expected for state in states):
        return
    opening = "For batched 3-D input" if batched else "For unbatched 2-D input"
    if len(states) == 1:
        raise RuntimeError(f"{opening}, hx should also be {expected}-D but got {states[0].dim()}-D tensor")
    given = ", ".join(f"{state.dim()}-D" for state in states)
    raise RuntimeError(f"{opening}, hx and cx should also be {expected}-D but got ({given}) tensors")


def check_layer_state(
    state: Tensor, name: str, label: str, expected: tuple[int, int, int], x: Tensor, *, batch_first: bool | None
) -> None:
    """A state [L*D, B, units] of a layer whose input is x [T, B, I]; `label` is torch.nn's word for it.

    `batch_first` is that of the layer, None for an input that has no such order.
    """
    if state.shape != expected:
        swapped = state.shape == (expected[0], x.shape[0], expected[2])
        hint = _batch_hint(name, x, batch_first) if swapped and batch_first is not None else ""
        raise RuntimeError(f"Expected {label} size {expected}, got {list(state.shape)}{hint}")
    check_state_kind(state, name, x)


def _batch_hint(name: str, x: Tensor, batch_first: bool) -> str:
    """For an argument whose batch has as many rows as x [T, B, I] has steps."""
    order = "[batch, time, feature]" if batch_first else "[time, batch, feature]"
    return (
        f". The batch of {name} is {x.shape[0]} and input is read as {order}: "
        f"did you mean batch_first={not batch_first}?"
    )


def check_lengths(lengths: Any, x: Tensor, *, batched: bool, batch_first: bool) -> Tensor:
    """`lengths` as int64 [B] on the device of the input x [T, B, I]."""
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths must be a Tensor of integers, got {type(lengths).__name__}")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must have an integer dtype, got {lengths.dtype}")
    time_steps, batch = x.shape[:2]
    if lengths.shape != ((batch,) if batched else ()):
        wanted = f"(B) = [{batch}]" if batched else "() for an input without a batch"
        swapped = batched and lengths.shape == (time_steps,)
        hint = _batch_hint("lengths", x, batch_first) if swapped else ""
        raise RuntimeError(f"lengths must have shape {wanted}, got {list(lengths.shape)}{hint}")
    # Values on a device would have to be waited for; those that a compiler or torch.func passes have none to look at.
    symbolic = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if lengths.is_cpu and lengths.numel() > 0 and not symbolic:
        smallest, largest = (int(each) for each in lengths.long().aminmax())
        if smallest < 0 or largest > time_steps:
            worst = smallest if smallest < 0 else largest
            raise ValueError(f"lengths must be from 0 to T = {time_steps}, got {worst}")
    return lengths.to(x.device, torch.int64).view(batch)


def check_resets(resets: Any, x: Tensor, *, batched: bool, batch_first: bool) -> Tensor:
    """`resets` as bool [T, B], for the input x [T, B, I]."""
    if not isinstance(resets, Tensor):
        raise TypeError(f"resets must be a Tensor of bool, got {type(resets).__name__}")
    if resets.dtype != torch.bool:
        raise TypeError(f"resets must have dtype torch.bool, got {resets.dtype}: give resets.bool()")
    time_steps, batch = x.shape[:2]
    names = "(T, B)"
    expected: tuple[int, ...] = (time_steps, batch)
    if not batched:
        names, expected = "(T)", (time_steps,)
    elif batch_first:
        names, expected = "(B, T)", (batch, time_steps)
    if resets.shape != expected:
        swapped = batched and resets.shape == expected[::-1]
        hint = f": time and batch are swapped, give resets.t() for batch_first={batch_first}" if swapped else ""
        raise RuntimeError(f"resets must have shape {names} = {list(expected)}, got {list(resets.shape)}{hint}")
    if resets.device != x.device:
        raise RuntimeError(f"resets is on device {resets.device} but input is on {x.device}")
    if not batched:
        return resets.unsqueeze(1)
    return resets.t() if batch_first else resets


def check_packed(packed: PackedSequence, lengths: Any, resets: Any) -> None:
    """The elements [N, I] of a packed sequence, which brings its own lengths."""
    if lengths is not None:
        raise ValueError("lengths must be None for a PackedSequence, which has its own")
    if resets is not None:
        raise ValueError("resets must be None for a PackedSequence: give padded input and lengths to have both")
    if packed.data.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {packed.data.dim()}")


def check_state_kind(state: Tensor, name: str, x: Tensor) -> None:
    """The state has the input's type and device."""
    if state.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise RuntimeError(f"{name} has dtype {state.dtype} but input has {x.dtype}: give {name}.to({x.dtype})")
    if state.device != x.device:
        raise RuntimeError(f"{name} is on device {state.device} but input is on {x.device}")


def check_cell_input(x: Tensor, weight: Tensor, input_size: int) -> None:
    """The input of a cell, [B, I]."""
    check_kind(x, weight, RuntimeError)
    if x.shape[1] != input_size:
        raise RuntimeError(f"input has inconsistent input_size: got {x.shape[1]} expected {input_size}")


def check_cell_state(state: Tensor, name: str, label: str, hidden_size: int, x: Tensor) -> None:
    """A state [B, H] of a cell whose input is x [B, I]; `label` is torch.nn's word for it."""
    if state.dim() != 2:
        raise RuntimeError(
            f"{name} must have as many dimensions as input: expected [{x.shape[0]}, {hidden_size}], "
            f"got {list(state.shape)}"
        )
    if state.shape[0] != x.shape[0]:
        raise RuntimeError(f"Input batch size {x.shape[0]} doesn't match {label} batch size {state.shape[0]}")
    if state.shape[1] != hidden_size:
        raise RuntimeError(f"{label} has inconsistent hidden_size: got {state.shape[1]}, expected {hidden_size}")
    check_state_kind(state, name, x)
