"""Kernels that a test compiles for sm_90a to count the instructions in their step loops."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from build_support import cuda as cuda_build
from build_support import native
from tools import loop_report, ptxas_report

if TYPE_CHECKING:
    from pathlib import Path


def compiled_loops(source: str, folder: Path) -> list[tuple[loop_report.Loop, int]]:
    """The step loop and the registers of every kernel of a CUDA source; each has one, and none spills."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or shutil.which("cuobjdump") is None:
        pytest.skip("no nvcc or no cuobjdump in PATH")
    file, cubin = folder / "kernels.cu", folder / "kernels.cubin"
    file.write_text(source)
    flags = ["-std=c++20", "-O3", "-Xptxas", "-v", "-arch=sm_90a", "-I", str(native.ROOT / "csrc")]
    command = [nvcc, *cuda_build.compiler_flags(native.compiler()), *flags, "-cubin", str(file), "-o", str(cubin)]
    compiled = cuda_build.run(command)
    assert compiled.returncode == 0, compiled.stdout
    functions = {one.name: one for one in ptxas_report.parse(compiled.stdout)}
    assert [str(one) for one in functions.values() if one.spill_stores or one.spill_loads] == []
    loops = loop_report.loops_of(cubin, "sm_90a")
    assert len(loops) == len(functions)
    return [(loop, functions[loop.kernel].registers) for loop in loops]


def page_of_counts() -> str:
    """The text of docs/gpu.md, whose counts are of one release of nvcc."""
    if "release 13.0" not in cuda_build.run(["nvcc", "--version"]).stdout:
        pytest.skip("the table is of CUDA 13.0")
    return (native.ROOT / "docs" / "gpu.md").read_text()
