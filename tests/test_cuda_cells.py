"""Own cells on GPUs, as far as that can be seen without one: kernels compile and do not spill, and libraries load."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from fused_rnn import CudaDevice, _cell_compiler, _cuda_cells, _ops, _recurrent
from fused_rnn.cells import source_of
from tests.own_cells import Everything, InputGatedGRU, OwnElman, OwnGRU, OwnLSTM
from tools import cuda_record, ptxas_report

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ("80", "90a")
H200 = CudaDevice(90, 132, 232448)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc in PATH")


@pytest.fixture
def not_in_the_record() -> None:
    """Compiling these again would give the same kernels."""
    if cuda_record.has_own_cells():
        pytest.skip("tests/cuda_kernels.json is of these kernels: they were compiled and examined before")


def schedules(layer: Any, x: torch.Tensor) -> list[str]:
    return [each.schedule for each in fused_rnn.explain(layer, x, device=H200).layers[0].passes]


# Four states, the most that a cell may have, take the most registers. A large cell is compiled for one architecture,
# another one for the other, and a small one for both.
@needs_nvcc
@pytest.mark.usefixtures("not_in_the_record")
def test_kernels_of_a_cell_compile_without_spills_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_RNN_CACHE", str(tmp_path))
    monkeypatch.delenv("FUSED_RNN_CXXFLAGS", raising=False)
    layer = fused_rnn.SLSTM(16, 256, device="meta", dtype=torch.bfloat16)
    source = source_of(layer._definition)
    _cuda_cells.load_for(("90a",), source, torch.bfloat16)
    (log,) = tmp_path.glob("*.log")
    functions = ptxas_report.parse(log.read_text())
    persistent = [function for function in functions if "PersistentKernel" in function.name]
    assert len(persistent) == 2 * 2 * 3  # passes, with lengths and without, exchanges
    assert [str(one) for one in functions if one.spill_stores or one.spill_loads or one.stack] == []
    assert torch.bfloat16 in _ops.LOADED_ON_CUDA[layer.cell]
    x = torch.empty(10, 8, 16, device="meta", dtype=torch.bfloat16)
    assert schedules(layer, x) == ["cluster", "cluster"]


@needs_nvcc
def test_a_cell_without_recurrent_gates_has_two_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_RNN_CACHE", str(tmp_path))
    monkeypatch.delenv("FUSED_RNN_CXXFLAGS", raising=False)
    layer = fused_rnn.MinLSTM(16, 256, device="meta")
    _cuda_cells.load_for(TARGETS, source_of(layer._definition), torch.float32)
    (log,) = tmp_path.glob("*.log")
    functions = ptxas_report.parse(log.read_text())
    assert sorted(function.target for function in functions) == sorted(f"sm_{name}" for name in TARGETS * 2)
    assert all("DiagonalKernel" in function.name for function in functions)
    plan = fused_rnn.explain(layer, torch.empty(10, 8, 16, device="meta"), device=H200).layers[0].passes[0]
    assert plan.schedule == "per_step"
    assert "one kernel for all steps" in plan.why
    assert set(plan.others.values()) == {"no gate reads h, so that there is no W_hh to keep on the chip"}
    (library,) = tmp_path.glob("*.so")
    with pytest.raises(ValueError, match="compiled from other sources"):
        _ops.load_cuda_cell(str(library), "another", torch.float32)
    with pytest.raises(ValueError, match="no library of a cell"):
        _ops.load_cell(str(library), _cell_compiler.sources_mark(), torch.float32)


@needs_nvcc
@pytest.mark.usefixtures("not_in_the_record")
def test_every_function_of_cells_is_there_on_gpus(tmp_path: Path) -> None:
    path = tmp_path / "everything.so"
    _cuda_cells.compile_library(source_of(Everything()), torch.bfloat16, ("80",), path)
    functions = ptxas_report.parse(path.with_suffix(".log").read_text())
    assert any("StepKernel" in function.name for function in functions)
    assert {function.target for function in functions} == {"sm_80"}
    assert [str(one) for one in functions if one.spill_stores or one.spill_loads] == []


# Of the types, float32 has the largest accumulators and weights, bfloat16 the tiles of all 16-bit types; a cell of one
# gate has a part of these. What they compute, tests/cuda_on_cpu/test_repeated_cells.cpp says.
@needs_nvcc
@pytest.mark.usefixtures("not_in_the_record")
@pytest.mark.parametrize(
    ("cell", "dtype"),
    [
        (OwnLSTM, torch.float32),
        (OwnGRU, torch.float32),
        (OwnLSTM, torch.bfloat16),
        (OwnGRU, torch.bfloat16),
        (OwnElman, torch.bfloat16),
    ],
)
def test_cells_that_repeat_built_in_ones_do_not_spill(
    cell: type[fused_rnn.Cell], dtype: torch.dtype, tmp_path: Path
) -> None:
    path = tmp_path / "repeated.so"
    _cuda_cells.compile_library(source_of(cell()), dtype, TARGETS, path)
    functions = ptxas_report.parse(path.with_suffix(".log").read_text())
    assert {function.target for function in functions} == {f"sm_{name}" for name in TARGETS}
    for target in TARGETS:
        names = [one.name for one in functions if one.target == f"sm_{target}"]
        for kernel in ("StepKernel", "SmallBlockKernel", "PersistentKernel"):
            assert any(kernel in name for name in names), f"{kernel} for sm_{target}"
    assert [str(one) for one in functions if one.spill_stores or one.spill_loads or one.stack] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_what_it_takes_a_warning_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = source_of(InputGatedGRU())
    with pytest.warns(UserWarning, match="plain torch, which is slow, since .*(CUDA|GPU)"):
        _recurrent._load_kernels(source.name, torch.float32, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _recurrent._load_kernels(source.name, torch.float32, True)  # once
    monkeypatch.setenv("FUSED_RNN_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(_cell_compiler.CompileError, match="no C\\+\\+ compiler was found"):
        _cuda_cells.load_for(TARGETS, source, torch.float32)
    (tmp_path / "c++").write_text("")
    (tmp_path / "c++").chmod(0o755)
    with pytest.raises(_cell_compiler.CompileError, match="no nvcc was found"):
        _cuda_cells.load_for(TARGETS, source, torch.float32)
