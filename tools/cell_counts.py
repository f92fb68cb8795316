"""Count the instructions of cells written in Python beside those of the built-in cells they repeat.

Usage: python -m tools.cell_counts, in the root of a checkout that is built; it needs valgrind. Every schedule runs both
cells on the problems of tools/native/schedule_counts.cpp.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.own_cells import OwnElman, OwnGRU, OwnLSTM
from tools import perf_check

PAIRS = (("LstmCell", OwnLSTM), ("GruCell", OwnGRU), ("ElmanCell<Tanh>", OwnElman))


def counts_of(folder: Path, valgrind: str, *definitions: str) -> dict[str, int]:
    """The instructions of each schedule, of a cell that macros name."""
    program = perf_check.build("schedule_counts", perf_check.COUNTED_ISA, folder, *definitions)
    return {name: perf_check.instructions(program, name, valgrind)[1] for name in perf_check.schedules(program)}


def main() -> None:
    """Print a line for each cell and schedule."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit("this needs valgrind")
    for built_in, own in PAIRS:
        with tempfile.TemporaryDirectory() as name:
            header = Path(name, "own.h")
            header.write_text(own.source())
            theirs = counts_of(Path(name), valgrind, f"-DCOUNTED_CELL={built_in}")
            ours = counts_of(
                Path(name), valgrind, f'-DCOUNTED_HEADER="{header}"', f"-DCOUNTED_CELL=own::{own.__name__}"
            )
            for schedule, count in ours.items():
                change = count / theirs[schedule] - 1.0
                print(f"{built_in:<16} {schedule:<16} {theirs[schedule]:>12,} {count:>12,}  {change:+.2%}")


if __name__ == "__main__":
    main()
