"""Small layers and steps in training, past torch's dispatcher: the code of the operators, and the same bits.

A call returns None where it has done nothing, because a tensor is not plain memory on the CPU or the layer is not
small. Then it has to be the operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_rnn import _ops
from fused_rnn._modes import precision_on_cpu
from fused_rnn._tensors import LayerArguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_UNIT_WEIGHTS = 1 + LayerArguments._fields.index("unit_weights")  # the node has one argument in front of these


def run(
    cell: str, given: Sequence[Tensor | None], directions: int = 1, *, hand_out: bool = False, heads: int = 1
) -> Any:
    """A layer on LayerArguments and the places of a packed sequence, or a step on StepArguments.

    The results, the tensors to be saved, and which there are of those given and of `Kept`.
    """
    rounds = _ops.MULTIPLIES_BFLOAT16 and precision_on_cpu() == "bf16"
    try:
        return _ops.run_short(cell, given, directions, hand_out, rounds, heads)
    except RuntimeError as error:
        raise _ops.refusal(error) from None


def gradients(ctx: Any, saved: Sequence[Tensor], incoming: Sequence[Tensor | None]) -> tuple[Tensor | None, ...] | None:
    """The gradients of what the node `ctx` was given, in its order, from what `run` said is to be saved."""
    needs = ctx.needs_input_grad
    rounds = _ops.MULTIPLIES_BFLOAT16 and precision_on_cpu() == "bf16"
    found: tuple[Any, ...] | None = _ops.short_gradients(
        ctx.cell, saved, ctx.present, needs, incoming, rounds, ctx.heads
    )
    if found is None or _ops.CELLS[ctx.cell].unit_weights == 0 or found[_UNIT_WEIGHTS] is None:
        return found
    return (*found[:_UNIT_WEIGHTS], found[_UNIT_WEIGHTS].sum(1), *found[_UNIT_WEIGHTS + 1 :])  # they are of each row
