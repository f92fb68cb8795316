"""The instructions in the step loops of scatter.cuh, counted where nvcc and cuobjdump are: rows of docs/gpu.md."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from build_support import cuda as cuda_build
from build_support import native
from tools import loop_report, ptxas_report

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = {
    "LSTM, bfloat16": "LstmCell, BFloat16",
    "LSTM, TF32": "LstmCell, TFloat32",
    "GRU, bfloat16": "GruCell, BFloat16",
}
SOURCE = """\
#include "cells/gru.h"
#include "cells/lstm.h"
#include "cuda/run_persistent.cuh"
namespace fused_rnn::cuda {
using Kernel = ScatterKernel<BackwardPass<CELL_AND_TYPE, int, Features::kNone>>;
template __global__ void run_kernel<Kernel>(const __grid_constant__ Kernel);
}  // namespace fused_rnn::cuda
"""


def row_of(name: str, folder: Path) -> str:
    """The row of a kernel, compiled here."""
    source, cubin = folder / "scatter.cu", folder / "scatter.cubin"
    source.write_text(SOURCE.replace("CELL_AND_TYPE", KERNELS[name]))
    flags = ["-std=c++20", "-O3", "-Xptxas", "-v", "-arch=sm_90a", "-I", str(native.ROOT / "csrc")]
    command = ["nvcc", *cuda_build.compiler_flags(native.compiler()), *flags, "-cubin", str(source), "-o", str(cubin)]
    compiled = cuda_build.run(command)
    assert compiled.returncode == 0, compiled.stdout
    (function,) = ptxas_report.parse(compiled.stdout)
    assert not function.spill_stores
    assert not function.spill_loads
    (loop,) = loop_report.loops_of(cubin, "sm_90a")
    counted = " | ".join(str(loop.counts[kind]) for kind in ("HMMA", "LDS", "STS", "BAR"))
    return f"| {name}, scattered | {loop.length} | {counted} | {function.registers} |"


@pytest.mark.parametrize("name", KERNELS)
def test_the_page_has_the_counted_instructions(name: str, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None or shutil.which("cuobjdump") is None:
        pytest.skip("no nvcc or no cuobjdump in PATH")
    if "release 13.0" not in cuda_build.run(["nvcc", "--version"]).stdout:
        pytest.skip("the table is of CUDA 13.0")
    row = row_of(name, tmp_path)
    assert row in (native.ROOT / "docs" / "gpu.md").read_text(), row
