"""The parameters of one direction of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class DirectionWeights(NamedTuple):
    """The parameters of one direction of one layer, in torch.nn's order; then those of the variants."""

    w_ih: Tensor  # [G*H, I]
    w_hh: Tensor  # [G*H, P]
    b_ih: Tensor | None = None  # [G*H]
    b_hh: Tensor | None = None  # [G*H]
    w_hr: Tensor | None = None  # [P, H], projection
    w_peephole: Tensor | None = None  # [3*H]
    gain_ih: Tensor | None = None  # [G*H]
    gain_hh: Tensor | None = None  # [G*H]
    gain_c: Tensor | None = None  # [H]
    b_c: Tensor | None = None  # [H]
