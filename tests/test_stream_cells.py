"""Tests that the C library's cells are those of Python, whose formulas stand there alone."""

from __future__ import annotations

import re

from build_support import native
from fused_rnn import _stream_cells
from tools import stream_cells


def test_the_cells_of_the_library_are_written_from_those_of_python() -> None:
    # clang-format changes spaces and lines alone. `python -m tools.stream_cells` writes the files.
    written = {path.name: "".join(path.read_text().split()) for path in stream_cells.FOLDER.iterdir()}
    assert written == {name: "".join(text.split()) for name, text in stream_cells.texts().items()}


def test_numbers_are_those_of_the_library() -> None:
    text = (native.ROOT / "csrc/stream/file_format.h").read_text()
    listed = re.search(r"kFileCells\[\] = \{(.*?)\}", text, re.DOTALL)
    assert listed is not None
    assert tuple(re.findall(r'"(\w+)"', listed[1])) == (*_stream_cells.BUILT_IN, *_stream_cells.WRITTEN)
    assert list(_stream_cells.numbers().values()) == list(range(1, 15))
