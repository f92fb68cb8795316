"""What importing the package does, and what it says where it cannot."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch._dynamo", "torch._inductor", "torch.onnx", "onnx", "sympy")  # seconds and tens of MB each
# Statements, by what they are an example of; each but the first follows the others.
USES = {
    "import": "import fused_rnn",
    "training": "fused_rnn.LSTM(3, 4)(torch.ones(5, 2, 3))[0].sum().backward()",
    "lengths": "fused_rnn.GRU(3, 4)(torch.ones(5, 2, 3), lengths=[5, 3])",
    "variants": "fused_rnn.RNN(3, 4, layer_norm=True, zoneout=0.1)(torch.ones(5, 2, 3))",
    "cells": "fused_rnn.LSTMCell(3, 4)(torch.ones(2, 3))",
    "convert": "fused_rnn.restore(fused_rnn.convert(torch.nn.Sequential(torch.nn.GRU(3, 4))))",
    "explain": "fused_rnn.explain(fused_rnn.GRU(3, 4), torch.ones(5, 2, 3))",
    "stepper": "fused_rnn.Stepper(fused_rnn.GRU(3, 4)).step(torch.ones(1, 3))",
    "strict": "with fused_rnn.strict(): fused_rnn.GRU(3, 4)(torch.ones(5, 2, 3))[0].sum().backward()",
    "patch": "with fused_rnn.patch(): torch.nn.LSTM(3, 4)",
}


@pytest.fixture(scope="module")
def imported_by() -> dict[str, set[str]]:
    """What a process with torch has imported more after each use."""
    steps = "".join(f"exec({use!r})\nprint(*sys.modules.keys() - before)\n" for use in USES.values())
    script = f"import sys, torch\nbefore = set(sys.modules)\n{steps}"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(zip(USES, map(set, map(str.split, result.stdout.splitlines())), strict=True))


def copied(folder: Path, *, built: bool) -> Path:
    """A folder with a copy of the package, with the compiled module or without it."""
    ignored = shutil.ignore_patterns("__pycache__", *(() if built else ("_C.*", "libfused_rnn_ops.*")))
    shutil.copytree(ROOT / "fused_rnn", folder / "fused_rnn", ignore=ignored, copy_function=os.symlink)
    # The package finds its folder by its files, which are no links therefore.
    for path in (folder / "fused_rnn").glob("*.py"):
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    return folder


def imported(folder: Path, *options: str, before: str = "", path: Path | None = None) -> tuple[int, str]:
    """What a process in a folder says that imports the package: its end, and where the package was or the error."""
    script = f"import sys\n{before}\nimport fused_rnn; print(fused_rnn.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    command = [sys.executable, *options, "-c", script]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return result.returncode, (result.stdout + result.stderr).strip().splitlines()[-1]


# Without the finders of editable installs, which find a checkout, and even its module for another one's package.
NO_EDITABLE = "sys.meta_path = [each for each in sys.meta_path if 'editable' not in repr(each).lower()]"
NO_OTHER = (
    f"import os; {NO_EDITABLE}; "
    "sys.path = [each for each in sys.path if not each or not os.path.exists(os.path.join(each, 'fused_rnn'))]"
)


def test_a_source_folder_without_the_module_says_where_it_is_and_how_to_build_it(tmp_path: Path) -> None:
    folder = copied(tmp_path, built=False)
    ended, text = imported(folder, before=NO_OTHER)
    assert ended != 0
    assert text.startswith(
        f"ImportError: fused_rnn is not built: it was imported from {folder / 'fused_rnn'}, which has"
    )
    assert text.endswith(f"Run `pip install --no-build-isolation -e .` in {folder}, where torch is installed")


def test_a_module_for_another_python_is_named(tmp_path: Path) -> None:
    folder = copied(tmp_path, built=False)
    (folder / "fused_rnn" / "_C.cpython-27-arm.so").touch()
    assert (
        "no compiled module for this Python (but _C.cpython-27-arm.so). Run `pip"
        in imported(folder, before=NO_OTHER)[1]
    )


def check_that_it_names_the_installed_one(text: str, source: Path, installed: Path, version: str) -> None:
    assert f"it was imported from {source / 'fused_rnn'}, which has no compiled module. fused_rnn {version} is" in text
    assert f"is installed in {installed / 'fused_rnn'}, but {source} comes before it in sys.path" in text


# tests/test_build.py has the other way: the checkout as the working directory, with a wheel that is installed.
def test_a_source_folder_in_pythonpath_that_hides_an_installed_package_says_how_to_use_that(tmp_path: Path) -> None:
    source, installed = copied(tmp_path / "source", built=False), copied(tmp_path / "installed", built=True)
    (installed / "fused_rnn-3.2.1.dist-info").mkdir()
    (installed / "fused_rnn-3.2.1.dist-info" / "METADATA").write_text("Name: fused_rnn\nVersion: 3.2.1\n")
    ended, text = imported(tmp_path, before=f"{NO_EDITABLE}; sys.path[1:1] = [{str(source)!r}, {str(installed)!r}]")
    assert ended != 0
    check_that_it_names_the_installed_one(text, source, installed, "3.2.1")
    assert "take it out of sys.path (PYTHONPATH)" in text
    # What it says works.
    assert imported(tmp_path, path=installed) == (0, str(installed / "fused_rnn" / "__init__.py"))


def test_a_package_elsewhere_that_is_not_built_either_is_not_offered(tmp_path: Path) -> None:
    source, other = (copied(tmp_path / name, built=False) for name in ("source", "other"))
    text = imported(source, before=f"{NO_OTHER}; sys.path.append({str(other)!r})")[1]
    assert str(other) not in text


@pytest.mark.parametrize("use", USES)
def test_plain_use_leaves_the_compiler_and_exporters_alone(use: str, imported_by: dict[str, set[str]]) -> None:
    imported = imported_by[use]
    assert "fused_rnn" in imported
    assert not [name for name in imported if name.startswith(HEAVY)]
    assert len(imported) < 100  # of 0.08 s; the compiler alone brings 800


def test_importing_takes_nothing_but_torch(imported_by: dict[str, set[str]]) -> None:
    roots = {name.partition(".")[0] for name in imported_by["import"]}
    assert roots & set(importlib.metadata.packages_distributions()) <= {"fused_rnn", "torch"}
