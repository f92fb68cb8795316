"""Stage baseline: torch.nn alone, its times and the kernels that cuDNN chose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from . import grid
from .events import measure, microseconds
from .problems import GpuProblem, drawn_on, prepare
from .records import one_line

if TYPE_CHECKING:
    from bench.case import ModuleRun

    from .worker import Work

_PROFILED_STEPS = 128
_TOP = 4


def top_kernels(run: ModuleRun) -> list[str]:
    """The kernels that took most of the time of one call, with their share and count."""
    run.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run.step()
        torch.cuda.synchronize()
    times = [(float(event.self_device_time_total), event.count, event.key) for event in found.key_averages()]
    total = sum(spent for spent, _, _ in times) or 1.0
    return [f"{spent / total:.0%} x{count} {name[:90]}" for spent, count, name in sorted(times, reverse=True)[:_TOP]]


def run(work: Work) -> int:
    """One record per problem."""
    failed = 0
    problems = [GpuProblem.parse(text) for text in grid.baseline_problems()]
    for asked in problems:
        if work.left < 1.0:
            work.record(status="skipped", case=asked.name, reason="no time left")
            continue
        try:
            with asked.settings():
                case = drawn_on(asked.problem, "cuda")
                task = prepare(torch.nn, case)
                timing = measure({"torch": task.step}, 0.15)["torch"]
                short = drawn_on(replace(asked.problem, time_steps=_PROFILED_STEPS), "cuda")
                kernels = top_kernels(prepare(torch.nn, short))
        except Exception as error:  # noqa: BLE001 - the other problems still run
            work.record(case=asked.name, status="failed", error=one_line(error))
            failed = 1
            continue
        work.record(
            case=asked.name, status="ok", theirs_us=microseconds(timing, asked.problem.time_steps), kernels=kernels
        )
    return failed
