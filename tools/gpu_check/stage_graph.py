"""Stage graph: CUDA graphs of forward and training equal eager runs, so does another stream; and 70,000 steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn
from bench.case import Case, oracle
from bench.verify import TOLERANCES, Errors, failures

from .problems import GpuProblem, moved, prepare, schedule_of
from .records import STARTED, one_line
from .stage_correctness import is_refusal, poison, same_bits, torch_results
from .stages import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.case import Results

    from .worker import Work

# One that every schedule may take somewhere: a small, a middle and a large hidden size.
_CAPTURED = ("lstm:t20,b8,i64,h96,bf16", "lstm:t20,b16,i64,h512,bf16", "gru:t20,b4,i64,h256,bi,tf32")
_LONG = ("lstm:t70000,b1,i4,h24,f32,infer", "gru:t70000,b2,i4,h24,bf16,infer", "lstm:t70000,b1,i4,h24,f32,train")


def largest_difference(a: Results, b: Results) -> float:
    """The largest difference of a result relative to its largest value."""
    if a.keys() != b.keys():
        return math.inf
    errors = [(a[name].double() - b[name].double()).abs().max() / b[name].double().abs().max() for name in a]
    return max(float(error) for error in errors)


def captured(run: Callable[[], Results]) -> Results:
    """What two replays of a CUDA graph of `run` leave, where only NaNs were before."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # what happens once only: handles, attributes of kernels
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    for value in results.values():
        value.fill_(math.nan)
    graph.replay()
    graph.replay()
    torch.cuda.synchronize()
    return {name: value.clone() for name, value in results.items()}


def on_other_stream(run: Callable[[], Results]) -> Results:
    """The results of a run on a stream of its own, while the default stream is busy poisoning other memory."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    poison()
    with torch.cuda.stream(stream):
        results = run()
    stream.synchronize()
    return results


def check_equal(asked: GpuProblem) -> dict[str, Any]:
    """Graph and stream against the eager run."""
    case = moved(Case.draw(asked.problem), "cuda")
    with asked.settings():
        run = prepare(fused_rnn, case)

        def results() -> Results:
            return run.results(with_state=True)

        eager = results()
        others = {"graph": captured(results), "stream": on_other_stream(results)}
        ran = schedule_of(case)
    equal = {name: same_bits(found, eager) for name, found in others.items()}
    differences = {name: largest_difference(found, eager) for name, found in others.items()}
    # The library may choose another product for the weights' gradients while it is captured: rounding differs then.
    allowed = 1e-2 if asked.type_name in {"bf16", "f16", "tf32"} else 1e-5
    far = {name: difference for name, difference in differences.items() if not difference <= allowed}
    return {
        "status": "failed" if far else "ok",
        "schedule": ran,
        "failures": [f"{name}: differs by {difference:.1e}, allowed {allowed:.0e}" for name, difference in far.items()],
        "bitwise": equal,
        "differences": differences,
    }


def check_long(asked: GpuProblem, case: Case, exact: Results, device: str = "cuda") -> dict[str, Any]:
    """Many steps against float64."""
    errors = Errors()
    there = moved(case, device)
    with asked.settings():
        found = prepare(fused_rnn, there).results(with_state=True)
        ran = schedule_of(there)
    theirs = Errors()
    theirs.add(torch_results(case, with_state=True), exact)  # on the CPU: cuDNN refuses more than 65,535 steps
    errors.add({name: value.cpu() for name, value in found.items()}, exact)
    lines = failures(errors, theirs, TOLERANCES[asked.tolerance_type])
    return {
        "status": "failed" if lines else "ok",
        "schedule": ran,
        "failures": lines,
        "error": max(errors.by_name.values()),
        "torch_error": max(theirs.by_name.values(), default=None),
    }


def run(work: Work) -> int:
    """Each with the schedule that is chosen, then with each forced one."""
    failed = 0

    def attempt(name: str, check: Callable[[], dict[str, Any]]) -> None:
        nonlocal failed
        if work.left < 2.0:
            work.record(case=name, status="skipped", reason="no time left")
            return
        work.record(case=name, status=STARTED)
        try:
            found = check()
        except Exception as error:  # noqa: BLE001 - the other checks still run
            found = {"status": "refused" if is_refusal(error) else "failed", "reason": one_line(error, 300)}
        work.record(case=name, **found)
        failed |= found["status"] == "failed"

    for schedule in ("", *SCHEDULES):
        for text in _CAPTURED:
            for mode in ("infer", "train"):
                asked = GpuProblem.parse(f"{text},{mode}", schedule)
                attempt(f"graph {asked.name}", lambda asked=asked: check_equal(asked))  # type: ignore[misc]
    for text in _LONG:
        problem = GpuProblem.parse(text).problem
        case = Case.draw(problem)
        try:
            exact = oracle(case, with_state=True)
        except RuntimeError as error:
            work.record(case=f"long {text}", status="failed", reason=one_line(error))
            failed = 1
            continue
        for schedule in ("", *SCHEDULES):
            asked = GpuProblem.parse(text, schedule)
            attempt(
                f"long {asked.name}",
                lambda asked=asked, case=case, exact=exact: check_long(asked, case, exact),  # type: ignore[misc]
            )
    return failed
