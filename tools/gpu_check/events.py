"""Timing on a GPU: CUDA events around runs of calls, the tasks in turns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from bench.timing import Timing, gc_paused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SAMPLE_SECONDS = 4e-3  # far above the cost of an event and of an idle GPU's first launch
MOST_REPEATS = 64
LEAST_ROUNDS, MOST_ROUNDS = 3, 25


def event_sample(task: Callable[[], object], repeats: int) -> float:
    """Mean seconds per call between two events around `repeats` calls."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(repeats):
        task()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3 / repeats


def measure(
    tasks: Mapping[str, Callable[[], object]],
    seconds: float,
    sample: Callable[[Callable[[], object], int], float] = event_sample,
) -> dict[str, Timing]:
    """Time the tasks in turns (A B, B A, ...) for about `seconds`, after two calls of each as warm-up."""
    with gc_paused():
        repeats = {}
        for name, task in tasks.items():
            sample(task, 1)
            once = sample(task, 1)
            repeats[name] = max(1, min(MOST_REPEATS, round(SAMPLE_SECONDS / once))) if once > 0 else MOST_REPEATS
        started = time.monotonic()
        samples: dict[str, list[float]] = {name: [] for name in tasks}
        order = list(tasks)
        for done in range(MOST_ROUNDS):
            if done >= LEAST_ROUNDS and time.monotonic() - started >= seconds:
                break
            for name in order:
                samples[name].append(sample(tasks[name], repeats[name]))
            order.reverse()
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def microseconds(timing: Timing, time_steps: int) -> dict[str, float]:
    """Minimum and median for each time step, by the names in the records."""
    return {"min": timing.minimum / time_steps * 1e6, "median": timing.median / time_steps * 1e6}
