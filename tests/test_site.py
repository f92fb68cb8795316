"""The documentation site builds without a warning, and its reference has every keyword of everything public."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fused_rnn

pytest.importorskip("sphinx", reason="sphinx comes with the extra `docs`")

ROOT = Path(__file__).resolve().parent.parent
PAGE = {  # of the reference, by what it has
    "layers": ("LSTM", "GRU", "RNN", "ArgumentTypeError"),
    "cells": ("LSTMCell", "GRUCell", "RNNCell"),
    "stepper": ("Stepper", "Stepper.step", "Stepper.steps", "Stepper.reset", "save_stream", "read_json_model", "Chain"),
    "convert": ("convert", "restore", "patch", "from_keras"),
    "explain": ("explain", "build_info", "strict", "Explanation", "CudaDevice", "ReferencePathError"),
    "own-cells": (
        *("Cell", "Cell.step", "Cell.reset_parameters", "Recurrent", "check_cell", "CellReport", "CellError"),
        *("CoupledLSTM", "SLSTM", "IndRNN", "MinGRU", "MinLSTM", "cells.build", "cells.load"),
    ),
    "quantized": (
        "quantize",
        *(f"quantized.{name}" for name in ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")),
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--fail-on-warning", "--keep-going", "--nitpicky", "--doctree-dir", str(folder / "trees"))
    command = [sys.executable, "-m", "sphinx", *options, "--builder", "html", "docs", str(folder / "html")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.stderr == ""
    assert built.returncode == 0
    return folder / "html"


def entry(page: str, name: str) -> str:
    """What the reference says of something, up to the next entry."""
    found = re.search(rf'id="fused_rnn\.{re.escape(name)}"(.*?)(?:<dt class="sig[^>]*id=|$)', page, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_reference_describes_every_argument(site: Path) -> None:
    for page, names in PAGE.items():
        text = (site / "api" / f"{page}.html").read_text()
        for name in names:
            what: Any = fused_rnn
            for part in name.split("."):
                what = getattr(what, part)
            described = entry(text, name)
            if "Args:" in (inspect.getdoc(what) or ""):
                arguments = set(inspect.signature(what).parameters) - {"self"}
                assert set(re.findall(r"<strong>(\w+)</strong>", described)) >= arguments, name


def test_every_function_and_class_with_arguments_lists_them() -> None:
    for name in ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell", "Stepper", "convert", "restore", "explain"):
        assert "Args:" in (inspect.getdoc(getattr(fused_rnn, name)) or ""), name


def test_everything_public_is_in_the_reference() -> None:
    listed = {name for names in PAGE.values() for name in names}
    assert {name for name in fused_rnn.__all__ if name not in {"__version__", "cells", "quantized"}} <= listed


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    first = (site / "index.html").read_text()
    assert [page for page in sorted(pages - {"index"}) if f'href="{page}.html"' not in first] == []


def test_links_to_sources_lead_to_their_files(site: Path) -> None:
    text = (site / "features.html").read_text()
    targets = re.findall(r'href="(_downloads/[^"]+)"', text)
    assert len(targets) > 20
    assert [target for target in targets if not (site / target).exists()] == []


def test_links_to_the_runs_lead_to_their_page(site: Path) -> None:
    assert 'href="../runs.html#cpu-epyc4-2threads-features"' in (site / "notes" / "cpu.html").read_text()
