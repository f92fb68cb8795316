"""What a node of the graph keeps for its backward pass.

`saved_tensors` of a node is public: tools walk it and expect tensors (torchviz asks each for its size), so that None is
left out. What it gives back may belong to somebody else: hooks on saved tensors put copies, or memory that must not be
written, in the place of what the forward pass made.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from fused_rnn import _modes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


def keep(ctx: Any, tensors: Sequence[Tensor | None], *, for_tangents: bool = False) -> None:
    """Save the tensors for the backward pass, and the same ones for tangents."""
    ctx.present = [t is not None for t in tensors]
    present = [t for t in tensors if t is not None]
    ctx.save_for_backward(*present)
    if for_tangents:
        ctx.save_for_forward(*present)


def kept(ctx: Any, found: Sequence[Tensor] | None = None) -> list[Any]:
    """What `keep` was given; `found` are `saved_tensors`, to be read once, since hooks unpack each tensor once."""
    found = ctx.saved_tensors if found is None else found
    if len(found) == len(ctx.present):
        return list(found)
    present = iter(found)
    return [next(present) if there else None for there in ctx.present]


def take(kind: Any, values: Iterator[Any]) -> Any:
    """The next ones of some values, as a NamedTuple of a kind."""
    return kind._make(islice(values, len(kind._fields)))


def own(tensor: Tensor) -> None:
    """Note that the forward pass made a tensor and nobody else has it, unless hooks take what is saved."""
    if _modes.saves_the_very_tensors():
        tensor._fused_rnn_own = True  # type: ignore[attr-defined]


def may_run_in_place(tensor: Tensor) -> bool:
    """Whether a tensor that was saved is the very one that `own` noted, and the graph ends with this pass."""
    return hasattr(tensor, "_fused_rnn_own") and not _modes.graph_is_kept()
