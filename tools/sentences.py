"""Counts the words of sentences in documents, and names those that are too long to read at once.

Usage: python -m tools.sentences [--most WORDS] [FILE.md ...]

Without files: README and what a newcomer reads next. Code is left out; a cell of a table, an item of a list and a
heading are sentences of their own. What stands in backticks is a word, and so is a link's text.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
MOST = 40
NAMES = "examples features getting-started index install performance quantization scaling tutorial with-other-tools"
PAGES = ("README.md", "SECURITY.md", *(f"docs/{name}.md" for name in NAMES.split()), "docs/guides/*.md")
FENCE = re.compile(r"^(```|~~~)")
NEW_BLOCK = re.compile(r"^\s*([-*+] |\d+\. |#+ |\||<|!\[|$)")
END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z\"'`(*\[])")


class Sentence(NamedTuple):
    """Where a block of text begins, and one of its sentences."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """How many there are; a number or a name is one, a dash or a bar is none."""
        return sum(bool(re.search(r"\w", word)) for word in self.text.split())


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs, items, headings and cells with the lines that they begin on, counted from 1."""
    begin, lines, code = 1, [""], False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line.strip()) or code or NEW_BLOCK.match(line):
            yield begin, " ".join(lines)
            begin, lines = number if line.strip() else number + 1, []
        if FENCE.match(line.strip()):
            code = not code
        elif not code and line.startswith("|"):
            yield from ((number, cell) for cell in line.split("|"))
        elif not code:
            lines.append(line.strip())
    yield begin, " ".join(lines)


def plain(text: str) -> str:
    """Without the marks of Markdown."""
    text = re.sub(r"`[^`]*`", "Code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"<[^>]*>", "", text)
    return re.sub(r"^\s*([-*+]|\d+\.|#+)\s+", "", text).strip()


def sentences(text: str) -> list[Sentence]:
    """All that a document has."""
    found = []
    for line, block in blocks(text):
        found += [Sentence(line, each) for each in END.split(plain(block)) if re.search(r"\w", each)]
    return found


def pages() -> list[Path]:
    """What is looked at unless files are named."""
    return [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the long ones; 1 where there are some."""
    parser = argparse.ArgumentParser(prog="python -m tools.sentences", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.md")
    parser.add_argument("--most", type=int, default=MOST, metavar="WORDS", help=f"allowed words (default {MOST})")
    options = parser.parse_args(arguments)
    too_long = 0
    for path in options.files or pages():
        for each in sentences(path.read_text(encoding="utf-8")):
            if each.words > options.most:
                too_long += 1
                print(f"{path}:{each.line}: {each.words} words: {each.text}")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
