"""The types of a recurrence under autocast: those of torch.nn.

Autocast gives GEMMs its type. What torch.nn computes element by element from such a result and from the
state before has the wider type of the two, so the state keeps float32 where it begins in float32. Its Elman layers and
cells have GEMMs alone, and its LSTM layers and everything on a GPU are library calls that autocast casts as a whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fused_rnn._ops import LOADED


def product_type(x: Tensor) -> torch.dtype | None:
    """The type of GEMMs with x; None where autocast is off, or leaves x alone."""
    if x.is_meta or x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return None
    return torch.get_autocast_dtype(x.device.type)


def recurrence_type(cell: str, x: Tensor, h_0: Tensor | None, c_0: Tensor | None) -> torch.dtype | None:
    """The type of the recurrence of one layer with input x; None is that of x."""
    product = product_type(x)
    if product is not None and cell in LOADED:  # whose weights are of float32, as are its kernels
        return torch.promote_types(product, torch.float32)
    if product is None or cell not in {"lstm", "lstm_peephole", "gru"} or not x.is_cpu:
        return product
    state = h_0 if cell == "gru" else c_0
    return torch.promote_types(product, x.dtype if state is None else state.dtype)
