"""How long calls take beside busy processes: fused_rnn and torch.nn, with all threads and with one.

Every situation starts its neighbours, processes that count without end, and ends them. In it the contenders take turns
by blocks of calls, since threads of one library that still spin would be one more neighbour to the next call of
another. A block begins with a rest, and with a call that is not timed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .case import Case
from .peers import BASELINE, PEERS, SUBJECT
from .problems import Problem
from .runner import WORKERS_SPIN, run_problem, thread_count
from .table import Table, ratio_cell
from .timing import Timing, gc_paused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .environment import Environment

PROBLEMS: tuple[Problem, ...] = tuple(
    Problem.parse(f"lstm:t100,b{batch},i{size},h{size},f32,{mode}")
    for mode in ("infer", "train")
    for batch, size in ((1, 64), (4, 128), (16, 128), (16, 256))
)
NEIGHBOURS = (0, 1, 2)
# Counts without end, but not beyond the process that started it, which may be killed before it ends its neighbours.
_NEIGHBOUR = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1000000):
        pass
"""
_BLOCKS, _LEAST_CALLS = 3, 3  # of each contender in a situation; of a block
CONTENDERS = ("fused", "fused, one thread", "torch", "torch, one thread")
_OTHERS = CONTENDERS[1:]


@dataclass
class BusyRow:
    """What was found on one problem beside so many busy processes."""

    problem: Problem
    neighbours: int
    timings: dict[str, Timing] = field(default_factory=dict)  # by contender
    failures: list[str] = field(default_factory=list)

    def ratio(self, quantile: float = 0.5) -> float | None:
        """The best median of the others over fused_rnn's time, at a quantile of its calls."""
        if not self.timings:
            return None
        return min(self.timings[name].median for name in _OTHERS) / self.timings["fused"].quantile(quantile)

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in seconds."""
        times = {
            name: {"minimum_s": t.minimum, "median_s": t.median, "p90_s": t.quantile(0.9), "calls": len(t.samples)}
            for name, t in self.timings.items()
        }
        return {
            "problem": str(self.problem),
            "neighbours": self.neighbours,
            "failures": self.failures,
            "contenders": times,
            "ratio_median": self.ratio(),
        }


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that never wait, ended with the block."""
    running = [subprocess.Popen([sys.executable, "-c", _NEIGHBOUR, str(os.getpid())]) for _ in range(count)]
    try:
        time.sleep(0.2 * bool(count))  # they start
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(problem: Problem, neighbours: int, seconds: float) -> BusyRow:
    """Verify, then time every contender for about `seconds` beside the neighbours."""
    verified = run_problem(problem, 1e-3)
    row = BusyRow(problem, neighbours, failures=verified.failures + list(verified.refusals.values()))
    if row.failures:
        return row
    case, threads = Case.draw(problem), torch.get_num_threads()
    runs = {name: PEERS[name].prepare(case).step for name in (SUBJECT, BASELINE)}
    samples: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with busy_processes(neighbours), gc_paused():
        for _ in range(_BLOCKS):
            for name in CONTENDERS:
                kind, _, alone = name.partition(", ")
                with thread_count(1 if alone else threads):
                    samples[name] += _block(runs[kind], seconds / _BLOCKS)
    row.timings = {name: Timing(tuple(values)) for name, values in samples.items()}
    return row


def _block(call: Callable[[], object], seconds: float) -> list[float]:
    """The time of each call."""
    time.sleep(WORKERS_SPIN)
    call()
    found: list[float] = []
    started = time.perf_counter()
    while len(found) < _LEAST_CALLS or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        call()
        found.append(time.perf_counter() - before)
    return found


def table(rows: Sequence[BusyRow]) -> Table:
    """Median and 90th percentile of each contender in milliseconds, and the ratio of medians."""

    def cell(row: BusyRow, name: str) -> str:
        if name not in row.timings:
            return "-"
        timing = row.timings[name]
        return f"{timing.median * 1e3:.2f} ({timing.quantile(0.9) * 1e3:.2f})"

    return Table(
        "Beside busy processes: median of a call (90th percentile), milliseconds",
        ("problem", "busy", *CONTENDERS, "ratio"),
        [
            (str(row.problem), str(row.neighbours), *(cell(row, name) for name in CONTENDERS), ratio_cell(row.ratio()))
            for row in rows
        ],
        bad=frozenset(index for index, row in enumerate(rows) if row.failures),
        note="ratio: the least median of the others over fused_rnn's with all threads.",
    )


def as_json(environment: Environment, rows: Sequence[BusyRow], seconds: float) -> dict[str, Any]:
    """Everything about a measurement."""
    return {"environment": environment, "seconds": seconds, "busy": [row.to_json() for row in rows]}
