"""The tolerances of the tests: the table that the benchmark verifies by, and the rule against torch.nn's own error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bench.verify import TOLERANCES

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TOLERANCES", "allowed_error", "relative_error"]

# The error may be this many times that of torch.nn on the same input, plus this many roundings.
TIMES_TORCH = 2.0
ROUNDINGS = 4.0
# Of fewer values, all may be small by cancellation, in torch.nn's results as in ours: the scale of their error is then
# at least 1, which is that of hidden states and of the gradients given.
ENOUGH_VALUES = 64


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value (at least 1 for few values); 0 for empty tensors."""
    assert actual.shape == expected.shape, f"shape {list(actual.shape)}, expected {list(expected.shape)}"
    if expected.numel() == 0:
        return 0.0
    difference = (actual.double() - expected).abs().max().item()
    largest = expected.abs().max().item()
    return difference / (largest if largest > 0.0 and expected.numel() >= ENOUGH_VALUES else max(largest, 1.0))


def allowed_error(dtype: torch.dtype, torch_error: float) -> float:
    """The error that is allowed where torch.nn has `torch_error` on the same input."""
    return TIMES_TORCH * torch_error + ROUNDINGS * torch.finfo(dtype).eps
