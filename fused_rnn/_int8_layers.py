"""Layers with int8 weights: how matrices are quantized, one layer by its route, and the stack of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fused_rnn import _onnx, _ops, _route
from fused_rnn._route import Forward
from fused_rnn._tensors import LayerArguments, QuantizedWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fused_rnn._layers import Ragged

LARGEST_SIZE = 65536
"""Of a matrix's columns: the sum of so many products fits into 32 bits."""

_LARGEST = 127.0


class Int8Matrix(NamedTuple):
    """A matrix whose row r is scale[r] times integers from -127 to 127."""

    rows: Tensor  # [N, K] int8
    scale: Tensor  # [N] float32


def quantize_rows(weight: Tensor) -> Int8Matrix:
    """A matrix [N, K] float32, each row by its largest value.

    A row with a value that is not finite has the scale NaN, so that its gates are NaN. One so small that 127 divided by
    its largest value overflows (below 4e-37) is zero.
    """
    largest = weight.abs().amax(1)
    factor = (
        torch.full_like(largest, _LARGEST) / largest
    )  # as factor_rows.h has it; a number / tensor has two roundings
    usable = largest.isfinite() & factor.isfinite()
    rows = torch.where(usable.unsqueeze(1), (weight * factor.unsqueeze(1)).round(), 0.0)
    scale = torch.where(largest.isfinite(), largest / _LARGEST, torch.nan).where(~factor.isposinf(), 0.0)
    return Int8Matrix(rows.to(torch.int8), scale)


def dequantize_rows(matrix: Int8Matrix) -> Tensor:
    """The matrix in float32, as its quantized form has it."""
    return matrix.rows * matrix.scale.unsqueeze(1)


def run_stack(
    cell: str,
    x: Tensor,
    layers: Sequence[Sequence[QuantizedWeights]],
    h_0: Tensor | None,
    c_0: Tensor | None,
    ragged: Ragged,
) -> _ops.QuantizedResult:
    """Layers on top of each other, on x [T, B, I]: output [T, B, D*P], h_n [L*D, B, P] and c_n [L*D, B, H] or [0].

    h_0 and c_0 have the shapes of h_n and c_n; None is zero.
    """
    found = []
    for index, directions in enumerate(layers):
        own = slice(index * len(directions), (index + 1) * len(directions))
        h_own, c_own = (None if state is None else state[own] for state in (h_0, c_0))
        weights = directions[0] if len(directions) == 1 else _joined(directions)
        result = _run_layer(cell, x, weights, (h_own, c_own, ragged.lengths, ragged.resets), len(directions))
        x = result.output
        found.append(result)
    if len(found) == 1:
        return found[0]
    return _ops.QuantizedResult(x, torch.cat([each.h_n for each in found]), torch.cat([each.c_n for each in found]))


def _joined(directions: Sequence[QuantizedWeights]) -> QuantizedWeights:
    """The parameters of both directions one after the other."""
    pairs: Any = zip(*directions, strict=True)
    joined: Any = [None if pair[0] is None else torch.cat(pair) for pair in pairs]
    return QuantizedWeights(*joined)


def _run_layer(
    cell: str, x: Tensor, weights: QuantizedWeights, rows: Sequence[Tensor | None], directions: int
) -> _ops.QuantizedResult:
    """One layer by its route; `rows` are h_0, c_0, lengths and resets."""
    if _route.of_quantized_layer().kind is Forward.ONNX:
        return _as_onnx(cell, x, weights, rows, directions)
    return _ops.quantized_layer(cell, x, weights, rows, directions)


def _as_onnx(
    cell: str, x: Tensor, weights: QuantizedWeights, rows: Sequence[Tensor | None], directions: int
) -> _ops.QuantizedResult:
    """The layer as a node with float32 weights, which ONNX Runtime quantizes again if it is asked to."""
    w_ih = dequantize_rows(Int8Matrix(weights.w_ih, weights.w_ih_scale))
    w_hh = dequantize_rows(Int8Matrix(weights.w_hh, weights.w_hh_scale))
    arguments = LayerArguments(x, w_ih, weights.b_ih, w_hh, weights.b_hh, weights.w_hr, *rows)
    output, h_n, c_n, _ = _onnx.run_layer(cell, arguments, directions)
    return _ops.QuantizedResult(output.flatten(2), h_n, c_n)
