"""Problems on a GPU: a named problem, whether float32 products may be TF32, and a schedule to insist on."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

import fused_rnn
from bench.case import Case, ModuleRun, oracle
from bench.contenders import PackedRun, exact_packed
from bench.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from bench.case import Results

SCHEDULE_VARIABLE = "FUSED_RNN_CUDA_SCHEDULE"
# The type whose tolerance holds: TF32 keeps as many bits of a factor as float16.
_TOLERANCE_TYPE = {"tf32": torch.float16}


@dataclass(frozen=True)
class GpuProblem:
    """A problem of `bench.problems`, with `tf32` as a type and `packed` as an option; and a forced schedule or none."""

    problem: Problem
    tf32: bool = False
    schedule: str = ""
    packed: bool = False
    """Whether the input is a PackedSequence of random lengths."""

    @classmethod
    def parse(cls, text: str, schedule: str = "") -> GpuProblem:
        """The problem named by `text`, e.g. `lstm:t1024,b16,i512,h512,tf32,train`."""
        cell, _, rest = text.partition(":")
        fields = rest.split(",")
        tf32, packed = "tf32" in fields, "packed" in fields
        plain = ",".join("f32" if field == "tf32" else field for field in fields if field != "packed")
        return cls(Problem.parse(f"{cell}:{plain}"), tf32, schedule, packed)

    def __str__(self) -> str:
        text = str(self.problem)
        text = text.replace(",f32,", ",tf32,") if self.tf32 else text
        return text.replace(f",{self.type_name},", f",packed,{self.type_name},") if self.packed else text

    @property
    def name(self) -> str:
        """The problem and the forced schedule."""
        return f"{self} {self.schedule}".rstrip()

    @property
    def type_name(self) -> str:
        """f32, tf32, f64, bf16 or f16."""
        return "tf32" if self.tf32 else self.problem.dtype_name

    @property
    def tolerance_type(self) -> torch.dtype:
        """The type under which the table of tolerances lists it."""
        return _TOLERANCE_TYPE.get(self.type_name, self.problem.dtype)

    @contextmanager
    def settings(self) -> Iterator[None]:
        """torch's TF32 switches and the forced schedule, put back at the end."""
        before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
        schedule_before = os.environ.pop(SCHEDULE_VARIABLE, None)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32
        if self.schedule:
            os.environ[SCHEDULE_VARIABLE] = self.schedule
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
            os.environ.pop(SCHEDULE_VARIABLE, None)
            if schedule_before is not None:
                os.environ[SCHEDULE_VARIABLE] = schedule_before


def moved(case: Case, device: str) -> Case:
    """The case with its tensors on a device."""
    return Case(
        case.problem,
        {name: weight.to(device) for name, weight in case.weights.items()},
        *(value.to(device) for value in (case.x, case.h_0, case.c_0, case.d_output, case.d_h_n, case.d_c_n)),
    )


def drawn_on(problem: Problem, device: str, seed: int = 0) -> Case:
    """A case whose values are drawn on the device, for sizes that take long on the CPU."""
    with torch.device(device):
        return Case.draw(problem, seed)


def far_from_kinks(case: Case) -> Case:
    """A case of an Elman layer with relu none of whose pre-activations is near 0, where rounding flips the derivative.

    Every other unit has a large positive bias and the rest a large negative one, and the weights are small.
    """
    weights = {}
    for name, weight in case.weights.items():
        if name.startswith("bias_ih"):
            signs = torch.ones_like(weight)
            signs[1::2] = -1.0
            weights[name] = 4.0 * signs
        else:
            weights[name] = 0.25 * weight
    return replace(case, weights=weights)


def prepare(namespace: ModuleType, case: Case, *, packed: bool = False) -> ModuleRun:
    """A layer of torch.nn or fused_rnn ready to run the case where its tensors are."""
    with torch.device(case.x.device):
        return PackedRun(namespace, case) if packed else ModuleRun(namespace, case)


def exact_of(case: Case, *, packed: bool = False) -> Results:
    """The results in float64 by torch.nn, with initial states, where the case's tensors are."""
    with torch.device(case.x.device):
        return (exact_packed if packed else oracle)(case, with_state=True)


def schedule_of(case: Case) -> str:
    """The schedules that fused_rnn.explain names for the passes, e.g. `cluster/grid`."""
    with torch.device(case.x.device):
        layer = case.problem.make_layer(fused_rnn)
    with torch.set_grad_enabled(case.problem.training):
        plan = fused_rnn.explain(layer, case.x).layers[0]
    named = [str(one.details["schedule"]) for one in plan.passes if "schedule" in one.details]
    return "/".join(named) or plan.schedule
