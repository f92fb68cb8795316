"""Peak memory of one pass: every peer on every problem in a fresh process, which measures itself.

The figure is by how much the peak of the resident size during the pass is above the resident size before it. By then,
libraries are loaded, threads started and kernels chosen, by a pass over two steps; parameters, input and the gradient
of the output are there, other gradients are not. `python -m bench.memory PEER PROBLEM THREADS` is such a process; it
prints the bytes. Linux alone.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .case import Case
from .peers import PEERS
from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

PROBLEMS: tuple[Problem, ...] = tuple(
    Problem.parse(f"{cell}:t2000,b16,i128,h128,f32,train") for cell in ("lstm", "gru", "rnn_tanh")
)

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5), clear_refs
# What is freed goes back to the system at once, so that a pass cannot live in what was freed before it.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}


@dataclass
class MemoryRow:
    """What was found on one problem."""

    problem: Problem
    bytes: dict[str, int] = field(default_factory=dict)  # by peer
    notes: dict[str, str] = field(default_factory=dict)  # by peer: why there is no figure

    def per_unit(self, peer: str) -> float | None:
        """Bytes per step, row and hidden unit (of all layers and directions)."""
        problem = self.problem
        units = problem.time_steps * problem.batch * problem.hidden_size * problem.layers * problem.directions
        return self.bytes[peer] / units if peer in self.bytes else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        peers = {
            name: {"bytes": size, "bytes_per_step_row_unit": self.per_unit(name)} for name, size in self.bytes.items()
        }
        return {"problem": str(self.problem), "peers": peers, "notes": self.notes}


def measure(problem: Problem, peers: Sequence[str], threads: int) -> MemoryRow:
    """The peak memory of each peer; what goes wrong is noted in the row."""
    row = MemoryRow(problem)
    for name in peers:
        if reason := PEERS[name].refuses(problem):
            row.notes[name] = reason
            continue
        try:
            row.bytes[name] = _measure_elsewhere(name, problem, threads)
        except RuntimeError as error:
            row.notes[name] = str(error)
    return row


def _measure_elsewhere(peer: str, problem: Problem, threads: int) -> int:
    """Bytes, by a fresh process; RuntimeError with the last line that it wrote where it fails."""
    command = [sys.executable, "-m", f"{__package__}.memory", peer, str(problem), str(threads)]
    done = subprocess.run(
        command, env=os.environ | _MALLOC, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return int(done.stdout)


def peak_growth(peer: str, problem: Problem) -> int:
    """Bytes by which one pass of this process is above its resident size. OSError where /proc does not tell."""
    PEERS[peer].prepare(Case.draw(replace(problem, time_steps=min(2, problem.time_steps)))).step()
    prepared = PEERS[peer].prepare(Case.draw(problem))
    gc.collect()
    _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    before = _resident("VmRSS")
    prepared.step()
    return max(_resident("VmHWM") - before, 0)


def _resident(field_name: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    kilobytes, _unit = lines[field_name].split()
    return int(kilobytes) * 1024


def main() -> None:
    """Measure what the command line says."""
    peer, problem, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    sys.stdout.write(f"{peak_growth(peer, Problem.parse(problem))}\n")


if __name__ == "__main__":
    main()
