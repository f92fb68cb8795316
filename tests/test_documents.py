"""Documents wrap, fit their pages, and have the table of dependencies that test_architecture.py holds the tree to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.test_architecture import CPU_RULES, CSRC_RULES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_LINE = 100
LONGEST_PAGE = {"docs/design.md": 250}  # in lines


def violations(root: Path) -> Iterator[str]:
    """Prose wraps. Tables, code, images, and words that no space divides are as long as they must be."""
    for path in sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")]):
        name, code = path.relative_to(root).as_posix(), False
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            text = line.strip()
            code ^= text.startswith("```")
            free = code or text.startswith(("|", "![", "<img")) or " " not in text
            if len(line) > LONGEST_LINE and not free:
                yield f"{name}:{number}: over {LONGEST_LINE} characters"
        if len(lines) > LONGEST_PAGE.get(name, len(lines)):
            yield f"{name}: over {LONGEST_PAGE[name]} lines"


def test_documents_wrap_and_fit_their_pages() -> None:
    assert list(violations(ROOT)) == []


LONG = "word " * 20 + "word"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("README.md", f"# R\n\n{LONG}\n", "README.md:3: over 100 characters"),
        ("docs/notes/h.md", f"# H\n\n- {LONG}\n", "docs/notes/h.md:3: over 100 characters"),
        ("docs/design.md", "line\n" * 251, "docs/design.md: over 250 lines"),
    ],
)
def test_a_violation_is_reported(name: str, text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert list(violations(tmp_path)) == [found]


@pytest.mark.parametrize("text", [f"| {LONG} |", f"```\n{LONG}\n```", f"![{LONG}](x.png)", "x" * 101])
def test_what_cannot_wrap_is_as_long_as_it_must_be(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{text}\n")
    assert list(violations(tmp_path)) == []


def test_the_page_on_the_design_has_the_table_of_dependencies() -> None:
    rows = re.findall(
        r"^\| `([a-z/]+)` \| [^|]+ \| ([a-z, ]+) \|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE
    )
    rules = {folder: inside for folder, (inside, _) in CSRC_RULES.items()}
    rules |= {f"cpu/{folder}": inside for folder, inside in CPU_RULES.items()}
    assert {folder: set(inside.split(", ")) for folder, inside in rows} == rules
