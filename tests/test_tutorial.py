"""What docs/tutorial.md claims is so: its code runs from top to bottom; its links and those of scaling.md lead on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"


def test_every_block_runs_after_those_before_it() -> None:
    text = PAGE.read_text()
    names: dict[str, Any] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) > 10
    for block in blocks:
        # Empty lines before a block give its errors the page's line numbers.
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("name", ["tutorial.md", "scaling.md"])
def test_every_link_leads_to_a_file(name: str) -> None:
    text = (PAGE.parent / name).read_text()
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    assert targets
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []
