"""Stage correctness: one schedule on every cell, type and shape against float64 on the CPU, three equal runs each.

Before each run the memory that torch hands out again is filled with NaNs: so it shows what a kernel does not write, or
reads before it is written.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn
from bench.case import Case, oracle
from bench.verify import TOLERANCES, Errors, failures

from . import grid
from .problems import GpuProblem, far_from_kinks, moved, prepare, schedule_of
from .records import STARTED, one_line

if TYPE_CHECKING:
    from bench.case import Results

    from .worker import Work

REPEATS = 3
_NAN_BYTE = 255  # all ones is a NaN in every float type
# Sizes of torch's caching allocator: small blocks come from segments of 2 MB, larger ones from 20 MB or their own.
_POISONED_BYTES = (*(1 << 9,) * 64, *(1 << 14,) * 64, *(1 << 19,) * 16, *(10 << 20,) * 4, 64 << 20)


def poison(device: str = "cuda") -> None:
    """Fill the caching allocator's free blocks with NaNs."""
    blocks = [torch.full((size,), _NAN_BYTE, dtype=torch.uint8, device=device) for size in _POISONED_BYTES]
    del blocks


def is_refusal(error: BaseException) -> bool:
    """Whether an exception is a schedule's reason for not running, and not an error of CUDA or a wrong result."""
    return isinstance(error, RuntimeError) and "no CUDA schedule for" in str(error)  # csrc/cuda/runtime.cu


def same_bits(a: Results, b: Results) -> bool:
    """Whether two runs gave the same values."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def draw(asked: GpuProblem) -> Case:
    """The case on the CPU; for relu in a rounded type one where rounding flips no derivative."""
    case = Case.draw(asked.problem)
    rounded = asked.type_name not in {"f32", "f64"}
    return far_from_kinks(case) if asked.problem.cell == "rnn_relu" and rounded else case


def check(asked: GpuProblem, case: Case, exact: dict[bool, Results], device: str = "cuda") -> dict[str, Any]:
    """Run the schedule on a case; the record's fields. What it raises is the schedule's refusal, or an error."""
    there = moved(case, device)
    ours, theirs, equal = Errors(), Errors(), True
    with asked.settings():
        for with_state, values in exact.items():
            first: Results | None = None
            torch.cuda.empty_cache()  # else the right results of another run might lie where nothing is written
            for _ in range(REPEATS):
                poison(device)
                found = prepare(fused_rnn, there).results(with_state=with_state)
                first = first or found
                equal = equal and same_bits(first, found)
            ours.add({name: value.cpu() for name, value in (first or {}).items()}, values)
            theirs.add(torch_results(there, with_state=with_state), values)
        lines = failures(ours, theirs, TOLERANCES[asked.tolerance_type])
        if not equal:
            lines.append(f"{REPEATS} runs differ")
        ran = schedule_of(there)
    if asked.schedule and asked.schedule not in ran:
        lines.append(f"explain names {ran}")
    return {
        "status": "failed" if lines else "ok",
        "schedule": ran,
        "failures": lines,
        "error_outputs": _worst(ours, gradients=False),
        "error_gradients": _worst(ours, gradients=True),
        "torch_error": max((error for error in theirs.by_name.values() if math.isfinite(error)), default=None),
    }


def torch_results(case: Case, *, with_state: bool) -> Results:
    """torch.nn's results on the CPU; none where it cannot run the case, so that the table of tolerances decides."""
    try:
        found = prepare(torch.nn, case).results(with_state=with_state)
    except RuntimeError:
        return {}
    return {name: value.cpu() for name, value in found.items()}


def _worst(errors: Errors, *, gradients: bool) -> float | None:
    worst = errors.worst(gradients=gradients)
    return worst[1] if worst else None


def exact_results(case: Case) -> dict[bool, Results]:
    """The results in float64, with and without initial states."""
    return {with_state: oracle(case, with_state=with_state) for with_state in (True, False)}


def run(work: Work) -> int:
    """Every problem of the part, which is a schedule; `train` includes the forward pass that saves."""
    torch.set_num_threads(3)  # the schedules run beside each other
    failed, left_out, right = 0, 0, 0
    for text in grid.checked_problems(work.part):
        asked = GpuProblem.parse(text, work.part)
        if work.left < 2.0:
            left_out += 1
            continue
        key = {"case": asked.name, "type": asked.type_name, "mode": asked.problem.mode}
        work.record(**key, status=STARTED)
        try:
            case = draw(asked)
            found = check(asked, case, exact_results(case))
        except Exception as error:  # noqa: BLE001 - the other problems still run
            refused = is_refusal(error) and work.part != "per_step"  # which takes everything
            work.record(**key, status="refused" if refused else "failed", reason=one_line(error, 300))
            failed |= not refused
            if not _gpu_works():
                work.record(status="failed", reason=f"the GPU's state is lost after {asked.name}")
                return 1
            continue
        work.record(**key, **found)
        failed |= found["status"] == "failed"
        right += found["status"] == "ok"
    if not right:
        work.record(status="failed", reason=f"{work.part} ran on no problem")
        failed = 1
    if left_out:
        work.record(status="skipped", reason=f"no time left for {left_out} problems of {work.part}")
    return failed


def _gpu_works() -> bool:
    """False after an error that no later call of this process survives."""
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return False
    return True
