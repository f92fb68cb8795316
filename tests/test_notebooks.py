"""The notebooks run from top to bottom, are short, need no further packages, and are kept without outputs."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbmake.nb_run import NotebookRun

from tests.test_documents import LONGEST_LINE
from tools import sentences

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PACKAGES = {"fused_rnn", "matplotlib", "numpy", "statsmodels", "torch", "tqdm"}  # of what `pip install .[examples]` has
MOST_WORDS = 900  # read in five minutes, code included
PATIENCE = 300  # seconds of a cell, on a busy machine


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        *("episodes_and_resets", "layer_norm_experiment", "stream_audio", "swap_in_two_lines"),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages of Jupyter
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = NotebookRun(path, PATIENCE).execute()
    assert found.error is None, found.error and found.error.trace
    kinds = [kind for cell in found.nb.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())]
    assert "image/png" in kinds
    warnings = [out.text for cell in found.nb.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
    assert warnings == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_is_short(path: Path) -> None:
    cells = read(path).cells
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert sum(len(cell.source.split()) for cell in cells) <= MOST_WORDS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_prose_of_a_notebook_wraps_and_has_short_sentences(path: Path) -> None:
    prose = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert [line for line in prose.splitlines() if len(line) > LONGEST_LINE] == []
    assert [each for each in sentences.sentences(prose) if each.words > sentences.MOST] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_needs_the_packages_of_the_examples_alone(path: Path) -> None:
    code = ast.parse("\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code"))
    modules = {alias.name for node in ast.walk(code) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(code) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} <= PACKAGES | sys.stdlib_module_names
