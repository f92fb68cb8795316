"""Count the instructions of cells written in Python beside those of the built-in cells they repeat.

Usage: python -m tools.cell_counts, in the root of a checkout that is built; it needs valgrind. Every schedule that runs
own cells runs both cells on the problems of tools/native/schedule_counts.cpp: all but those of layer norms. A diagonal
cell that is built in is one of the native tests. The exit code is 1 where an own cell takes more than MARGIN above.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import fused_rnn
from tests.own_cells import OwnElman, OwnGRU, OwnLSTM
from tools import perf_check

MARGIN = 0.02
PAIRS = (("LstmCell", OwnLSTM), ("GruCell", OwnGRU), ("ElmanCell<Tanh>", OwnElman))


class OwnDiagonal(fused_rnn.Cell):
    """As DiagonalCell of tests/native/linear_cells.h."""

    input_gates = ("a", "b")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        return {"h": gate.a * state.h + gate.b / 2}


def counts_of(folder: Path, valgrind: str, *definitions: str) -> dict[str, int]:
    """The instructions of each schedule, of the cells that macros name."""
    program = perf_check.build("schedule_counts", perf_check.COUNTED_ISA, folder, *definitions)
    return {name: perf_check.instructions(program, name, valgrind)[1] for name in perf_check.schedules(program)}


def main() -> int:
    """Print a line for each cell and schedule."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit("this needs valgrind")
    worst = 0.0
    for built_in, own in PAIRS:
        with tempfile.TemporaryDirectory() as name:
            header = Path(name, "own.h")
            header.write_text(own.source() + OwnDiagonal.source())
            names = (f"-DCOUNTED_CELL=own::{own.__name__}", f"-DCOUNTED_DIAGONAL=own::{OwnDiagonal.__name__}")
            theirs = counts_of(Path(name), valgrind, f"-DCOUNTED_CELL={built_in}")
            ours = counts_of(Path(name), valgrind, f'-DCOUNTED_HEADER="{header}"', *names)
            for schedule, count in ours.items():
                change = count / theirs[schedule] - 1.0
                worst = max(worst, change)
                shown = "DiagonalCell" if schedule.startswith("diagonal") else built_in
                print(f"{shown:<16} {schedule:<18} {theirs[schedule]:>12,} {count:>12,}  {change:+.2%}", flush=True)
    return 1 if worst > MARGIN else 0


if __name__ == "__main__":
    sys.exit(main())
