"""The regimes: classes of problems with a mean of their own, by which the project states its aims."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from .problems import Problem


class Regime(NamedTuple):
    """A class of sizes."""

    name: str
    holds: Callable[[Problem], bool]


REGIMES = (
    Regime("H <= 64", lambda p: p.hidden_size <= 64),
    Regime("H 128..256, B <= 4", lambda p: 128 <= p.hidden_size <= 256 and p.batch <= 4),
    Regime("H 128..256, B >= 8", lambda p: 128 <= p.hidden_size <= 256 and p.batch >= 8),
    Regime("H >= 512, B <= 2", lambda p: p.hidden_size >= 512 and p.batch <= 2),
    Regime("H >= 512, B >= 4", lambda p: p.hidden_size >= 512 and p.batch >= 4),
)


def regimes(problem: Problem) -> list[str]:
    """The means that a problem enters: cell and mode (and type, where not float32), and for the LSTM its size class."""
    cell = "rnn" if problem.cell.startswith("rnn_") else problem.cell
    if problem.dtype_name != "f32":
        return [f"{cell} {problem.mode} {problem.dtype_name}"]
    sizes = [regime.name for regime in REGIMES if cell == "lstm" and regime.holds(problem)]
    return [f"{cell} {problem.mode}", *(f"{cell} {problem.mode} {size}" for size in sizes)]
