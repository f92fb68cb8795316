"""Compile a written cell for the GPUs of this machine, as `_cell_compiler` does for its processor.

Environment: CUDA_HOME (the toolkit, else the nvcc in PATH), and what `_cell_compiler` has.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fused_rnn import _ops
from fused_rnn._cell_compiler import (
    CompileError,
    Module,
    find_compiler,
    further_flags,
    in_cache,
    make,
    name_of,
    sources_mark,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fused_rnn._cell_source import CellSource

_MODULE = """\
// A library with one cell for one type on GPUs, written by fused_rnn.
#include "cuda/cell_module.cuh"

#include "{title}.h"

extern "C" __attribute__((visibility("default"))) const fused_rnn::cuda::CellModule& fused_rnn_cuda_cell_module() {{
  using namespace fused_rnn::cuda;
  return cell_module<fused_rnn::own::{title}, {type}>(fused_rnn::DataType::{data_type}, "{sources}");
}}
"""
_OLDEST = (8, 0)
_OWN_FLAGS = {"-std=c++20", "-O3"}  # nvcc's; it passes the others on to the C++ compiler


def architectures() -> list[str]:
    """Of the GPUs that are visible and new enough, in nvcc's words: 80, 90a."""
    visible = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    found = sorted(capability for capability in visible if capability >= _OLDEST)
    if not found:
        raise CompileError("no GPU of compute capability 8.0 or newer is visible")
    return [f"{major}{minor}" + "a" * ((major, minor) == (9, 0)) for major, minor in found]


def find_nvcc() -> str:
    """That of CUDA_HOME, else the one in PATH."""
    home = Path(os.environ.get("CUDA_HOME") or os.devnull, "bin", "nvcc")
    found = str(home) if os.access(home, os.X_OK) else shutil.which("nvcc")
    if found is None:
        raise CompileError("no nvcc was found, which compiles for GPUs: install a CUDA toolkit, or set CUDA_HOME")
    return found


def compile_library(source: CellSource, dtype: torch.dtype, targets: Sequence[str], path: Path) -> None:
    """Have a cell compiled for a type and architectures; what ptxas says of registers and spills is its log."""
    text = text_of(_MODULE, source, dtype, sources_mark("cuda"))

    def command() -> list[str]:
        words = find_compiler()
        compiler = [word for word in words if not word.startswith("-")][-1]  # there may be a launcher before it
        further = [*(word for word in words if word.startswith("-")), *further_flags()]
        flags = [*json.loads(_ops.CELL_FLAGS)["common"], *further]
        passed = [word for flag in flags for word in ([flag] if flag in _OWN_FLAGS else ["-Xcompiler", flag])]
        codes = [word for name in targets for word in ("-gencode", f"arch=compute_{name},code=sm_{name}")]
        return [
            find_nvcc(),
            "-ccbin",
            compiler,
            *passed,
            *codes,
            "--expt-relaxed-constexpr",
            "-Xptxas",
            "-v",
            "-shared",
        ]

    make(
        path,
        source,
        f"{name_of(dtype)}, {', '.join(f'sm_{name}' for name in targets)}",
        Module("module.cu", text, command),
    )


def load(source: CellSource, dtype: torch.dtype) -> None:
    """Have the kernels of a cell for a type on the GPUs of this machine: from the cache, or compiled."""
    built = _ops.build_info()["cuda"]
    if built.startswith("not built"):
        raise CompileError(f"its CUDA kernels need a fused_rnn with CUDA, and this one is {built}")
    load_for(architectures(), source, dtype)


def load_for(targets: Sequence[str], source: CellSource, dtype: torch.dtype) -> None:
    """The same for given architectures."""

    def use(path: Path) -> None:
        compile_library(source, dtype, targets, path)
        _ops.load_cuda_cell(str(path), sources_mark("cuda"), dtype)

    in_cache(f"{source.name}-{name_of(dtype)}-sm_{'_'.join(targets)}-{sources_mark('cuda')}.so", use)
