"""Prints the tables of docs/performance.md from the JSON of runs against torch.nn.

Usage: python -m scripts.performance_tables NAME=RUN.json[,RUN.json...] ..., each NAME with runs of the same problems,
such as `lstm=bench/results/a.json,bench/results/b.json`. Ratios are those of the minimums, of one run after the other.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LEAST = 1.1  # rows with less in every run are named


class Row(NamedTuple):
    """A problem and its ratio in each run."""

    problem: Problem
    ratios: tuple[float, ...]


class Regime(NamedTuple):
    """Some of the rows, by the words of the project's aims."""

    name: str
    holds: Callable[[Problem], bool]


REGIMES = (
    Regime("H <= 64", lambda p: p.hidden_size <= 64),
    Regime("H 128..256, B <= 4", lambda p: 64 < p.hidden_size <= 256 and p.batch <= 4),
    Regime("H 128..256, B >= 8", lambda p: 64 < p.hidden_size <= 256 and p.batch >= 8),
    Regime("H >= 512, B <= 2", lambda p: p.hidden_size >= 512 and p.batch <= 2),
    Regime("H >= 512, B >= 4", lambda p: p.hidden_size >= 512 and p.batch >= 4),
    Regime("all", lambda p: p.batch > 0),
)


def rows_of(paths: Sequence[str]) -> list[Row]:
    """Those that all runs have."""
    runs = []
    for path in paths:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["problems"]
        runs.append({each["problem"]: each["ratio_minimum"] for each in found if each["verified"]})
    return [
        Row(Problem.parse(text), tuple(run[text] for run in runs)) for text in runs[0] if all(text in r for r in runs)
    ]


def geometric_means(rows: Sequence[Row]) -> str:
    """Of each run."""
    runs = zip(*(row.ratios for row in rows), strict=True)
    return " / ".join(f"{math.exp(sum(map(math.log, run)) / len(run)):.2f}x" for run in runs)


def ratios(values: Iterable[float]) -> str:
    """With three digits."""
    return " / ".join(f"{value:.1f}" if value >= 9.95 else f"{value:.2f}" for value in values)


def regime_table(rows: Sequence[Row]) -> str:
    """Geometric means."""
    lines = ["| regime | inference | training |", "|---|---|---|"]
    for regime in REGIMES:
        cells = []
        for training in (False, True):
            some = [row for row in rows if regime.holds(row.problem) and row.problem.training is training]
            cells.append(geometric_means(some) if some else "-")
        lines.append(f"| {regime.name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def grid(rows: Sequence[Row], *, training: bool) -> str:
    """Hidden sizes by batches."""
    some = {(row.problem.hidden_size, row.problem.batch): row for row in rows if row.problem.training is training}
    sizes, batches = (sorted({key[i] for key in some}) for i in (0, 1))
    head = " | ".join(f"B = {batch}" for batch in batches)
    lines = [f"| {'training' if training else 'inference'} | {head} |", "|---|" + "---:|" * len(batches)]
    for size in sizes:
        cells = " | ".join(ratios(some[size, batch].ratios) if (size, batch) in some else "-" for batch in batches)
        lines.append(f"| H = {size} | {cells} |")
    return "\n".join(lines)


def below(rows: Sequence[Row]) -> str:
    """The rows that are named."""
    named = [row for row in rows if max(row.ratios) < LEAST]
    listed = ", ".join(f"`{row.problem}` {ratios(row.ratios)}" for row in named)
    return f"{len(named)} of {len(rows)}{': ' + listed if named else ''}"


def main() -> int:
    """Print everything."""
    if len(sys.argv) < 2 or any("=" not in argument for argument in sys.argv[1:]):
        print(__doc__, file=sys.stderr)
        return 2
    for argument in sys.argv[1:]:
        name, _, paths = argument.partition("=")
        rows = rows_of(paths.split(","))
        print(f"### {name}\n\n{regime_table(rows)}\n\nBelow {LEAST}x in every run: {below(rows)}\n")
        for training in (False, True):
            print(f"{grid(rows, training=training)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
