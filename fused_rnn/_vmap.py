"""What torch.func.vmap does with the operators: the mapped dimension becomes part of the batch.

That is one call for all members, as fast as a batch of that size. Where the weights are mapped too (an ensemble), the
members run one after another, each with all threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fused_rnn import _ops
from fused_rnn._tensors import Arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Results = tuple[Tensor | None, ...]

# Where the batch is in what has one, by the names of arguments; in every result it is dimension 1.
_BATCH = {"lengths": 0} | dict.fromkeys(
    ("gates", "h_0", "c_0", "resets", "zoneout", "recurrent_mask", "d_output", "d_h_n", "d_c_n", "d_cells", "output",
     "cells", "saved"),
    1,
)  # fmt: skip
RECURRENCE = (None, None, *map(_BATCH.get, Arguments._fields))  # of the cell, its heads and the arguments


def batched(
    call: Callable[..., Sequence[Tensor]],
    batch_dims: Sequence[int | None],
    members: int,
    in_dims: Sequence[int | None],
    arguments: Sequence[Any],
) -> tuple[Results, tuple[int | None, ...]]:
    """The results of `call` for all members, and where their members are; argument by argument, `in_dims` says where.

    A tensor of shape [0], which stands for one that a call does not have, has no members.
    """
    if any(here is not None and batch is None for here, batch in zip(in_dims, batch_dims, strict=True)):
        return _one_after_another(call, members, in_dims, arguments)
    folded = [
        _fold(argument, batch, here, members) if isinstance(argument, Tensor) and batch is not None else argument
        for argument, batch, here in zip(arguments, batch_dims, in_dims, strict=True)
    ]
    results = call(*folded)
    dims = tuple(None if _absent(result) else 1 for result in results)
    return tuple(result if _absent(result) else _unfold(result, members) for result in results), dims


def _fold(tensor: Tensor, batch: int, here: int | None, members: int) -> Tensor:
    """The members, at dimension `here` or all the same, as parts of the batch."""
    if here is not None:
        return tensor.movedim(here, batch).flatten(batch, batch + 1)
    if _absent(tensor):
        return tensor
    shape = (*tensor.shape[:batch], members, *tensor.shape[batch:])
    return tensor.unsqueeze(batch).expand(shape).flatten(batch, batch + 1)


def _unfold(tensor: Tensor, members: int) -> Tensor:
    return tensor.reshape(tensor.shape[0], members, tensor.shape[1] // members, *tensor.shape[2:])


def _one_after_another(
    call: Callable[..., Sequence[Tensor]], members: int, in_dims: Sequence[int | None], arguments: Sequence[Any]
) -> tuple[Results, tuple[int | None, ...]]:
    each = [
        call(*(a if here is None else a.select(here, index) for a, here in zip(arguments, in_dims, strict=True)))
        for index in range(members)
    ]
    gathered = tuple(zip(*each, strict=True))
    dims = tuple(None if _absent(of_members[0]) else 0 for of_members in gathered)
    return tuple(m[0] if _absent(m[0]) else torch.stack(m) for m in gathered), dims


def _absent(tensor: Tensor) -> bool:
    return tensor.shape == (0,)


def _register(name: str) -> None:
    operator = getattr(torch.ops.fused_rnn, name)
    batch_dims = tuple(map(_BATCH.get, _ops.named_arguments(name)._fields))

    def rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Results, tuple[int | None, ...]]:
        given = batch_dims[: len(arguments)]  # without those that are the defaults
        return batched(operator, given, info.batch_size, in_dims, arguments)

    torch.library.register_vmap(f"fused_rnn::{name}", rule)


def _zoneout_mask(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int | None]:  # noqa: ARG001
    """A mask of each member where each has a seed, which is torch's randomness "different"; else one of all."""
    (x_dim, seed_dim, *_), (x, seed, *others) = in_dims, arguments
    x = x if x_dim is None else x.select(x_dim, 0)
    if seed_dim is None:
        return torch.ops.fused_rnn.zoneout_mask(x, seed, *others), None
    return torch.stack([torch.ops.fused_rnn.zoneout_mask(x, each, *others) for each in seed.unbind(seed_dim)]), 0


for _name in ("forward", "backward"):
    _register(_name)
torch.library.register_vmap("fused_rnn::zoneout_mask", _zoneout_mask)
