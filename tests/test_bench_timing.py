"""Timing helpers, on a clock that only the tasks move."""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.timing import MINIMUM_ROUNDS, SAMPLE_SECONDS, Timing, geometric_mean, measure, repeats_for, sample

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeClock:
    """Seconds since the start; a task made by `task` takes the time it is told and leaves its name in `calls`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.calls.append(name)

        return run


def test_a_sample_is_the_mean_of_its_calls() -> None:
    clock = FakeClock()
    assert sample(clock.task("a", 0.25), 8, clock) == 0.25
    assert len(clock.calls) == 8


@pytest.mark.parametrize(("seconds", "repeats"), [(2e-3, 1), (SAMPLE_SECONDS, 1), (2.0**-11, 4), (1e-5, 128)])
def test_a_sample_repeats_until_it_is_long_enough(seconds: float, repeats: int) -> None:
    clock = FakeClock()
    assert repeats_for(clock.task("a", seconds), clock) == repeats


def test_tasks_take_turns_in_alternating_order() -> None:
    clock = FakeClock()
    tasks = {name: clock.task(name, 0.01) for name in ("a", "b")}
    measure(tasks, 1.0, clock)
    rounds = "".join(clock.calls[-8:])
    assert rounds in {"abbaabba", "baabbaab"}
    assert clock.calls.count("a") == clock.calls.count("b")


def test_after_a_rest_a_task_runs_once_before_it_is_timed() -> None:
    clock = FakeClock()
    timings = measure({name: clock.task(name, 0.01) for name in ("a", "b")}, 1.0, clock, idle=1e-6)
    assert "".join(clock.calls[-8:]) in {"aabbbbaa", "bbaaaabb"}
    assert timings["a"].minimum == pytest.approx(0.01)


def test_measuring_keeps_to_its_budget_and_warms_up_first() -> None:
    clock = FakeClock()
    timings = measure({"a": clock.task("a", 0.01), "b": clock.task("b", 0.03)}, 2.0, clock)
    assert 2.0 <= clock.now < 2.0 + 0.05
    assert len(timings["a"].samples) == len(timings["b"].samples) < clock.calls.count("a")
    assert timings["a"].minimum == pytest.approx(0.01)
    assert timings["b"].median == pytest.approx(0.03)


def test_the_cpu_time_of_a_second_of_calls_is_kept() -> None:
    clock, cpu = FakeClock(), FakeClock()

    def starved() -> None:
        clock.now += 0.02
        cpu.now += 0.005

    assert measure({"a": starved}, 1.0, clock, cpu_clock=cpu)["a"].cpu == pytest.approx(0.25)


def test_a_task_slower_than_the_budget_still_gets_its_rounds() -> None:
    clock = FakeClock()
    timings = measure({"a": clock.task("a", 10.0)}, 1.0, clock)
    assert len(timings["a"].samples) == MINIMUM_ROUNDS


def test_garbage_collection_is_off_while_timing_and_on_again_after_an_error() -> None:
    seen: list[bool] = []

    def task() -> None:
        seen.append(gc.isenabled())
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        measure({"a": task}, 1.0)
    assert seen == [False]
    assert gc.isenabled()


def test_minimum_and_median_are_of_the_samples() -> None:
    timing = Timing((3.0, 1.0, 2.0, 10.0))
    assert (timing.minimum, timing.median) == (1.0, 2.5)


def test_twice_and_half_as_fast_average_to_one() -> None:
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1), st.floats(1e-3, 1e3))
def test_a_geometric_mean_scales_with_its_values_and_lies_between_them(values: list[float], factor: float) -> None:
    mean = geometric_mean(values)
    assert min(values) * (1 - 1e-12) <= mean <= max(values) * (1 + 1e-12)
    assert math.isclose(geometric_mean([factor * value for value in values]), factor * mean, rel_tol=1e-9)


@pytest.mark.parametrize(("values", "message"), [([], "at least one"), ([1.0, 0.0], "got 0.0"), ([-1.0], "got -1.0")])
def test_a_geometric_mean_refuses_what_has_none(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometric_mean(values)
