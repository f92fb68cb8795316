"""The libraries of cells: one for all processes, ahead of time, and none that is damaged or of other sources."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch

import fused_rnn
from build_support.native import ROOT
from fused_rnn import _cell_compiler, _cell_headers, _ops, cells
from tests.own_cells import OwnLSTM
from tests.warm_python import python

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

PROGRAM = """
import torch, fused_rnn
from fused_rnn.cells import tanh

class Shared(fused_rnn.Cell):
    input_gates = ("a",)

    def step(self, gate, state):
        return {"h": tanh(gate.a) - 0.5 * state.h}

if __name__ == "__main__":
    with fused_rnn.strict():
        print(fused_rnn.Recurrent(Shared, 3, 4)(torch.ones(2, 1, 3))[0].shape)
"""


def run_program(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return python(*arguments, cwd=folder, PYTHONPATH=os.pathsep.join((str(ROOT), str(folder))), **environment)


def test_of_two_processes_one_compiles_and_a_third_finds_it(tmp_path: Path) -> None:
    (tmp_path / "shared_cell.py").write_text(PROGRAM)
    cache = {"FUSED_RNN_CACHE": str(tmp_path / "cache")}
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(run_program, tmp_path, "shared_cell.py", **cache) for _ in range(2)]
    assert [each.result().returncode for each in both] == [0, 0], [each.result() for each in both]
    assert sum("compiling the cell Shared for float32" in each.result().stderr for each in both) == 1
    third = run_program(tmp_path, "shared_cell.py", **cache, CXX="no-such-compiler")
    assert "torch.Size([2, 1, 4])" in third.stdout
    assert "compiling" not in third.stderr
    (library,) = (tmp_path / "cache").rglob("*.so")
    library.write_bytes(library.read_bytes()[:100_000])  # a damaged one is compiled again, or here: cannot be
    assert "ReferencePathError" in run_program(tmp_path, "shared_cell.py", **cache, CXX="no-such-compiler").stderr


BITS = """
import hashlib, torch, fused_rnn
from tests.own_cells import OwnLSTM

torch.manual_seed(0)
torch.set_num_threads(1)
layer = fused_rnn.Recurrent(OwnLSTM, 5, 19, bidirectional=True)
x = torch.randn(6, 7, 5, requires_grad=True)
with fused_rnn.strict():
    output, states = layer(x, lengths=[6, 5, 5, 3, 2, 1, 0])
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    with torch.no_grad():
        step = fused_rnn.Stepper(fused_rnn.Recurrent(OwnLSTM, 5, 19), 7).steps(x)
digest = hashlib.sha256()
for each in (output, *states, step, x.grad, *(p.grad for p in layer.parameters())):
    digest.update(each.detach().contiguous().numpy().tobytes())
print("bits", digest.hexdigest())
"""


def test_flags_change_no_bit_and_have_libraries_of_their_own(tmp_path: Path) -> None:
    cache = {"FUSED_RNN_CACHE": str(tmp_path / "cache")}
    all_flags = ("", "-O0 '-DTWO WORDS'")
    ended = [run_program(tmp_path, "-c", BITS, **cache, FUSED_RNN_CXXFLAGS=flags) for flags in all_flags]
    assert all("compiling the cell OwnLSTM" in each.stderr for each in ended), ended
    first, second = (each.stdout for each in ended)
    assert first == second
    assert first.startswith("bits "), ended
    wrong = run_program(tmp_path, "-c", BITS, **cache, FUSED_RNN_CXXFLAGS="'-O0").stderr
    assert "FUSED_RNN_CXXFLAGS are no flags (No closing quotation)" in wrong


def test_cells_built_ahead_of_time_need_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "shared_cell.py").write_text(PROGRAM)
    one_set = {"FUSED_RNN_CPU_ISA": "baseline"}
    options = ("--out", "built", "--instruction-set", "baseline")
    built = run_program(tmp_path, "-m", "fused_rnn.cells", "build", "shared_cell:Shared", *options, **one_set)
    assert "Shared_" in built.stdout, built
    assert (tmp_path / "built" / "Shared.h").read_text().startswith("// The cell Shared")
    code = "import fused_rnn, runpy; fused_rnn.cells.load('built'); runpy.run_path('shared_cell.py', None, '__main__')"
    none = {"FUSED_RNN_CACHE": str(tmp_path / "none"), "CXX": "no-such-compiler"}
    ended = run_program(tmp_path, "-c", code, **one_set, **none)
    assert "torch.Size([2, 1, 4])" in ended.stdout, ended
    with pytest.raises(FileNotFoundError, match="no cells for this version"):
        fused_rnn.cells.load(tmp_path)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that writes its words into the library, without compiling."""
    program = tmp_path / "c++"
    program.write_text('#!/bin/sh\nwords="$*"\nwhile [ "$1" != -o ]; do shift; done\necho "$words" > "$2"\n')
    program.chmod(0o700)
    monkeypatch.setenv("CXX", str(program))
    return program


def test_a_folder_keeps_what_is_not_of_the_cell(tmp_path: Path, compiler: Path) -> None:
    kept = {compiler, tmp_path / "poetry.lock", tmp_path / "readme.sum"}
    for path in kept:
        path.touch()
    (library,) = cells.build(OwnLSTM, tmp_path, instruction_sets=["baseline"])
    assert set(tmp_path.iterdir()) == kept | {library, library.with_suffix(".sum"), tmp_path / "OwnLSTM.h"}


@pytest.mark.usefixtures("compiler")
def test_a_library_in_a_folder_is_compiled_again_with_other_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, compiled in [("-O0", 1), ("-O0", 0), ("-O1  -g", 1), ("-O1 -g", 0), ("", 1), ("", 0)]:
        monkeypatch.setenv("FUSED_RNN_CXXFLAGS", flags)
        (library,) = cells.build(OwnLSTM, tmp_path, instruction_sets=["baseline"])
        assert capsys.readouterr().err.count("compiling the cell OwnLSTM") == compiled, flags
        assert _cell_compiler.is_whole(library)
        assert (f" {' '.join(flags.split())} -shared" in library.read_text()) == bool(flags)


def test_a_library_of_other_sources_is_refused(tmp_path: Path) -> None:
    source = fused_rnn.cells.source_of(OwnLSTM())
    with pytest.raises(ValueError, match="cannot load the cell"):
        _ops.load_cell(str(tmp_path / "missing.so"), "", torch.float32)
    fused_rnn.Recurrent(OwnLSTM, 2, 3)(torch.ones(1, 1, 2))
    name = _cell_compiler.library_name(source, torch.float32, _ops.active_isa())
    with pytest.raises(ValueError, match="compiled from other sources"):
        _ops.load_cell(str(_cell_compiler.cache_folder() / name), "another", torch.float32)


def test_headers_that_are_not_those_of_the_build_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unbuilt(OwnLSTM):
        pass

    assert _cell_headers.headers_mark() == _ops.HEADERS_MARK
    monkeypatch.setattr(_ops, "HEADERS_MARK", "another")
    _cell_compiler.sources_mark.cache_clear()
    layer = fused_rnn.Recurrent(Unbuilt, 2, 3)
    with pytest.warns(UserWarning, match="are not those that fused_rnn was built from: build it again"):
        assert layer(torch.ones(2, 1, 2))[0].shape == (2, 1, 3)
    with pytest.raises(_cell_compiler.CompileError, match="build it again"):
        fused_rnn.cells.load("anywhere")
