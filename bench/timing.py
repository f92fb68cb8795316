"""Interleaved timing of several tasks: they take turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median

Clock = Callable[[], float]

SAMPLE_SECONDS = 1e-3  # a sample repeats its task until it lasts about this long: far above the clock's own cost
MINIMUM_ROUNDS = 5  # even where the time is up: a median of fewer says little
_WARM_UP_SHARE = 0.15  # of the given time


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one figure per sample."""

    samples: tuple[float, ...]
    cpu: float | None = None  # CPU seconds of the process in a second of calls, where that was measured

    @property
    def minimum(self) -> float:
        """The least disturbed sample."""
        return min(self.samples)

    @property
    def median(self) -> float:
        """The typical sample."""
        return median(self.samples)

    def quantile(self, q: float) -> float:
        """The sample that a part `q` of all samples does not exceed."""
        return sorted(self.samples)[max(math.ceil(q * len(self.samples)) - 1, 0)]


@contextmanager
def gc_paused() -> Iterator[None]:
    """No garbage collection inside, as a collection would land in one sample of one task."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def sample(task: Callable[[], object], repeats: int, clock: Clock = time.perf_counter) -> float:
    """Mean seconds per call over `repeats` calls."""
    started = clock()
    for _ in range(repeats):
        task()
    return (clock() - started) / repeats


def repeats_for(task: Callable[[], object], clock: Clock = time.perf_counter) -> int:
    """How many calls make a sample of at least SAMPLE_SECONDS, by doubling."""
    repeats = 1
    while sample(task, repeats, clock) * repeats < SAMPLE_SECONDS:
        repeats *= 2
    return repeats


def measure(
    tasks: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Clock = time.perf_counter,
    idle: float = 0.0,
    cpu_clock: Clock = time.process_time,
) -> dict[str, Timing]:
    """Time the tasks in turns (A B, B A, A B, ...) for about `seconds` in total, after a warm-up.

    Each task gets the same number of samples. The order alternates, so that no task always runs in the other's wake.
    Where tasks have threads of different libraries, each sample begins with `idle` seconds of rest, in which the
    threads of the others stop to wait busily, and with one call that is not timed, which wakes the task's own.
    """

    def rested(name: str) -> float:
        if idle:
            time.sleep(idle)
            tasks[name]()
        before = cpu_clock()
        seconds_per_call = sample(tasks[name], repeats[name], clock)
        cpu[name] += cpu_clock() - before
        return seconds_per_call

    cpu = dict.fromkeys(tasks, 0.0)
    with gc_paused():
        started = clock()
        for task in tasks.values():
            task()  # first calls allocate and choose kernels
        repeats = {name: repeats_for(task, clock) for name, task in tasks.items()}
        while clock() - started < seconds * _WARM_UP_SHARE:
            for name, task in tasks.items():
                sample(task, repeats[name], clock)
        samples: dict[str, list[float]] = {name: [] for name in tasks}
        order = list(tasks)
        rounds = 0
        while rounds < MINIMUM_ROUNDS or clock() - started < seconds:
            for name in order:
                samples[name].append(rested(name))
            order.reverse()
            rounds += 1
    wall = {name: sum(values) * repeats[name] for name, values in samples.items()}
    return {name: Timing(tuple(values), cpu[name] / wall[name]) for name, values in samples.items()}


def geometric_mean(values: Iterable[float]) -> float:
    """The mean for ratios: twice as fast and half as fast average to 1. ValueError without values or for one <= 0."""
    logs = []
    for value in values:
        if value <= 0.0:
            raise ValueError(f"a geometric mean needs positive values, got {value}")
        logs.append(math.log(value))
    if not logs:
        raise ValueError("a geometric mean needs at least one value")
    return math.exp(fmean(logs))
