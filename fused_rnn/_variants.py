"""The variants of the layers: what a caller asks for, checked, and the tensors that it means for one layer.

Where each one acts, for a step from h and c with the input x (G gates, their parameters stacked as in torch.nn):

* layer_norm: W_ih x becomes b_ih + gain_ih norm(W_ih x), W_hh h becomes b_hh + gain_hh norm(W_hh h), and an LSTM's
  h' = o tanh(c') becomes h' = o tanh(b_c + gain_c norm(c')), while c' itself goes on as it is. A norm is over all units
  of all gates together, except that the GRU's n gate has one of its own.
* zoneout: each unit of h' (and of c') keeps its value from before the step with a probability; in eval mode it is the
  mean of the two that this gives. The h' of an LSTM comes from the c' before zoneout.
* recurrent_dropout: h is multiplied by a mask where it enters W_hh, the same at every step of a sequence.
* weight_dropout: entries of W_hh are dropped, the same at every step and for every row.
* peephole: p_i c is added to the i gate, p_f c to the f gate, p_o c' to the o gate.
* cell_clip: c' is clipped to [-cell_clip, cell_clip], before the o gate and h' see it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_rnn._norm import normalize_gates
from fused_rnn._ops import CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fused_rnn._tensors import DirectionWeights

# Ones and zeros [T, B, D, states, H] like x [T, B, I], on CPU, from a seed and probabilities of h and of the rest.
_zoneout_mask = torch.ops.fused_rnn.zoneout_mask.default


class Variants(NamedTuple):
    """What a layer has beyond torch.nn's; the values of the constructor, with `training` that of the call."""

    layer_norm: bool = False
    zoneout: float | tuple[float, float] = 0.0
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    peephole: bool = False
    cell_clip: float | None = None
    recompute: bool = False
    training: bool = False

    @property
    def zoneouts(self) -> tuple[float, float]:
        """The probabilities of h and of c."""
        return self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout, self.zoneout)

    @property
    def unit_weights(self) -> bool:
        """Whether the cell is the one with weights of single units."""
        return self.peephole or self.cell_clip is not None

    @property
    def of_each_run(self) -> Variants:
        """What is left for a run of the layer once its weights and whether it runs again are settled."""
        return PLAIN if self._replace(recompute=False, training=False) == PLAIN else self


PLAIN = Variants()
NAMES = Variants._fields[:-1]


def parameters_of(
    variants: Variants, *, gates: int, hidden_size: int, lstm: bool, bias: bool
) -> dict[str, tuple[str, int]]:
    """The variants' parameters of one direction: by name, the field of DirectionWeights and the size."""
    found = {}
    if variants.peephole:
        found["weight_peephole"] = ("w_peephole", 3 * hidden_size)
    if variants.layer_norm:
        found["gain_ih"] = ("gain_ih", gates * hidden_size)
        found["gain_hh"] = ("gain_hh", gates * hidden_size)
        if lstm:
            found["gain_c"] = ("gain_c", hidden_size)
        if lstm and bias:
            found["bias_c"] = ("b_c", hidden_size)
    return found


def checked_variants(owner: str, variants: Variants, *, lstm: bool) -> Variants:
    """What the caller asked for, where it is possible; a list of probabilities becomes a tuple."""
    zoneout: Any = variants.zoneout
    if isinstance(zoneout, list):
        zoneout = tuple(zoneout)
        variants = variants._replace(zoneout=zoneout)
    for name in ("layer_norm", "peephole", "recompute"):
        value = getattr(variants, name)
        if not isinstance(value, bool):
            raise TypeError(f"{owner}: {name} should be of type bool, got: {type(value).__name__}")
    for name in ("recurrent_dropout", "weight_dropout"):
        _check_probability(owner, name, getattr(variants, name))
    if isinstance(zoneout, tuple) and (not lstm or len(zoneout) != 2):
        wanted = "a number, or one for h and one for c" if lstm else "one number"
        raise ValueError(f"{owner}: zoneout should be {wanted}, got: {zoneout}")
    for value in zoneout if isinstance(zoneout, tuple) else (zoneout,):
        _check_probability(owner, "zoneout", value)
    limit: Any = variants.cell_clip
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0):
        raise ValueError(f"{owner}: cell_clip should be a number above 0, or None, got: {limit!r}")
    for name in ("peephole", "cell_clip"):
        if getattr(variants, name) and not lstm:
            raise ValueError(f"{owner}: {name} needs a cell state, which only the LSTM has")
        if getattr(variants, name) and variants.layer_norm:
            raise ValueError(f"{owner}: {name} and layer_norm together are not supported")
    return variants


def _check_probability(owner: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{owner}: {name} should be a number in range [0, 1], a probability, got: {value!r}")


def changing(variants: Variants) -> dict[str, bool]:
    """By name, which variants make another recurrence of a call; weight dropout has other weights alone."""
    return {
        "layer_norm": variants.layer_norm,
        "zoneout": any(variants.zoneouts),
        "recurrent_dropout": variants.recurrent_dropout > 0 and variants.training,
        "peephole": variants.peephole,
        "cell_clip": variants.cell_clip is not None,
    }


def with_dropped_weights(variants: Variants, weights: Sequence[DirectionWeights]) -> Sequence[DirectionWeights]:
    """The parameters after weight dropout."""
    if not variants.weight_dropout or not variants.training:
        return weights
    return [w._replace(w_hh=F.dropout(w.w_hh, variants.weight_dropout)) for w in weights]


def unit_weights_of(variants: Variants, weights: Sequence[DirectionWeights]) -> Tensor:
    """The unit weights [D, 4, H] of the peephole cell."""
    limit = float("inf") if variants.cell_clip is None else variants.cell_clip
    like = weights[0].w_hh
    hidden_size = like.shape[0] // 4
    peepholes = [w.w_peephole for w in weights if w.w_peephole is not None]
    if not peepholes:
        limits_alone = like.new_zeros(len(weights), 4, hidden_size)
        limits_alone.select(1, 3).fill_(limit)
        return limits_alone
    limits = like.new_full((hidden_size,), limit)
    turns = [part for of_direction in peepholes for part in (of_direction, limits)]
    return torch.cat(turns).view(len(weights), 4, hidden_size)


def unit_weights(
    variants: Variants, weights: Sequence[DirectionWeights], hidden_size: int, heads: int = 1
) -> Tensor | None:
    """The numbers [D, K, H] of each unit that a cell has besides its matrices; None: it has none."""
    if variants.unit_weights:
        return unit_weights_of(variants, weights)
    if weights[0].unit is None:
        return None
    units = [w.unit.view(heads, -1, hidden_size // heads) for w in weights if w.unit is not None]
    return units[0] if len(units) == 1 else torch.cat(units)


def norm_of(weights: Sequence[DirectionWeights], like: Tensor) -> Tensor:
    """The parameters [D, N, H] of the recurrent norms; `like` is [..., G, H]."""
    gates, hidden_size = like.shape[-2:]

    def rows(gain: Tensor, bias: Tensor | None, count: int) -> Tensor:
        """Gain and bias [count * H] in turns, [2 * count, H]."""
        bias = torch.zeros_like(gain) if bias is None else bias
        return torch.stack([gain.view(count, hidden_size), bias.view(count, hidden_size)], 1).flatten(0, 1)

    each = []
    for w in weights:
        assert w.gain_hh is not None  # noqa: S101 - a layer with norms has it
        parts = [rows(w.gain_hh, w.b_hh, gates)]
        if w.gain_c is not None:
            parts.append(rows(w.gain_c, w.b_c, 1))
        each.append(torch.cat(parts))
    return torch.stack(each).to(like.dtype)


def normalize_projection(cell: str, gates: Tensor, weights: Sequence[DirectionWeights]) -> Tensor:
    """The input projection W_ih x [T, B, D, G, H] after its norm."""
    parts = []
    for gates_of_direction, w in zip(gates.unbind(2), weights, strict=True):
        assert w.gain_ih is not None  # noqa: S101 - a layer with norms has it
        gain = w.gain_ih.view(gates.shape[3:]).to(gates.dtype)
        bias = None if w.b_ih is None else w.b_ih.view(gates.shape[3:]).to(gates.dtype)
        parts.append(normalize_gates(cell, gates_of_direction, gain, bias))
    return (parts[0].unsqueeze(2) if len(parts) == 1 else torch.stack(parts, 2)).to(gates.dtype)


class Masks(NamedTuple):
    """What is drawn once for a layer and a call."""

    zoneout: Tensor | None = None  # [T, B, D, states, H], how much of each state before the step stays
    recurrent: Tensor | None = None  # [D, B, P], the factors of h where it enters W_hh

    def of_steps(self, steps: slice) -> Masks:
        """Those of some steps."""
        return self._replace(zoneout=None if self.zoneout is None else self.zoneout[steps])


NO_MASKS = Masks()


def draw_masks(variants: Variants, cell: str, x: Tensor, weights: Sequence[DirectionWeights], heads: int = 1) -> Masks:
    """The masks of a layer with input x [T, B, I], from torch's generator."""
    zoneout = recurrent = None
    w_hh = weights[0].w_hh
    width = w_hh.shape[1] * heads  # H too where there is zoneout
    if any(variants.zoneouts):
        shape = (*x.shape[:2], len(weights), CELLS[cell].states, width)
        zoneout = _draw(x, variants.zoneouts, shape) if variants.training else _means(w_hh, variants.zoneouts, shape)
    if variants.recurrent_dropout and variants.training:
        shape, kept = (len(weights), x.shape[1], width), 1.0 - variants.recurrent_dropout
        recurrent = torch.bernoulli(torch.empty(shape, dtype=w_hh.dtype, device=x.device), kept)
        if kept > 0.0:
            recurrent.div_(kept)
    return Masks(zoneout, recurrent)


def _means(like: Tensor, probabilities: tuple[float, float], shape: Sequence[int]) -> Tensor:
    """The probabilities of h and of all else as a mask [T, B, D, states, H] of the type of `like`."""
    means = torch.full(shape[3:], probabilities[1], dtype=like.dtype, device=like.device)
    if probabilities[0] != probabilities[1]:
        means[0] = probabilities[0]
    return means.expand(shape)


def _draw(x: Tensor, probabilities: tuple[float, float], shape: Sequence[int]) -> Tensor:
    """Ones with the probabilities of h and of all else, and zeros, as x in type and device, of such a shape.

    Probabilities are rounded to a multiple of 2^-16, but not to 0.
    """
    if not x.is_cuda:
        seed = torch.randint(-(2**63), 2**63 - 1, (), device=x.device)
        like = x.detach() if x.requires_grad else x
        drawn: Tensor = _zoneout_mask(like, seed, *shape[2:], *probabilities)
        return drawn
    if probabilities[0] == probabilities[1]:
        return _draw_by_torch(shape, probabilities[0], x)
    of_state = (*shape[:3], shape[4])
    return torch.stack([_draw_by_torch(of_state, each, x) for each in probabilities], 3)


def _draw_by_torch(shape: Sequence[int], probability: float, like: Tensor) -> Tensor:
    """The same with one probability, where there is no kernel for it.

    A decision takes 16 random bits of 64: bernoulli_, one draw each, would take a third of a training step.
    """
    if probability == 0:
        return like.new_zeros(shape)
    count = math.prod(shape)
    words = torch.randint(-(2**63), 2**63 - 1, ((count + 3) // 4,), device=like.device)
    bits = words.view(torch.int16)
    return (bits[:count].view(shape) <= max(1, round(probability * 2**16)) - 2**15 - 1).to(like.dtype)
