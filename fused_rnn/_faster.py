"""What would be faster than what a layer runs: changes that the caller can make, measured or asked of the planner.

Measured on two cores of an EPYC (Zen 4), 2026-11-29, LSTM, T = 100, B = 16, H = 256, as parts of float32's training
time: bfloat16 0.60, the precision switch 0.58, autocast 0.63, float64 2.2. A forward pass under torch.no_grad() takes
0.6 of one that keeps what the gradients need, and a Stepper's step 0.16 of a layer's call (docs/performance.md).
"""

from __future__ import annotations

import math
import os
import re
from typing import Any, NamedTuple

import torch

from fused_rnn import _ops


class Situation(NamedTuple):
    """What is known of a layer's call."""

    problem: _ops.Problem
    training: bool  # whether a gradient is wanted
    evaluated: bool  # whether the layer is in evaluation mode
    autocast: bool
    gpu: Any = None  # as `_ops.cuda_options` takes it; None: the CPU


def faster(situation: Situation) -> tuple[str, ...]:
    """What to change, in words; nothing where nothing is known."""
    found = _on_cpu(situation) if situation.gpu is None else _on_gpu(situation)
    if situation.training and situation.evaluated:
        found.insert(0, "torch.no_grad(), if no gradient is needed")
    return tuple(found)


def _on_cpu(situation: Situation) -> list[str]:
    problem, training, found = situation.problem, situation.training, []
    if situation.autocast:
        found.append(f"layer.to({torch.get_autocast_dtype('cpu')}) in place of autocast")
    elif problem.dtype == torch.float64:
        found.append("float32")
    elif problem.dtype == torch.float32 and problem.time_steps > 1 and _may_round(problem):
        found.append('torch.backends.mkldnn.rnn.fp32_precision = "bf16" (less exact)')
    if problem.time_steps == 1 and not training and not (problem.normalized or problem.zoneout):
        found.append("fused_rnn.Stepper for single steps, which keeps weights and state packed")
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if threads < cores:
        used = _ops.cpu_plan(problem, training, cores)["forward"]["threads"]
        if used > threads:
            found.append(f"torch.set_num_threads({used})")
    return found


def _may_round(problem: _ops.Problem) -> bool:
    """Whether torch's switch would let GEMMs round their factors, and does not."""
    multiplies_bfloat16 = _ops.active_instruction_set().endswith("_bf16")
    plain = problem.cell not in _ops.LOADED and not _ops.is_variant(problem)
    return multiplies_bfloat16 and plain and not problem.rounds_factors


def _on_gpu(situation: Situation) -> list[str]:
    """The planner's own answer to another problem, with the time of a step that it expects."""
    problem, found = situation.problem, []
    before = _chosen(problem, situation.gpu)
    others = {}
    if problem.dtype == torch.float32 and not problem.rounds_factors:
        others['torch.backends.cudnn.rnn.fp32_precision = "tf32"'] = problem._replace(rounds_factors=True)
    if problem.dtype == torch.float64:
        others["float32"] = problem._replace(dtype=torch.float32)
    if problem.dtype == torch.float32:
        others["bfloat16"] = problem._replace(dtype=torch.bfloat16, rounds_factors=False)
    if problem.normalized:
        others["no layer_norm"] = problem._replace(normalized=False)
    for change, other in others.items():
        after = _chosen(other, situation.gpu)
        if after.microseconds < before.microseconds:
            found.append(f"{change} ({after.schedule}, {after.microseconds:.2f} us a step)")
    return found


class _Expected(NamedTuple):
    schedule: str
    microseconds: float  # of a step


def _chosen(problem: _ops.Problem, gpu: Any) -> _Expected:
    """What the forward pass would run, and the time that the planner's reason states; infinite where no kernel runs."""
    option = _ops.cuda_options(problem, False, gpu)[0]
    time = None if option["refused"] else re.match(r"about ([\d.]+) us a step", str(option["why"]))
    return _Expected(str(option["schedule"]), math.inf if time is None else float(time[1]))
