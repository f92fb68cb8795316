"""Whether other work disturbed a measurement: a judgement from a few numbers, which starts and reads nothing.

Three signs are looked at. CPU time against wall time: a call that computes all the time gets at least one core on a
quiet machine. The median against the minimum: samples of a quiet machine differ by a few percent. The load average:
more processes than cores want to run. It lags by a minute, so that a moderate load only makes the second sign stricter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .timing import Timing

LEAST_CPU = 0.9  # CPU seconds of the process in a second of calls
# Median over minimum. Of the kept runs against torch.nn alone (bench/results, 2026-11), 3 of 584 rows are above 2.
MOST_SPREAD, MOST_SPREAD_UNDER_LOAD = 2.0, 1.3
MOST_LOAD = 1.5  # processes that want to run, per core

MARK = "*"  # of a noisy figure, in tables and charts


class Load(NamedTuple):
    """Processes that wanted to run in the last minute, and the cores of the machine."""

    processes: float
    cores: int


def current_load() -> Load:
    """The load average of now; 0 where the system keeps none."""
    processes = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return Load(processes, os.cpu_count() or 1)


def noise_of(timings: Mapping[str, Timing], load: Load) -> str | None:
    """Why times are not to be trusted, in a few words, or None.

    Example::

        noise_of({"fused": Timing((1.0, 3.0, 3.0), cpu=0.6)}, Load(1.0, 2))
        # "fused got 0.60 of a core; the median of fused is 3.0 times the minimum"
    """
    reasons = []
    starved = {name: timing.cpu for name, timing in timings.items() if timing.cpu is not None}
    if starved and min(starved.values()) < LEAST_CPU:
        name = min(starved, key=lambda name: starved[name])
        reasons.append(f"{name} got {starved[name]:.2f} of a core")
    spreads = {name: timing.median / timing.minimum for name, timing in timings.items() if timing.minimum > 0.0}
    most = MOST_SPREAD_UNDER_LOAD if load.processes > load.cores else MOST_SPREAD
    if spreads and max(spreads.values()) > most:
        name = max(spreads, key=lambda name: spreads[name])
        reasons.append(f"the median of {name} is {spreads[name]:.1f} times the minimum")
    if timings and load.processes > MOST_LOAD * load.cores:
        reasons.append(f"the load average is {load.processes:.1f} on {load.cores} cores")
    return "; ".join(reasons) or None


def noise_lines(reasons: Mapping[str, str | None]) -> list[str]:
    """What is said at the end of a run, of the rows by name: each noisy one with its reason, and what follows."""
    lines = [f"noisy {name}: {reason}" for name, reason in reasons.items() if reason]
    if not lines:
        return []
    told = f"noisy: {len(lines)} of {len(reasons)} rows, marked {MARK}, are left out of the means"
    return [*lines, f"{told}; time them again while the machine has nothing else to do"]
