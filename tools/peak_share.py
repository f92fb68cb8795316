"""Shares of the processor's peak: how many of one core's possible multiply-adds an LSTM's inference makes.

Usage: python -m tools.peak_share [--seconds 1], in the root of a checkout with the package built. It prints a Markdown
table for float32, T = 100, I = H, one thread. Operations are those of the two GEMMs, 2 * T * B * 4H * (I + H); the
peak is that of multiply-adds in registers, by tools/native/tile_speed.cpp, the least time of a run before and one after
each problem. So a share has in it everything else that a call does. A call's time is the processor time of its thread,
in which other work of the machine has no part but in the caches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from bench.problems import Problem
from bench.timing import measure
from fused_rnn import LSTM, build_info
from tools import perf_check
from tools.performance_tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

TIME_STEPS = 100
HIDDEN_SIZES, BATCHES = (64, 128, 256, 512, 1024), (1, 4, 16, 32, 64)
PEAK_ROUNDS = 10


class Share(NamedTuple):
    """What was measured of a problem; GFLOP/s by the least time."""

    hidden_size: int
    batch: int
    gflops: float
    of_peak: float
    median_of_peak: float


def peak_gflops(program: Path) -> float:
    """Of one core, in float32."""
    tile = next(tile for tile in perf_check.tile_speeds(program, PEAK_ROUNDS) if tile.name.startswith("float "))
    return tile.gflops / tile.share


def share_of(hidden_size: int, batch: int, seconds: float, peak: Callable[[], float]) -> Share:
    """One problem between two measurements of the peak."""
    problem = Problem("lstm", TIME_STEPS, batch, hidden_size, hidden_size, training=False)
    layer, x = LSTM(hidden_size, hidden_size), torch.randn(TIME_STEPS, batch, hidden_size)
    before = peak()
    with torch.no_grad():
        timing = measure({"layer": lambda: layer(x)}, seconds, clock=time.thread_time)["layer"]
    highest = max(before, peak())
    speed, usual = (1e-9 * problem.flops() / spent for spent in (timing.minimum, timing.median))
    return Share(hidden_size, batch, speed, speed / highest, usual / highest)


def as_table(shares: list[Share]) -> str:
    """Markdown: a row for each hidden size, a column for each batch; by the least time, in brackets by the median."""
    batches = sorted({share.batch for share in shares})
    rows = []
    for size in sorted({share.hidden_size for share in shares}):
        of_size = {share.batch: share for share in shares if share.hidden_size == size}
        cells = [f"{of_size[b].of_peak:.0%} ({of_size[b].median_of_peak:.0%})" if b in of_size else "" for b in batches]
        rows.append([str(size), *cells])
    return table(["H", *(f"B = {batch}" for batch in batches)], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of processor time for each problem")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    name = build_info()["active_instruction_set"].split("_")[0]
    with tempfile.TemporaryDirectory() as folder:
        program = perf_check.build("tile_speed", name, Path(folder))
        problems = [(size, batch) for size in HIDDEN_SIZES for batch in BATCHES]
        shares = [share_of(*problem, seconds, lambda: peak_gflops(program)) for problem in problems]
    print(f"{name}, peak of one core at most {max(share.gflops / share.of_peak for share in shares):.0f} GFLOP/s\n")
    print(as_table(shares))


if __name__ == "__main__":
    main()
