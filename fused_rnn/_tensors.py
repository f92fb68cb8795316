"""The tensors that pass from level to level: the parameters of a layer and the arguments of a recurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

HALF_TYPES = (torch.bfloat16, torch.float16)  # which are computed in float32


class DirectionWeights(NamedTuple):
    """The parameters of one direction of one layer, in torch.nn's order; then those of the variants."""

    w_ih: Tensor  # [G*H, I]
    w_hh: Tensor  # [R*H, P]
    b_ih: Tensor | None = None  # [G*H]
    b_hh: Tensor | None = None  # [R*H]
    w_hr: Tensor | None = None  # [P, H], projection
    w_peephole: Tensor | None = None  # [3*H]
    gain_ih: Tensor | None = None  # [G*H]
    gain_hh: Tensor | None = None  # [G*H]
    gain_c: Tensor | None = None  # [H]
    b_c: Tensor | None = None  # [H]
    unit: Tensor | None = None  # [K*H], the unit weights of a cell that is not built in


class Arguments(NamedTuple):
    """What the recurrence of one layer is a function of, or the gradients of it, or whether each is needed.

    Differentiable is all that is real, but the masks: no lengths, resets, zoneout or recurrent_mask.
    """

    gates: Tensor  # [T, B, D, G, H], the input projection with its bias
    w_hh: Tensor  # [D, R*H, P]
    b_hh: Tensor | None = None  # [D, R*H]
    w_hr: Tensor | None = None  # [D, P, H]
    h_0: Tensor | None = None  # [D, B, P], None: zero
    c_0: Tensor | None = None  # [D, B, E*H] of the E states besides h, None: zero
    unit_weights: Tensor | None = None  # [D, K, H], for cells that have them
    norm: Tensor | None = None  # [D, N, H], gain and bias of the norm of each recurrent gate, then of c; b_hh is None
    lengths: Tensor | None = None  # [B] int64
    resets: Tensor | None = None  # [T, B] bool
    zoneout: Tensor | None = None  # [T, B, D, states, H], how much of each state before the step stays
    recurrent_mask: Tensor | None = None  # [D, B, P], factors of h where it enters W_hh


class LayerArguments(NamedTuple):
    """The same of a whole layer, whose kernel makes the gates."""

    x: Tensor  # [T, B, I]
    w_ih: Tensor  # [D*G*H, I]
    b_ih: Tensor | None  # [D*G*H]
    w_hh: Tensor  # [D*R*H, P]
    b_hh: Tensor | None  # [D*R*H]
    w_hr: Tensor | None  # [D*P, H], projection
    h_0: Tensor | None = None  # [D, B, P], None: zero
    c_0: Tensor | None = None  # [D, B, E*H], None: zero
    lengths: Tensor | None = None  # from here on as in `Arguments`
    resets: Tensor | None = None
    unit_weights: Tensor | None = None
    zoneout: Tensor | None = None
    recurrent_mask: Tensor | None = None


class QuantizedWeights(NamedTuple):
    """The parameters of one direction of one layer, or of D of them, with int8 matrices and a scale for each row."""

    w_ih: Tensor  # [D*G*H, I] int8
    w_ih_scale: Tensor  # [D*G*H] float32, as all that is not int8
    b_ih: Tensor | None  # [D*G*H]
    w_hh: Tensor  # [D*G*H, P] int8
    w_hh_scale: Tensor  # [D*G*H]
    b_hh: Tensor | None = None  # [D*G*H]
    w_hr: Tensor | None = None  # [D*P, H] int8, projection
    w_hr_scale: Tensor | None = None  # [D*P]


class StepArguments(NamedTuple):
    """The same of one step of a cell; all of it is differentiable."""

    x: Tensor  # [B, I]
    w_ih: Tensor  # [G*H, I]
    b_ih: Tensor | None  # [G*H]
    w_hh: Tensor  # [R*H, H]
    b_hh: Tensor | None  # [R*H]
    h: Tensor | None = None  # [B, H], None: zero
    c: Tensor | None = None  # [B, E*H], None: zero


class Incoming(NamedTuple):
    """The gradients that arrive at the results of a forward pass; None is zero."""

    d_output: Tensor | None = None  # [T, B, D, P]
    d_h_n: Tensor | None = None  # [D, B, P]
    d_c_n: Tensor | None = None  # [D, B, E*H]
    d_cells: Tensor | None = None  # [T, B, D, E*H]

    def are_zero(self) -> bool:
        """Whether no gradient arrives."""
        return self.d_output is self.d_h_n is self.d_c_n is self.d_cells is None


class Kept(NamedTuple):
    """The results of a forward pass that its backward pass reads: see `_ops.ForwardResult`."""

    output: Tensor
    cells: Tensor
    saved: Tensor
    hidden: Tensor


def of_recurrence(layer: LayerArguments, directions: int) -> list[Any]:
    """A layer's W_hh, b_hh and W_hr as those of `Arguments`."""
    return [None if t is None else by_direction(t, directions) for t in (layer.w_hh, layer.b_hh, layer.w_hr)]


def by_direction(tensor: Tensor, directions: int) -> Tensor:
    """[D*N, ...] as [D, N, ...]."""
    return tensor.view(directions, tensor.shape[0] // directions, *tensor.shape[1:])  # R may be 0


def joined_unchecked(states: Sequence[Tensor]) -> Tensor | None:
    """All states but h as a kernel takes them, [D, B, E*H]; None where they are not alike, which a check explains."""
    first = states[0]
    for state in states:  # a loop, since short calls feel a generator
        if type(state) is not torch.Tensor or state.shape != first.shape or state.dtype != first.dtype:
            return None
    return torch.cat(list(states[1:]), -1)


def separated(states: Tensor, directions: int, count: int) -> list[Tensor]:
    """Each of `count` states from [..., D*E*H]: [..., D*H], in memory of its own."""
    if count == 1:
        return [states]
    if directions == 1:  # the quickest way
        return list(map(torch.Tensor.clone, states.chunk(count, -1)))
    apart = states.reshape(*states.shape[:-1], directions, count, states.shape[-1] // (directions * count))
    return [part.flatten(-2).clone() for part in apart.unbind(-2)]
