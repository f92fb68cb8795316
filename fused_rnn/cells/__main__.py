"""The command `python -m fused_rnn.cells`: compile a cell ahead of time."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from fused_rnn.cells import DTYPES, INSTRUCTION_SETS, build, cell_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments and compile."""
    parser = argparse.ArgumentParser(prog="python -m fused_rnn.cells", description="Compile cells ahead of time.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("build", help="compile a cell")
    command.add_argument(
        "cell",
        metavar="MODULE:NAME",
        help="where the cell's class is, such as package.module:MyCell or fused_rnn:SLSTM; or a cell that was made",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="the folder for the libraries")
    command.add_argument("--dtype", action="append", choices=list(DTYPES), help="default float32; may be repeated")
    command.add_argument(
        "--instruction-set", action="append", choices=INSTRUCTION_SETS, help="default all; may be repeated"
    )
    options = parser.parse_args(arguments)
    module, _, name = options.cell.partition(":")
    if not name:
        parser.error(f"cell must be MODULE:NAME, got {options.cell}")
    sys.path.insert(0, "")
    found = getattr(importlib.import_module(module), name, None)
    try:
        cell = cell_of(found)
    except TypeError:
        parser.error(f"{options.cell} is no fused_rnn.Cell")
    dtypes = [DTYPES[each] for each in options.dtype or ["float32"]]
    for path in build(cell, options.out, dtypes, options.instruction_set or INSTRUCTION_SETS):
        print(path)


if __name__ == "__main__":
    main()
