"""Verification before timing: every peer's results against float64, and the tolerances that the subject must keep.

An error is relative in the max norm: max |result - exact| / max |exact|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from .peers import BASELINE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .case import Results
    from .problems import Problem


class Tolerance(NamedTuple):
    """The largest relative error against float64: of outputs and final states, and of gradients."""

    outputs: float
    gradients: float


# The project's one table, for the tests too; where torch.nn's own error is large, twice that is allowed instead.
TOLERANCES: Mapping[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(2e-6, 5e-6),
    torch.float64: Tolerance(1e-13, 1e-12),
    torch.bfloat16: Tolerance(2e-2, 1e-1),
    torch.float16: Tolerance(3e-3, 2e-2),
}

# The same where products round their factors. Half a step of int8 is 0.4 % of the largest value of a row, twice in each
# product and again at each time step; measured are 0.3 % to 3 %. Gradients there are none.
ROUNDED: Mapping[torch.dtype, Tolerance] = {
    torch.int8: Tolerance(5e-2, 0.0),
    torch.bfloat16: TOLERANCES[torch.bfloat16],
}


def tolerance_of(problem: Problem) -> Tolerance:
    """What is allowed on a problem."""
    return ROUNDED[problem.factors] if problem.factors else TOLERANCES[problem.dtype]


def is_gradient(name: str) -> bool:
    """Whether a result is a gradient: `d_x`, `d_weight_hh_l0`, ..."""
    return name.startswith("d_")


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    """The max-norm relative error; infinite for a wrong shape or a value that is not finite."""
    if value.shape != exact.shape or not bool(torch.isfinite(value).all()):
        return math.inf
    if exact.numel() == 0:
        return 0.0
    scale = exact.abs().max().item()
    return (value.double() - exact).abs().max().item() / (scale or 1.0)


@dataclass
class Errors:
    """A peer's error for each result, the larger of the runs with and without initial states."""

    by_name: dict[str, float] = field(default_factory=dict)

    def add(self, results: Results, exact: Results) -> None:
        """Take in one run; a result that is not there counts as infinitely wrong."""
        for name, value in exact.items():
            error = relative_error(results[name], value) if name in results else math.inf
            self.by_name[name] = max(error, self.by_name.get(name, 0.0))

    def worst(self, *, gradients: bool | None) -> tuple[str, float] | None:
        """The result with the largest error among outputs, gradients or both (None); None where there are none."""
        chosen = [(name, error) for name, error in self.by_name.items() if gradients in {None, is_gradient(name)}]
        return max(chosen, key=lambda pair: pair[1], default=None)


def failures(errors: Errors, baseline: Errors | None, tolerance: Tolerance) -> list[str]:
    """One line for each result whose error is above the tolerance, and above twice the baseline's error."""
    lines = []
    for name, error in errors.by_name.items():
        allowed = tolerance[is_gradient(name)]
        theirs = baseline.by_name.get(name, 0.0) if baseline else 0.0
        if not error <= max(allowed, 2.0 * theirs if math.isfinite(theirs) else 0.0):
            compared = f" ({BASELINE}: {theirs:.1e})" if baseline else ""
            lines.append(f"{name}: error {error:.1e}, allowed {allowed:.1e}{compared}")
    return lines
