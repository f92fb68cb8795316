"""Stage bench: fused_rnn against torch.nn in turns, each size verified first; then each schedule by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn
from bench.verify import TOLERANCES, Errors, failures

from . import grid
from .events import measure, microseconds
from .problems import GpuProblem, drawn_on, exact_of, prepare, schedule_of
from .records import STARTED, one_line
from .stage_correctness import is_refusal

if TYPE_CHECKING:
    from .worker import Work

_VERIFIED_STEPS = 48
_SECONDS = 0.3  # of timing for each problem
_FORCED_SHARE = 0.25  # of the stage's time for the schedules by themselves


def fields(asked: GpuProblem) -> dict[str, Any]:
    """What the table shows of a problem."""
    problem = asked.problem
    return {
        "cell": problem.cell,
        "hidden": problem.hidden_size,
        "batch": problem.batch,
        "type": asked.type_name,
        "options": "packed" if asked.packed else "bi" if problem.bidirectional else "",
        "mode": problem.mode,
    }


def verify(asked: GpuProblem, device: str = "cuda") -> tuple[float, list[str]]:
    """The largest error over the first steps against torch.nn in float64, and what is above its tolerance."""
    case = drawn_on(replace(asked.problem, time_steps=_VERIFIED_STEPS), device)
    exact = exact_of(case, packed=asked.packed)
    ours, theirs = Errors(), Errors()
    ours.add(prepare(fused_rnn, case, packed=asked.packed).results(with_state=True), exact)
    theirs.add(prepare(torch.nn, case, packed=asked.packed).results(with_state=True), exact)
    return max(ours.by_name.values()), failures(ours, theirs, TOLERANCES[asked.tolerance_type])


def run_one(asked: GpuProblem) -> dict[str, Any]:
    """Verify and time one problem."""
    with asked.settings():
        error, lines = verify(asked)
        case = drawn_on(asked.problem, "cuda")
        ran = schedule_of(case)
        if lines:
            return {"status": "failed", "schedule": ran, "error": error, "failures": lines}
        tasks = {"ours": prepare(fused_rnn, case, packed=asked.packed).step}
        if not asked.schedule:
            tasks["theirs"] = prepare(torch.nn, case, packed=asked.packed).step
        timings = measure(tasks, _SECONDS if not asked.schedule else _SECONDS / 3)
    found = {f"{name}_us": microseconds(timing, asked.problem.time_steps) for name, timing in timings.items()}
    return {"status": "ok", "schedule": ran, "error": error, **found}


def run(work: Work) -> int:
    """First the comparison, then, in a share of the time kept for it, the forced schedules."""
    failed, left_out = 0, 0
    kept = work.left * _FORCED_SHARE
    listed = [(text, "") for text in grid.timed_problems()] + grid.forced_problems()
    for text, schedule in listed:
        asked = GpuProblem.parse(text, schedule)
        if work.left < (2.0 if schedule else kept):
            left_out += 1
            continue
        work.record(case=asked.name, status=STARTED, forced=schedule, **fields(asked))
        try:
            found = run_one(asked)
        except Exception as error:  # noqa: BLE001 - the other problems still run
            refused = bool(schedule) and is_refusal(error)
            found = {"status": "refused" if refused else "failed", "reason": one_line(error, 300)}
        work.record(case=asked.name, forced=schedule, **fields(asked), **found)
        failed |= found["status"] == "failed"
    if left_out:
        work.record(status="skipped", reason=f"no time left for {left_out} of {len(listed)} problems")
    return failed
