"""What README.md says can be followed: its code runs, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import fused_rnn

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_every_link_leads_to_a_file() -> None:
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", TEXT)}
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith("https:") and not (ROOT / target).exists()] == []


def test_the_code_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"my_model": torch.nn.Sequential(torch.nn.LSTM(3, 4))})  # noqa: S102


def test_the_options_it_names_are_those_of_the_layers() -> None:
    layer = fused_rnn.LSTM(2, 3)
    for name in ("layer_norm", "zoneout", "recurrent_dropout", "peephole", "cell_clip", "recompute"):
        assert name in TEXT
        assert hasattr(layer, name)
