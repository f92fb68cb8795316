"""The stages of the check and how they run: each in processes of its own, with a time limit, whatever the others do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from build_support.toolchain import ROOT

from .records import STARTED, Record, read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

FOLDER = ROOT / "build" / "gpu_check"  # logs, records and programs of the last run
SCHEDULES = ("per_step", "small_block", "one_block", "cluster", "grid")
TOTAL_SECONDS = 465.0
GRACE_SECONDS = 4.0  # between the time that a worker is given and the time at which it is stopped
_LOG_TAIL = 4000  # characters of a log that are kept


@dataclass(frozen=True)
class Stage:
    """A module of this package with a function `run`, and its time."""

    name: str
    what: str
    limit: float
    """Seconds after which it is stopped."""
    least: float
    """Seconds that the stages before it must leave."""
    parts: tuple[str, ...] = ("all",)
    """What runs beside each other, a process each."""


_OF_TESTS = ("cuda", "default", "avx512", "cpu_bench", "nccl")

STAGES = (
    Stage("build", "compile the CUDA kernels for this GPU alone", 240, 60),
    Stage("micro", "barriers, exchange, products, copies and the gaps between kernels by themselves", 60, 25),
    Stage("baseline", "torch.nn (cuDNN): times, and the kernels that run", 30, 15),
    Stage("correctness", "every schedule, cell and type against float64", 75, 40, SCHEDULES),
    Stage("sanitizer", "compute-sanitizer on tiny problems", 50, 20, ("memcheck", "racecheck", "synccheck")),
    Stage("graph", "CUDA graphs, another stream, 70,000 steps", 30, 12),
    Stage("tests", "tests/test_cuda.py, CPU tests, a CPU benchmark, NCCL on two GPUs", 50, 20, _OF_TESTS),
    Stage("bench", "fused_rnn against torch.nn", 150, 90),
    Stage("shapes", "every shape of every persistent schedule, against the model that chooses one", 60, 20),
    Stage("cpu", "a grid of problems on all cores of the processor", 60, 12),
    Stage("peers", "fused_rnn against FlashRNN and xlstm, where they are installed", 90, 5, ("flashrnn", "xlstm")),
)


@dataclass
class Part:
    """What became of one process of a stage."""

    name: str
    status: str
    """`ok`, `failed` or `timed out`."""
    seconds: float
    records: list[Record] = field(default_factory=list)
    log: str = ""
    """The end of its output, where it did not end well."""


@dataclass
class StageResult:
    """What became of a stage."""

    name: str
    status: str
    """`ok`, `failed`, `timed out` or `no time left`."""
    seconds: float = 0.0
    parts: list[Part] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """The records of all parts."""
        return [record for part in self.parts for record in part.records]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def choose(names: Sequence[str], stages: Sequence[Stage] = STAGES) -> list[Stage]:
    """The named stages in their own order, all for none; ValueError for a name that is not there."""
    known = [stage.name for stage in stages]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown stage {', '.join(unknown)}: use {', '.join(known)}")
    return [stage for stage in stages if not names or stage.name in names]


def time_for(stage: Stage, later: Iterable[Stage], left: float) -> float:
    """Seconds for a stage: its limit, or what is left after the least of the later ones, but not under its own least.

    The least of a stage is kept even where all is late, down to what is left at all.
    """
    free = left - sum(other.least for other in later)
    return min(stage.limit, max(free, min(stage.least, left)))


Command = list[str]


def worker_command(stage: str, part: str, records: Path, seconds: float) -> Command:
    """The process of one part."""
    return [sys.executable, "-m", f"{__package__}.worker", stage, part, str(records), f"{seconds:.1f}"]


def run_stage(
    stage: Stage,
    seconds: float,
    folder: Path,
    command: Callable[[str, str, Path, float], Command] = worker_command,
) -> StageResult:
    """Run the parts of a stage beside each other; what is not done in time is stopped with everything it started."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    running = [_Running(stage.name, part, folder, command, seconds) for part in stage.parts]
    try:
        parts = [process.wait(started + seconds) for process in running]
    finally:
        for process in running:
            process.stop()
    worst = next((s for s in ("timed out", "failed") if s in {part.status for part in parts}), "ok")
    return StageResult(stage.name, worst, time.monotonic() - started, parts)


def run_logged(
    command: Command, log: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Run within a stage: the exit code, None for a process that had to be stopped, and its output.

    The output goes to a file: whoever else holds a pipe would keep this process waiting.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            code: int | None = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    return code, log.read_text(encoding="utf-8", errors="replace")


class _Running:
    """A process with its log and its records."""

    def __init__(
        self, stage: str, part: str, folder: Path, command: Callable[[str, str, Path, float], Command], seconds: float
    ) -> None:
        self._part = part
        self._records = folder / f"{stage}.{part}.jsonl"
        self._log = folder / f"{stage}.{part}.log"
        self._records.unlink(missing_ok=True)
        self._started = time.monotonic()
        budget = max(seconds - GRACE_SECONDS, seconds / 2)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command(stage, part, self._records, budget),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, deadline: float) -> Part:
        """What became of it by the deadline."""
        try:
            code: int | None = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        self.stop()
        records = read_records(self._records)
        bad = code != 0 or any(record.get("status") in {"failed", STARTED} for record in records)
        status = "timed out" if code is None else "failed" if bad else "ok"
        log = self._log.read_text(encoding="utf-8", errors="replace")
        seconds = time.monotonic() - self._started
        return Part(self._part, status, seconds, records, log[-_LOG_TAIL:] if status != "ok" else "")

    def stop(self) -> None:
        """End the process and what it started; for one that has ended, what it may have left behind."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
