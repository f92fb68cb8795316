"""Checks of `lengths` and `resets`: where the rows of a batch end, and where they begin again from zero."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fused_rnn._checks import ArgumentTypeError, batch_hint, check_tensor
from fused_rnn._modes import is_transformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fused_rnn._checks import Lengths, Resets


def _plain(value: Any) -> Any:
    """An array of numpy, or one of its numbers, as lists or a number of Python."""
    return value.tolist() if hasattr(type(value), "__array_interface__") else value


def _lengths_of(given: Any) -> Tensor:
    """`given` as a tensor: a number, sequence or array of integers becomes one."""
    wanted = "a Tensor, a sequence or an array of integers"
    values = _plain(given)
    if not isinstance(values, (int, list, tuple, range)):
        raise ArgumentTypeError(f"lengths must be {wanted}, got {type(values).__name__}")
    entries = () if isinstance(values, int) else values
    for each in entries:
        if isinstance(each, list) and all(isinstance(row, list) and len(row) == len(each) for row in entries):
            break  # perhaps a mask, which the check of shapes knows
        if not isinstance(each, (Integral, Tensor)):
            raise TypeError(f"lengths must be {wanted}, got {type(each).__name__} in it")
    return torch.tensor(values, dtype=torch.int64 if values in ([], ()) else None, device="cpu")


def _mask_hint(lengths: Tensor, x: Tensor, *, batched: bool, batch_first: bool) -> str:
    """For lengths that are a mask of the steps of x [T, B, I]."""
    if lengths.dim() != 1 + batched:
        return ""
    time_steps, batch = x.shape[:2]
    time_first = lengths.shape == (time_steps, batch) and not (batch_first and time_steps == batch)
    axis = 0 if time_first or not batched else 1
    return f". For a mask, give mask.sum({axis}), or (~mask).sum({axis}) where it marks the padding"


def check_lengths(lengths: Lengths, x: Tensor, *, batched: bool, batch_first: bool) -> Tensor:
    """`lengths` as int64 [B] on the device of the input x [T, B, I]."""
    lengths = check_tensor("lengths", lengths if isinstance(lengths, Tensor) else _lengths_of(lengths))
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        hint = _mask_hint(lengths, x, batched=batched, batch_first=batch_first) if lengths.dtype == torch.bool else ""
        raise TypeError(f"lengths must have an integer dtype, got {lengths.dtype}{hint}")
    time_steps, batch = x.shape[:2]
    if lengths.shape != ((batch,) if batched else ()):
        wanted = f"(B) = [{batch}]" if batched else "() for an input without a batch"
        swapped = batched and lengths.shape == (time_steps,)
        mask = _mask_hint(lengths, x, batched=batched, batch_first=batch_first)
        hint = batch_hint("lengths", x, batch_first) if swapped else mask
        raise RuntimeError(f"lengths must have shape {wanted}, got {list(lengths.shape)}{hint}")
    if lengths.is_meta and not x.is_meta:
        raise RuntimeError(f"lengths is on device {lengths.device}, which holds no values, but input is on {x.device}")
    # Values on a device would have to be waited for; those that a compiler or torch.func passes have none to look at.
    symbolic = torch.compiler.is_compiling() or is_transformed()
    if lengths.is_cpu and lengths.numel() > 0 and not symbolic:
        smallest, largest = (int(each) for each in lengths.long().aminmax())
        if smallest < 0 or largest > time_steps:
            worst = smallest if smallest < 0 else largest
            raise ValueError(f"lengths must be from 0 to T = {time_steps}, got {worst}")
    return lengths.to(x.device, torch.int64).view(batch)


def _resets_of(given: Any, shape: Sequence[int]) -> Tensor:
    """`given` as a tensor: an array, or sequences or arrays of bool; without values of this shape, if it has none."""
    wanted = "a Tensor, a sequence or an array of bool"
    values = _plain(given)
    if not isinstance(values, (list, tuple)):
        raise ArgumentTypeError(f"resets must be {wanted}, got {type(values).__name__}")
    rows = [_plain(row) for row in values]
    nested = [row for row in rows if isinstance(row, (list, tuple))]
    if nested and (len(nested) < len(rows) or len({len(row) for row in nested}) > 1):
        raise TypeError(f"resets must be {wanted}, got sequences of different lengths in it")
    for row in rows:
        for each in row if nested else [row]:
            if not isinstance(_plain(each), bool):
                hint = ": give torch.stack(resets)" if isinstance(each, Tensor) else ""
                raise TypeError(f"resets must be {wanted}, got {type(each).__name__} in it{hint}")
    found = torch.tensor(rows, dtype=torch.bool, device="cpu")
    return found.view(*shape) if found.numel() == 0 and 0 in shape else found


def check_resets(given: Resets, x: Tensor, *, batched: bool, batch_first: bool) -> Tensor:
    """`resets` as bool [T, B], for the input x [T, B, I]."""
    time_steps, batch = x.shape[:2]
    names = "(T, B)"
    expected: tuple[int, ...] = (time_steps, batch)
    if not batched:
        names, expected = "(T)", (time_steps,)
    elif batch_first:
        names, expected = "(B, T)", (batch, time_steps)
    resets = given if isinstance(given, Tensor) else _resets_of(given, expected).to(x.device)
    check_tensor("resets", resets)
    if resets.dtype != torch.bool:
        raise TypeError(f"resets must have dtype torch.bool, got {resets.dtype}: give resets.bool()")
    if resets.shape != expected:
        swapped = batched and resets.shape == expected[::-1]
        hint = f": time and batch are swapped, give resets.t() for batch_first={batch_first}" if swapped else ""
        raise RuntimeError(f"resets must have shape {names} = {list(expected)}, got {list(resets.shape)}{hint}")
    if resets.device != x.device:
        raise RuntimeError(f"resets is on device {resets.device} but input is on {x.device}")
    if not batched:
        return resets.unsqueeze(1)
    return resets.t() if batch_first else resets
