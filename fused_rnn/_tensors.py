"""The tensors that pass from level to level: the parameters of a layer and the arguments of a recurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

HALF_TYPES = (torch.bfloat16, torch.float16)  # which are computed in float32


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


class Arguments(NamedTuple):
    """What the recurrence of one layer is a function of; gradients exist for what is before `lengths`."""

    gates: Tensor  # [T, B, D, G, H], the input projection with its bias
    w_hh: Tensor  # [D, G*H, P]
    b_hh: Tensor | None = None  # [D, G*H]
    w_hr: Tensor | None = None  # [D, P, H]
    h_0: Tensor | None = None  # [D, B, P], None: zero
    c_0: Tensor | None = None  # [D, B, H], None: zero
    unit_weights: Tensor | None = None  # [D, K, H], for cells that have them
    norm: Tensor | None = None  # [D, N, H], gain and bias of the norm of each recurrent gate, then of c; b_hh is None
    lengths: Tensor | None = None  # [B] int64
    resets: Tensor | None = None  # [T, B] bool
    zoneout: Tensor | None = None  # [T, B, D, states, H], how much of each state before the step stays
    recurrent_mask: Tensor | None = None  # [D, B, P], factors of h where it enters W_hh


DIFFERENTIABLE = Arguments._fields.index("lengths")
"""How many arguments of the recurrence have gradients."""


def by_direction(tensor: Tensor, directions: int) -> Tensor:
    """[D*N, ...] as [D, N, ...]."""
    return tensor.view(directions, -1, *tensor.shape[1:])


class LayerArguments(NamedTuple):
    """What a layer is a function of where its kernel makes the gates; gradients exist for what is before `lengths`."""

    x: Tensor  # [T, B, I]
    w_ih: Tensor  # [D*G*H, I]
    b_ih: Tensor | None  # [D*G*H]
    w_hh: Tensor  # [D*G*H, P]
    b_hh: Tensor | None  # [D*G*H]
    w_hr: Tensor | None  # [D*P, H], projection
    h_0: Tensor | None = None  # [D, B, P], None: zero
    c_0: Tensor | None = None  # [D, B, H], None: zero
    lengths: Tensor | None = None  # [B] int64
    resets: Tensor | None = None  # [T, B] bool


DIFFERENTIABLE_OF_LAYER = LayerArguments._fields.index("lengths")
"""How many arguments of the layer have."""
