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
        raise NotImplementedError(
            f"{owner}: input is a PackedSequence, which fused_rnn does not take yet: use torch.nn.utils.rnn."
            "pad_packed_sequence and mask the output, or keep torch.nn's layer here"
        )
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
    state: Tensor, name: str, label: str, expected: tuple[int, int, int], x: Tensor, *, batch_first: bool
) -> None:
    """A state [L*D, B, units] of a layer whose input is x [T, B, I]; `label` is torch.nn's word for it."""
    if state.shape != expected:
        hint = ""
        if x.shape[0] != x.shape[1] and state.shape == (expected[0], x.shape[0], expected[2]):
            order = "[batch, time, feature]" if batch_first else "[time, batch, feature]"
            hint = (
                f". The batch of {name} is {state.shape[1]} and input is read as {order}: "
                f"did you mean batch_first={not batch_first}?"
            )
        raise RuntimeError(f"Expected {label} size {expected}, got {list(state.shape)}{hint}")
    check_state_kind(state, name, x)


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
