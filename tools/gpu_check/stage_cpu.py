"""Stage cpu: a grid of problems on all cores of this machine's processor, while nothing else runs here."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from .stage_tests import BENCHMARK_NEEDS, lacking
from .stages import FOLDER, run_logged

if TYPE_CHECKING:
    from .worker import Work

HIDDEN = (256, 1024, 64)  # what a time limit cuts off comes last
_SHOWN_LINES = 20  # of the end of the output: the table of times
_LEAST_SECONDS = 10.0  # for the problems of a size


def problems(hidden: int) -> list[str]:
    """Those of a size."""
    return [f"lstm:t100,b{b},i{hidden},h{hidden},f32,{mode}" for mode in ("infer", "train") for b in (1, 16, 64)]


def run(work: Work) -> int:
    """Record the table of each size."""
    if missing := lacking(BENCHMARK_NEEDS):
        work.record(case="cpu", status="skipped", reason=missing)
        return 0
    failed = 0
    for hidden in HIDDEN:
        case = f"H={hidden} on {os.cpu_count()} cores"
        if work.left < _LEAST_SECONDS:
            work.record(case=case, status="skipped", reason="no time left")
            continue
        started = time.monotonic()
        command = [sys.executable, "-m", "bench", "run", *problems(hidden), "--seconds", "0.5"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        code, text = run_logged(command, FOLDER / f"cpu.{hidden}.log", work.left - 1.0, environment)
        print(text[-2000:])
        status = {0: "ok", None: "slow"}.get(code, "failed")
        failed |= status == "failed"
        lines = text.strip().splitlines()[-_SHOWN_LINES:]
        work.record(case=case, status=status, seconds=time.monotonic() - started, output=lines)
    return failed
