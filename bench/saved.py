"""Runs of the benchmark as they were written: what `run --json` keeps of each problem."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from .problems import Problem

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]


class Row(NamedTuple):
    """A problem and its ratio."""

    problem: Problem
    ratio: float


def read(path: Path) -> Json:
    """A run."""
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def read_problems(path: Path) -> Json:
    """A run of problems; ValueError for a file that is none."""
    try:
        found: Any = read(path)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("problems"), list):
        raise ValueError(f"{path} has no problems: it is not of `run --json`")
    if not all(map(_is_row, found["problems"])) or not isinstance(found.get("environment", {}), dict):
        raise ValueError(f"{path} has problems that `run --json` did not write")
    return found


def _is_row(row: Any) -> bool:
    """Whether all that is read of a problem is there and of its type."""
    if not isinstance(row, dict) or not isinstance(row.get("verified"), bool):
        return False
    peers, ratio = row.get("peers"), row.get("ratio_minimum")
    if not isinstance(peers, dict) or not all(isinstance(peer, dict) for peer in peers.values()):
        return False
    times = [peer["minimum_s"] for peer in peers.values() if "minimum_s" in peer]
    if not all(isinstance(number, float) and number > 0.0 for number in (*times, *([] if ratio is None else [ratio]))):
        return False
    try:
        Problem.parse(row["problem"])
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
    return True


def rows_of(run: Json) -> list[Row]:
    """The problems that were verified and timed, without the noisy ones."""
    return [
        Row(Problem.parse(row["problem"]), row["ratio_minimum"])
        for row in run["problems"]
        if row["verified"] and row.get("ratio_minimum") is not None and not row.get("noise")
    ]


def ratio_text(ratio: float) -> str:
    """With three digits."""
    return f"{ratio:.1f}x" if ratio >= 9.95 else f"{ratio:.2f}x"
