"""PackedSequence as padded steps and back: its elements have places among the steps of all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fused_rnn import _modes

if TYPE_CHECKING:
    from torch.nn.utils.rnn import PackedSequence


class Padded(NamedTuple):
    """A packed sequence of N elements as steps of rows; rows keep its order, the longest first."""

    steps: Tensor  # [T, B, I], zero in the padding
    lengths: Tensor  # [B]
    places: Tensor  # [N], of the elements in [T * B]


def pad(packed: PackedSequence) -> Padded:
    """The steps of a packed sequence; the sizes of its batch are on the CPU, so nothing waits for a device."""
    if _modes.is_exporting():
        raise NotImplementedError(
            "a PackedSequence cannot be exported, since how many steps it has is data: give padded input and lengths"
        )
    sizes, data = packed.batch_sizes, packed.data
    time_steps = sizes.shape[0]
    batch = int(sizes[0]) if time_steps > 0 else 0
    present = sizes.unsqueeze(1) > torch.arange(batch, device=sizes.device)  # [T, B]
    lengths = present.sum(0).to(data.device, non_blocking=True)
    places = present.flatten().nonzero().squeeze(1).to(data.device, non_blocking=True)
    return Padded(scatter_steps(data, places, (time_steps, batch)), lengths, places)


def scatter_steps(elements: Tensor, places: Tensor, shape: tuple[int, int], *, anything: bool = False) -> Tensor:
    """Elements [N, I] at their places in steps [T, B, I] that are zero elsewhere, or `anything`."""
    width = elements.shape[1]
    steps = (elements.new_empty if anything else elements.new_zeros)(shape[0] * shape[1], width)
    return steps.index_copy_(0, places, elements).view(*shape, width)


def gather_steps(steps: Tensor, places: Tensor) -> Tensor:
    """The elements [N, I] of steps [T, B, I]."""
    return steps.flatten(0, 1).index_select(0, places)


def permuted(state: Tensor, order: Tensor | None) -> Tensor:
    """A state [L*D, B, units] with its rows in another order."""
    return state if order is None else state.index_select(1, order)
