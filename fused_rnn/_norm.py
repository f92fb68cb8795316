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


def normalize_gates(cell: str, gates: Tensor) -> Tensor:
    """Gates [..., G, H] with mean 0 and variance 1 over the units of each group."""
    parts = torch.split(gates, _GROUPS.get(cell, [gates.shape[-2]]), -2)
    normalized = [F.layer_norm(part, part.shape[-2:], eps=_ops.NORM_EPSILON) for part in parts]
    return normalized[0] if len(normalized) == 1 else torch.cat(normalized, -2)


def normalize_recurrent(cell: str, gates: Tensor, norm: Tensor) -> Tensor:
    """The recurrent gates [..., G, H] after their norm, whose parameters are the first rows of `norm` [N, H]."""
    rows = 2 * gates.shape[-2]
    return norm[1:rows:2] + norm[0:rows:2] * normalize_gates(cell, gates)


def normalize_cell_state(c: Tensor, norm: Tensor) -> Tensor:
    """The cell state [..., H] after its norm, whose parameters are the last two rows of `norm` [N, H]."""
    return F.layer_norm(c, c.shape[-1:], norm[-2], norm[-1], eps=_ops.NORM_EPSILON)
