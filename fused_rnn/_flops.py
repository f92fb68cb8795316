"""What the operators count as in torch.utils.flop_counter: two operations for each multiplication of a GEMM.

All steps of all rows count, as in torch.nn: lengths are data.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import register_flop_formula

from fused_rnn._ops import named_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Shape = Sequence[int] | None


def _flops(rows: int, *matrices: Shape) -> int:
    """Of the GEMMs of so many rows with each of the matrices, of all directions together."""
    return 2 * rows * sum(prod(matrix) for matrix in matrices if matrix is not None)


def _formula(operator: str) -> Callable[[Callable[[Any], int]], Callable[[Any], int]]:
    """Register what an operator counts, from its arguments by name: shapes where they are tensors."""
    named = named_arguments(operator)

    def register(formula: Callable[[Any], int]) -> Callable[[Any], int]:
        def count(*given: Any, **_: Any) -> int:
            return formula(named(*given))

        register_flop_formula(getattr(torch.ops.fused_rnn, operator))(count)
        return formula

    return register


@_formula("zoneout_mask")
def _zoneout_mask(given: Any) -> int:  # noqa: ARG001
    return 0


@_formula("product")
def _product(given: Any) -> int:
    return _flops(given.left[0], given.right)


@_formula("forward")
def _forward(given: Any) -> int:
    return _flops(given.gates[0] * given.gates[1], given.w_hh, given.w_hr)


@_formula("quantized_layer")
@_formula("layer")
def _layer(given: Any) -> int:
    return _flops(given.x[0] * given.x[1], given.w_ih, given.w_hh, given.w_hr)


@_formula("step")
def _step(given: Any) -> int:
    return _flops(given.x[0], given.w_ih, given.w_hh)


@_formula("backward")
@_formula("backward_in_place")
def _backward(given: Any) -> int:
    return _flops(given.output[0] * given.output[1], given.w_hh, given.w_hr)


@_formula("layer_backward")
@_formula("layer_backward_in_place")
def _layer_backward(given: Any) -> int:
    """The recurrence, and the gradients that are asked for: of x, W_ih, W_hh, the biases (no GEMM) and W_hr."""
    asked = (
        *((given.need_x, given.w_ih), (given.need_w_ih, given.w_ih)),
        *((given.need_w_hh, given.w_hh), (given.need_w_hr, given.w_hr)),
    )
    matrices = (matrix for needed, matrix in asked if needed)
    return _flops(given.x[0] * given.x[1], given.w_hh, given.w_hr, *matrices)
