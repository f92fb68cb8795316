"""The judgement of noise, on given numbers."""

from __future__ import annotations

import pytest

from bench.noise import Load, noise_lines, noise_of
from bench.timing import Timing

QUIET = Load(0.4, 2)


def timing(minimum: float, median: float, cpu: float | None = 1.0) -> Timing:
    return Timing((minimum, median, median), cpu)


@pytest.mark.parametrize(
    ("fused", "torch", "load"),
    [
        (timing(1.0, 1.2), timing(4.0, 5.0), QUIET),
        (timing(1.0, 1.9), timing(4.0, 5.0, 1.97), QUIET),  # two threads
        (timing(1.0, 1.25), timing(4.0, 5.0), Load(2.4, 2)),  # a load that says little yet
        (timing(1.0, 1.0, None), timing(4.0, 4.0, None), QUIET),
        (timing(0.0, 1.0), timing(4.0, 4.0), QUIET),  # a clock too coarse
    ],
)
def test_a_quiet_machine_is_not_blamed(fused: Timing, torch: Timing, load: Load) -> None:
    assert noise_of({"fused": fused, "torch": torch}, load) is None


@pytest.mark.parametrize(
    ("torch", "load", "reason"),
    [
        (timing(4.0, 5.0, 0.55), QUIET, "torch got 0.55 of a core"),
        (timing(4.0, 10.0), QUIET, "the median of torch is 2.5 times the minimum"),
        (timing(4.0, 6.0), Load(2.4, 2), "the median of torch is 1.5 times the minimum"),
        (timing(4.0, 4.0), Load(3.5, 2), "the load average is 3.5 on 2 cores"),
        (
            timing(1.0, 9.0, 0.2),
            QUIET,
            "torch got 0.20 of a core; the median of torch is 9.0 times the minimum",
        ),
    ],
)
def test_each_sign_is_a_reason(torch: Timing, load: Load, reason: str) -> None:
    assert noise_of({"fused": timing(1.0, 1.1), "torch": torch}, load) == reason


def test_what_was_not_timed_is_not_noisy() -> None:
    assert noise_of({}, Load(9.0, 2)) is None


def test_a_quiet_run_has_nothing_to_say() -> None:
    assert noise_lines({"a": None, "b": None}) == []
