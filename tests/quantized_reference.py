"""The truth about int8 layers: their arithmetic in plain torch, one step at a time.

It shares nothing with the kernels and no code with the package. What enters a product is int8 and the sum of products
is exact; scale and bias follow in float32; the update of the cell is float64, rounded to float32 where a state is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tests import reference

LARGEST = 127.0


class Int8(NamedTuple):
    """Rows of integers, as float64, and what one of them stands for."""

    rows: Tensor  # [..., K]
    scale: Tensor  # [...] float32


class Results(NamedTuple):
    """What the operator returns."""

    output: Tensor  # [T, B, D*P]
    h_n: Tensor  # [D, B, P]
    c_n: Tensor  # [D, B, H]; [0] where the cell has none


def quantize_rows(values: Tensor) -> Int8:
    """Each row by itself; one that is not finite has the scale NaN, and one below the range of 127 / m is zero."""
    largest = values.abs().amax(-1)  # NaN where one is
    factor = LARGEST / largest
    rows = torch.round(values * factor.unsqueeze(-1)).double()
    usable = largest.isfinite() & factor.isfinite()
    scale = torch.where(largest.isfinite(), largest / LARGEST, torch.nan)
    return Int8(torch.where(usable.unsqueeze(-1), rows, 0.0), torch.where(factor == torch.inf, 0.0, scale))


def product(weight: Int8, bias: Tensor | None, values: Tensor) -> Tensor:
    """W v + b as [..., rows of W], for v [..., K]."""
    given = quantize_rows(values)
    integers = (given.rows @ weight.rows.T).float()
    scaled = integers * (weight.scale * given.scale.unsqueeze(-1))
    return scaled if bias is None else bias + scaled


def step(
    cell: str, from_x: Tensor, from_h: Tensor, h: Tensor, c: Tensor | None, w_hr: Int8 | None
) -> tuple[Tensor, Tensor | None]:
    """New h and c in float32 from the two pre-activations [B, G*H]."""
    count = reference.GATES[cell]
    x_gates, h_gates = (each.double().view(len(each), count, each.shape[1] // count) for each in (from_x, from_h))
    h_new, c_new = reference.step(cell, x_gates, h_gates, h.double(), None if c is None else c.double())
    h_new = h_new.float()
    return h_new if w_hr is None else product(w_hr, None, h_new), None if c_new is None else c_new.float()


def layer(
    cell: str, x: Tensor, w_ih: Tensor, w_ih_scale: Tensor, b_ih: Tensor | None, w_hh: Tensor, w_hh_scale: Tensor,
    b_hh: Tensor | None, w_hr: Tensor | None, w_hr_scale: Tensor | None, h_0: Tensor | None, c_0: Tensor | None,
    lengths: Tensor | None, resets: Tensor | None, directions: int,
) -> Results:  # fmt: skip
    """One layer; the arguments are those of the operator `quantized_layer`."""
    (time_steps, batch), units = x.shape[:2], w_ih.shape[0] // directions // reference.GATES[cell]
    width = w_hh.shape[1]
    outputs, h_last, c_last = [], [], []
    for d in range(directions):

        def of_direction(tensor: Tensor | None, d: int = d) -> Tensor | None:
            return None if tensor is None else tensor.chunk(directions)[d]

        def matrix(rows: Tensor | None, scale: Tensor | None, d: int = d) -> Int8 | None:
            return (
                None
                if rows is None or scale is None
                else Int8(rows.chunk(directions)[d].double(), scale.chunk(directions)[d])
            )

        input_weight, weight, projection = matrix(w_ih, w_ih_scale), matrix(w_hh, w_hh_scale), matrix(w_hr, w_hr_scale)
        assert input_weight is not None
        assert weight is not None
        h = x.new_zeros(batch, width) if h_0 is None else h_0[d].clone()
        c = None if cell != "lstm" else x.new_zeros(batch, units) if c_0 is None else c_0[d].clone()
        output = x.new_zeros(time_steps, batch, width)
        for t in range(time_steps) if d == 0 else reversed(range(time_steps)):
            active = torch.ones(batch, 1, dtype=torch.bool) if lengths is None else (lengths > t).unsqueeze(1)
            if resets is not None:
                reset = resets[t].unsqueeze(1) & active
                h, c = torch.where(reset, 0.0, h), None if c is None else torch.where(reset, 0.0, c)
            from_x = product(input_weight, of_direction(b_ih), x[t])
            from_h = product(weight, of_direction(b_hh), h)
            h_new, c_new = step(cell, from_x, from_h, h, c, projection)
            h = torch.where(active, h_new, h)
            c = None if c is None or c_new is None else torch.where(active, c_new, c)
            output[t] = torch.where(active, h_new, 0.0)
        outputs.append(output)
        h_last.append(h)
        if c is not None:
            c_last.append(c)
    return Results(torch.cat(outputs, 2), torch.stack(h_last), torch.stack(c_last) if c_last else x.new_empty(0))
