"""The instructions in the step loops of scatter.cuh, counted where nvcc and cuobjdump are: rows of docs/gpu.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.counted_kernels import compiled_loops, page_of_counts

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
    ((loop, registers),) = compiled_loops(SOURCE.replace("CELL_AND_TYPE", KERNELS[name]), folder)
    counted = " | ".join(str(loop.counts[kind]) for kind in ("HMMA", "LDS", "STS", "BAR"))
    return f"| {name}, scattered | {loop.length} | {counted} | {registers} |"


@pytest.mark.parametrize("name", KERNELS)
def test_the_page_has_the_counted_instructions(name: str, tmp_path: Path) -> None:
    row = row_of(name, tmp_path)
    assert row in page_of_counts(), row
