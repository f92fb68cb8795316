"""The instructions in the step loops of small_block, counted where nvcc and cuobjdump are: the table of docs/gpu.md."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from tests.counted_kernels import compiled_loops, page_of_counts
from tools import loop_report

MOST_A_ROW = 70  # instructions of a lane, with the best number of rows
KINDS = [f"{name}, {dtype}" for dtype in ("float32", "TF32", "bfloat16") for name in ("forward", "backward")]
NORMS = [f"{name}, {dtype}, norms" for dtype in ("float32", "bfloat16") for name in ("forward", "backward")]
SOURCE = """\
#include "cells/lstm.h"
#include "cuda/run_persistent.cuh"
namespace fused_rnn::cuda {
template <class Kernel>
void compile() { launch(Kernel{}, LaunchShape{}, nullptr); }
template <template <class, class, class, Features> class PassOf>
void compile_pass() {
  using Float32 = PassOf<LstmCell, float, int, Features::kNone>;
  using Rounded = PassOf<LstmCell, TFloat32, int, Features::kNone>;
  using Half = PassOf<LstmCell, BFloat16, int, Features::kNone>;
  compile<SmallBlockKernel<Float32, LaneGemm<Float32, 1>>>();
  compile<SmallBlockKernel<Float32, LaneGemm<Float32, 2>>>();
  compile<SmallBlockKernel<Float32, LaneGemm<Float32, 4>>>();
  compile<SmallBlockKernel<Float32, LaneGemm<Float32, 8>>>();
  compile<SmallBlockKernel<Rounded, TileGemm<Rounded, 1>>>();
  compile<SmallBlockKernel<Rounded, TileGemm<Rounded, 2>>>();
  compile<SmallBlockKernel<Half, TileGemm<Half, 1>>>();
  compile<SmallBlockKernel<Half, TileGemm<Half, 2>>>();
  using Float32Norms = NormPass<PassOf<LstmCell, float, int, Features::kAll>>;
  using HalfNorms = NormPass<PassOf<LstmCell, BFloat16, int, Features::kAll>>;
  compile<SmallBlockKernel<Float32Norms, LaneGemm<Float32Norms, 1>>>();
  compile<SmallBlockKernel<Float32Norms, LaneGemm<Float32Norms, 4>>>();
  compile<SmallBlockKernel<HalfNorms, TileGemm<HalfNorms, 1>>>();
}
void compile_all() {
  compile_pass<ForwardPass>();
  compile_pass<BackwardPass>();
}
}  // namespace fused_rnn::cuda
"""


class Row(NamedTuple):
    """A row of the table: a kernel and what was counted."""

    kind: str  # pass and type, and whether with layer norms
    rows: int
    instructions: int
    counts: dict[str, int]
    registers: int

    @property
    def a_row(self) -> float:
        """Instructions for each row."""
        return self.instructions / self.rows

    def __str__(self) -> str:
        rows = str(self.rows) if "float32" in self.kind or self.rows > 4 else "1 to 4"
        counted = " | ".join(str(self.counts[name]) for name in ("FFMA", "HMMA", "MUFU", "SHFL", "LDS"))
        return f"| {self.kind} | {rows} | {self.instructions} | {self.a_row:.0f} | {counted} | {self.registers} |"


def row_of(loop: loop_report.Loop, registers: int) -> Row:
    """What a kernel's name says, and its loop."""
    forward, lanes = "ForwardPass" in loop.kernel, re.search(r"LaneGemmI.*Li(\d)E", loop.kernel)
    tiles = re.search(r"TileGemmI.*Li(\d)E", loop.kernel)
    if lanes is not None:
        name, rows = "float32", int(lanes[1])
    else:
        assert tiles is not None
        name, rows = ("TF32" if "TFloat32" in loop.kernel else "bfloat16"), 4 * int(tiles[1])
    counts = {kind: loop.counts[kind] for kind in loop_report.SHOWN}
    kind = f"{'forward' if forward else 'backward'}, {name}{', norms' if 'NormPass' in loop.kernel else ''}"
    return Row(kind, rows, loop.length, counts, registers)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    loops = compiled_loops(SOURCE, tmp_path_factory.mktemp("small_block"))
    assert len(loops) == 22
    rows = [row_of(loop, registers) for loop, registers in loops]
    return sorted(rows, key=lambda row: ([*KINDS, *NORMS].index(row.kind), row.rows))


def test_a_lane_needs_few_instructions_for_each_row(counted: list[Row]) -> None:
    for kind in KINDS:
        least = min(row.a_row for row in counted if row.kind == kind)
        assert least <= MOST_A_ROW, kind


def test_the_page_has_the_counted_instructions(counted: list[Row]) -> None:
    page = page_of_counts()
    for kinds in (KINDS, NORMS):
        table = "\n".join(str(row) for row in counted if row.kind in kinds)
        assert table in page, table
