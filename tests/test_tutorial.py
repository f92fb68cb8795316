"""What pages with code claim is so: it runs from top to bottom; their links and those of scaling.md lead on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "count"), [("tutorial.md", 11), ("with-other-tools.md", 4), ("quantization.md", 1)])
def test_every_block_runs_after_those_before_it(
    name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / name
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) >= count
    for block in blocks:
        # Empty lines before a block give its errors the page's line numbers.
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("name", ["tutorial.md", "scaling.md", "with-other-tools.md", "quantization.md"])
def test_every_link_leads_to_a_file(name: str) -> None:
    text = (DOCS / name).read_text()
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    assert targets
    assert [target for target in targets if not (DOCS / target).exists()] == []
