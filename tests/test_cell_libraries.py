"""The libraries of cells: one for all processes, ahead of time, and none that is damaged or of other sources."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

import fused_rnn
from build_support.native import ROOT
from fused_rnn import _cell_compiler, _ops
from tests.own_cells import OwnLSTM

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import torch, fused_rnn
from fused_rnn.cells import tanh

class Shared(fused_rnn.Cell):
    gates = ("a",)

    def step(self, gate, state):
        return {"h": tanh(gate.a) - 0.5 * state.h}

if __name__ == "__main__":
    with fused_rnn.strict():
        print(fused_rnn.Recurrent(Shared, 3, 4)(torch.ones(2, 1, 3))[0].shape)
"""


def run_program(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), **environment}
    return subprocess.Popen(
        [sys.executable, *arguments], env=variables, cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def test_of_two_processes_one_compiles_and_a_third_finds_it(tmp_path: Path) -> None:
    (tmp_path / "shared_cell.py").write_text(PROGRAM)
    cache = {"FUSED_RNN_CACHE": str(tmp_path / "cache")}
    both = [run_program(tmp_path, "shared_cell.py", **cache) for _ in range(2)]
    texts = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert sum("compiling the cell Shared for float32" in error for _, error in texts) == 1
    third = run_program(tmp_path, "shared_cell.py", **cache, CXX="no-such-compiler")
    output, error = third.communicate()
    assert "torch.Size([2, 1, 4])" in output
    assert "compiling" not in error
    (library,) = (tmp_path / "cache").glob("*.so")
    library.write_bytes(library.read_bytes()[:200_000])  # a damaged one is compiled again, or here: cannot be
    output, error = run_program(tmp_path, "shared_cell.py", **cache, CXX="no-such-compiler").communicate()
    assert "ReferencePathError" in error


def test_cells_built_ahead_of_time_need_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "shared_cell.py").write_text(PROGRAM)
    one_set = {"FUSED_RNN_CPU_ISA": "baseline"}
    command = (
        "-m",
        "fused_rnn.cells",
        "build",
        "shared_cell:Shared",
        "--out",
        "built",
        "--instruction-set",
        "baseline",
    )
    output, error = run_program(tmp_path, *command, **one_set).communicate()
    assert "Shared_" in output, error
    assert (tmp_path / "built" / "Shared.h").read_text().startswith("// The cell Shared")
    code = "import fused_rnn, runpy; fused_rnn.cells.load('built'); runpy.run_path('shared_cell.py', None, '__main__')"
    program = run_program(
        tmp_path, "-c", code, **one_set, FUSED_RNN_CACHE=str(tmp_path / "none"), CXX="no-such-compiler"
    )
    output, error = program.communicate()
    assert "torch.Size([2, 1, 4])" in output, error
    with pytest.raises(FileNotFoundError, match="no cells for this version"):
        fused_rnn.cells.load(tmp_path)


def test_a_library_of_other_sources_is_refused(tmp_path: Path) -> None:
    source = fused_rnn.cells.source_of(OwnLSTM())
    with pytest.raises(ValueError, match="cannot load the cell"):
        _ops.load_cell(str(tmp_path / "missing.so"), "", torch.float32)
    fused_rnn.Recurrent(OwnLSTM, 2, 3)(torch.ones(1, 1, 2))
    name = _cell_compiler.library_name(source, torch.float32, _ops.active_isa())
    with pytest.raises(ValueError, match="compiled from other sources"):
        _ops.load_cell(str(_cell_compiler.cache_folder() / name), "another", torch.float32)
