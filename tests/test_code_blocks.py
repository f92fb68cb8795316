"""What pages with Python claim is so: every block of every page runs, after those before it.

A block that needs what the tests do not install has a comment on the line before it, `<!-- not run: REASON -->`, and
stands in NOT_RUN.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMENT, FENCES = r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?", r"^```python\n(?P<code>.*?)^```$"
BLOCK = re.compile(COMMENT + FENCES, re.DOTALL | re.MULTILINE)
NOT_RUN = {  # page: the reasons of its blocks, in order
    "docs/guides/libraries.md": ["needs lightning", "needs pytorch_forecasting"],  # tests/test_libraries.py does
    "docs/guides/migrating.md": ["needs keras", "needs haste_pytorch"],
}


class Block(NamedTuple):
    """A block of code and the line of its page that it begins on, counted from 0."""

    code: str
    line: int
    reason: str | None


def blocks_of(text: str) -> list[Block]:
    return [
        Block(each["code"], text.count("\n", 0, each.start("code")), each["reason"]) for each in BLOCK.finditer(text)
    ]


def run(text: str, name: str) -> None:
    """Run the blocks of a page in one namespace, but for those that say why not."""
    names: dict[str, Any] = {}
    for block in blocks_of(text):
        if block.reason is None:
            # Empty lines before a block give its errors the page's line numbers.
            exec(compile("\n" * block.line + block.code, name, "exec"), names)  # noqa: S102


BLOCKS = {page.relative_to(ROOT).as_posix(): blocks_of(page.read_text()) for page in PAGES}


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_every_block_runs_after_those_before_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run((ROOT / name).read_text(), name)


def test_every_python_fence_is_a_block() -> None:
    for page in PAGES:
        assert page.read_text().count("```python") == len(BLOCKS[page.relative_to(ROOT).as_posix()]), page


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    found = {name: [block.reason for block in blocks if block.reason] for name, blocks in BLOCKS.items()}
    assert {name: reasons for name, reasons in found.items() if reasons} == NOT_RUN


def test_a_wrong_block_is_found_at_its_line() -> None:
    with pytest.raises(AssertionError) as raised:
        run("Words.\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "page.md")
    frame = traceback.extract_tb(raised.tb)[-1]
    assert (frame.filename, frame.lineno) == ("page.md", 8)


def test_a_block_with_a_reason_is_not_run() -> None:
    text = "<!-- not run: needs haste -->\n```python\nimport haste_that_is_not_here\n```\n"
    run(text, "page.md")
    assert [block.reason for block in blocks_of(text)] == ["needs haste"]
