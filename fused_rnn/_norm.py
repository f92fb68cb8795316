"""Layer norms of gates, in plain torch: those of the input projection, and the recurrent ones of `_plain`.

Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_rnn import _ops

# The gates that one norm joins: all of an LSTM's; of a GRU r and z, and n alone. The kernels say so in csrc/cells.
_GROUPS = {"gru": [2, 1]}


def normalize_gates(cell: str, gates: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    """Gates [..., G, H] after their norms, with gain and bias [G, H]."""
    sizes = _GROUPS.get(cell, [gates.shape[-2]])
    biases = [None] * len(sizes) if bias is None else bias.split_with_sizes(sizes)
    parts = zip(gates.split_with_sizes(sizes, -2), gain.split_with_sizes(sizes), biases, strict=True)
    normalized = [F.layer_norm(part, part.shape[-2:], w, b, _ops.NORM_EPSILON) for part, w, b in parts]
    return normalized[0] if len(normalized) == 1 else torch.cat(normalized, -2)


def normalize_recurrent(cell: str, gates: Tensor, norm: Tensor) -> Tensor:
    """The recurrent gates [..., G, H] after their norm, whose parameters are the first rows of `norm` [N, H]."""
    rows = 2 * gates.shape[-2]
    return normalize_gates(cell, gates, norm[0:rows:2], norm[1:rows:2])


def normalize_cell_state(c: Tensor, norm: Tensor) -> Tensor:
    """The cell state [..., H] after its norm, whose parameters are the last two rows of `norm` [N, H]."""
    return F.layer_norm(c, c.shape[-1:], norm[-2], norm[-1], eps=_ops.NORM_EPSILON)
