"""Writes csrc/stream/cells/*.h, the cells of the C library that Python has as `fused_rnn.Cell`s.

Usage: python -m tools.stream_cells

So each formula is written once, in Python. A test compares the files with what is written here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from build_support import native
from fused_rnn import _cell_source, cells
from fused_rnn._stream_cells import WRITTEN

FOLDER = native.ROOT / "csrc/stream/cells"


def texts() -> dict[str, str]:
    """The text of each file by its name, before clang-format."""
    made = {}
    for name, cell in WRITTEN.items():
        title = "".join(word.capitalize() for word in name.split("_")) + "Cell"
        source = _cell_source.write(cells._traced(cell)._replace(title=title))
        made[f"{name}.h"] = source.text.replace(f'"{source.name}"', f'"{name}"')
    return made


def main() -> None:
    """Write the files in the project's layout."""
    formatter = shutil.which("clang-format", path=str(Path(sys.executable).parent)) or "clang-format"
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
        subprocess.run([formatter, "-i", str(FOLDER / name)], check=True)
    print(f"wrote {len(WRITTEN)} files in {FOLDER}")


if __name__ == "__main__":
    main()
