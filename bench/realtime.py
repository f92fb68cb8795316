"""Single steps and blocks of the C library beside those of `fused_rnn.Stepper`, which must have the same bits.

The program examples/realtime/step_times, which CMake builds, makes the steps of the C library. A sample is a problem's
T steps; its figure is the time of one.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn

from .case import Case
from .noise import MARK, current_load, noise_of
from .problems import Problem
from .table import Table
from .timing import Timing, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .environment import Environment

PROGRAM = Path("build/cmake/examples/realtime/step_times")
PROBLEMS: tuple[Problem, ...] = tuple(
    Problem.parse(f"{cell}:t64,b1,i{inputs},h{hidden},f32,infer")
    for cell in ("lstm", "gru")
    for inputs, hidden in (*((1, hidden) for hidden in (8, 16, 24, 40, 64, 128)), (64, 64), (128, 128), (256, 256))
)
STEP, BLOCK = "C, step", "C, block"


@dataclass
class RealtimeRow:
    """What was found on one problem: seconds of one step by contender."""

    problem: Problem
    timings: dict[str, Timing] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    noise: str | None = None  # why the times are not to be trusted

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = {
            name: {
                "minimum_s": timing.minimum,
                "median_s": timing.median,
                "maximum_s": timing.quantile(1.0),
                "99_percent_s": timing.quantile(0.99),
            }
            for name, timing in self.timings.items()
        }
        return {"problem": str(self.problem), "failures": self.failures, "noise": self.noise, "contenders": found}


def _run_program(
    program: Path, layer: torch.nn.Module, case: Case, seconds: float
) -> tuple[torch.Tensor, dict[str, Timing]]:
    """The outputs [T, B, H] of the C library and its times."""
    with tempfile.TemporaryDirectory() as name:
        model, x, y = (Path(name, each) for each in ("model.frnn", "x", "y"))
        fused_rnn.save_stream(layer, model)
        x.write_bytes(case.x.numpy().tobytes())
        command = [program, model, x, y, case.problem.batch, seconds]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(result.stderr.strip())
        outputs = torch.frombuffer(bytearray(y.read_bytes()), dtype=torch.float32)
    lines = zip((STEP, BLOCK), result.stdout.splitlines(), strict=True)
    times = {name: Timing(tuple(map(float, line.split()))) for name, line in lines}
    return outputs.view(len(case.x), case.problem.batch, -1), times


def measure_realtime(problem: Problem, program: Path, seconds: float) -> RealtimeRow:
    """Compare the outputs of both, then time each for half of the seconds."""
    row, case = RealtimeRow(problem), Case.draw(problem)
    layer = problem.make_layer(fused_rnn)
    layer.load_state_dict(dict(case.weights))
    stepper, steps = fused_rnn.Stepper(layer, problem.batch), case.x.unbind(0)
    outputs = stepper.steps(case.x)
    rows = outputs.clone().unbind(0)
    try:
        found, row.timings = _run_program(program, layer, case, seconds / 2)
    except RuntimeError as error:
        row.failures.append(str(error))
        return row
    if not torch.equal(found, outputs):
        row.failures.append(f"outputs differ by {(found - outputs).abs().max().item():.1e}")
        return row

    def one_by_one() -> None:
        for x_t, y_t in zip(steps, rows, strict=True):
            stepper.step(x_t, y_t)

    runs = {"Stepper, step": one_by_one, "Stepper, block": lambda: stepper.steps(case.x, outputs)}
    for name, timing in measure(runs, seconds / 2).items():
        row.timings[name] = Timing(tuple(sample / problem.time_steps for sample in timing.samples), timing.cpu)
    row.noise = noise_of(row.timings, current_load())
    return row


def table(rows: Sequence[RealtimeRow]) -> Table:
    """Nanoseconds of one step."""
    columns = (
        (f"{STEP}: median", STEP, lambda timing: timing.median),
        ("99 %", STEP, lambda timing: timing.quantile(0.99)),
        ("most", STEP, lambda timing: timing.quantile(1.0)),
        (f"{BLOCK}: median", BLOCK, lambda timing: timing.median),
        ("Stepper, step: median", "Stepper, step", lambda timing: timing.median),
        ("Stepper, block: median", "Stepper, block", lambda timing: timing.median),
    )

    def cell(row: RealtimeRow, name: str, figure: Any) -> str:
        return f"{figure(row.timings[name]) * 1e9:.0f}{MARK * bool(row.noise)}" if name in row.timings else "-"

    return Table(
        "Real time: nanoseconds of one step",
        ("problem", *(title for title, _, _ in columns)),
        [(str(row.problem), *(cell(row, name, figure) for _, name, figure in columns)) for row in rows],
        bad=frozenset(index for index, row in enumerate(rows) if row.failures),
    )


def as_json(environment: Environment, rows: Sequence[RealtimeRow], seconds: float) -> dict[str, Any]:
    """Everything about a measurement."""
    return {"environment": environment, "seconds": seconds, "realtime": [row.to_json() for row in rows]}
