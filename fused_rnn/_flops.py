"""What the operators count as in torch.utils.flop_counter: two operations for each multiplication of a matrix product.

All steps of all rows count, as in torch.nn: lengths are data.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import register_flop_formula

from fused_rnn import _ops as _loaded  # noqa: F401 - the library of the operators

if TYPE_CHECKING:
    from collections.abc import Sequence

    Shape = Sequence[int] | None

_ops = torch.ops.fused_rnn


def _flops(rows: int, *matrices: Shape) -> int:
    """Of the products of so many rows with each of the matrices, of all directions together."""
    return 2 * rows * sum(prod(matrix) for matrix in matrices if matrix is not None)


@register_flop_formula(_ops.product)
def _product(left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    return _flops(left[0], right)


@register_flop_formula(_ops.forward)
def _forward(cell: str, gates: Sequence[int], w_hh: Shape, b_hh: Shape, w_hr: Shape, *_: Any, **__: Any) -> int:  # noqa: ARG001
    return _flops(gates[0] * gates[1], w_hh, w_hr)


@register_flop_formula(_ops.layer)
def _layer(cell: str, *given: Any, **_: Any) -> int:  # noqa: ARG001
    x, w_ih, _b_ih, w_hh, _b_hh, w_hr = given[:6]
    return _flops(x[0] * x[1], w_ih, w_hh, w_hr)


@register_flop_formula(_ops.step)
def _step(cell: str, x: Sequence[int], w_ih: Shape, b_ih: Shape, w_hh: Shape, *_: Any, **__: Any) -> int:  # noqa: ARG001
    return _flops(x[0], w_ih, w_hh)


@register_flop_formula([_ops.backward, _ops.backward_over_saved])
def _backward(cell: str, *given: Any, **_: Any) -> int:  # noqa: ARG001
    w_hh, w_hr, output = given[4:7]
    return _flops(output[0] * output[1], w_hh, w_hr)


@register_flop_formula([_ops.layer_backward, _ops.layer_backward_over_saved])
def _layer_backward(cell: str, *given: Any, **_: Any) -> int:  # noqa: ARG001
    """The recurrence, and the gradients that are asked for: of x, W_ih, W_hh, the biases (no product) and W_hr."""
    x, w_ih, w_hh, w_hr = given[4:8]
    need_x, need_w_ih, need_w_hh, _, need_w_hr = given[-5:]
    asked = ((need_x, w_ih), (need_w_ih, w_ih), (need_w_hh, w_hh), (need_w_hr, w_hr))
    return _flops(x[0] * x[1], w_hh, w_hr, *(matrix for needed, matrix in asked if needed))
