"""Single steps of a stream, and blocks of them: Stepper, layers and cells of fused_rnn and torch.nn, and others.

A problem's T steps are made one by one, the state handed on, as a control loop would make them; a block makes them in
one call. Every contender's outputs are first held to torch.nn's in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import fused_rnn

from .case import Case, oracle, rounding
from .noise import MARK, current_load, noise_of
from .peers import PEERS, quantized_by_torch
from .problems import Problem
from .runner import WORKERS_SPIN
from .table import Table
from .timing import Timing, measure
from .verify import ROUNDED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from .environment import Environment

Run = Callable[[], Any]  # makes all steps; its outputs, stacked or in a list

PROBLEMS: tuple[Problem, ...] = tuple(
    Problem.parse(f"{cell}:t64,b1,i{size},h{size},f32,infer")
    for cell in ("lstm", "gru")
    for size in (16, 32, 64, 128, 256, 512)
)
_CELLS = {"lstm": "LSTMCell", "gru": "GRUCell", "rnn_tanh": "RNNCell", "rnn_relu": "RNNCell"}
# The largest error of an output, by what products take: float32, int8, bfloat16.
_EXACT, _INT8, _BF16 = 1e-5, *(ROUNDED[factors].outputs for factors in (torch.int8, torch.bfloat16))


@dataclass
class StepRow:
    """What was found on one problem."""

    problem: Problem
    timings: dict[str, Timing] = field(default_factory=dict)  # of all steps, by contender
    failures: list[str] = field(default_factory=list)
    noise: str | None = None  # why the times are not to be trusted

    def microseconds(self, name: str) -> float:
        """The least time of one step."""
        return self.timings[name].minimum / self.problem.time_steps * 1e6

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds of one step."""
        steps = self.problem.time_steps
        times = {
            name: {"minimum_s": t.minimum / steps, "median_s": t.median / steps} for name, t in self.timings.items()
        }
        return {
            "problem": str(self.problem),
            "failures": self.failures,
            "noise": self.noise,
            "contenders": times,
        }


def refuses(problem: Problem) -> str | None:
    """Why a problem has no steps to time."""
    if problem.training or problem.bidirectional or problem.layers > 1 or problem.proj:
        return "steps are of one layer in one direction, without a projection, in inference"
    return None if problem.dtype_name == "f32" else "steps are compared in float32, int8 and bfloat16 being columns"


def contenders(case: Case) -> Iterator[tuple[str, float, Run]]:
    """Name, tolerance and run of each."""
    problem, x = case.problem, case.x
    steps = x.unbind(0)
    layer = _layer(fused_rnn, case)
    stepper = fused_rnn.Stepper(layer, problem.batch)
    outputs = x.new_empty(len(x), problem.batch, problem.hidden_size)
    rows = outputs.unbind(0)

    def fresh(run: Run, of: fused_rnn.Stepper = stepper) -> Run:
        def reset_and_run() -> Any:
            of.reset()
            return run()

        return reset_and_run

    def into_rows() -> Tensor:
        for x_t, row in zip(steps, rows, strict=True):
            stepper.step(x_t, row)
        return outputs

    yield "Stepper", _EXACT, fresh(lambda: [stepper.step(x_t) for x_t in steps])
    yield "Stepper, out", _EXACT, fresh(into_rows)
    yield "Stepper, block", _EXACT, fresh(lambda: stepper.steps(x, outputs))
    small = fused_rnn.Stepper(layer, problem.batch, weights=torch.int8)
    yield "Stepper, int8", _INT8, fresh(lambda: [small.step(x_t) for x_t in steps], small)
    with rounding(torch.bfloat16):  # which layers do not follow in a single step
        rounded = fused_rnn.Stepper(layer, problem.batch)
    yield "Stepper, bf16", _BF16, fresh(lambda: [rounded.step(x_t) for x_t in steps], rounded)
    for name, module in (("fused", fused_rnn), ("torch", torch.nn)):
        yield f"{name} layer", _EXACT, _layer_loop(_layer(module, case), steps)
        yield f"{name} cell", _EXACT, _cell_loop(_cell(module, case), steps)
    if problem.cell in {"lstm", "gru"}:
        yield "torch.ao int8", _INT8, _layer_loop(quantized_by_torch(_layer(torch.nn, case)), steps)
    if not PEERS["onnxruntime"].missing():
        yield "ONNX Runtime", _EXACT, _onnx_loop(case)


def _layer(module: ModuleType, case: Case) -> torch.nn.Module:
    layer = case.problem.make_layer(module)
    layer.load_state_dict(dict(case.weights))
    return layer.eval()


def _cell(module: ModuleType, case: Case) -> torch.nn.Module:
    problem = case.problem
    options = {"nonlinearity": "relu"} if problem.cell == "rnn_relu" else {}
    cell: torch.nn.Module = getattr(module, _CELLS[problem.cell])(problem.input_size, problem.hidden_size, **options)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in case.weights.items()})
    return cell


def _layer_loop(layer: torch.nn.Module, steps: Sequence[Tensor]) -> Run:
    sequences = [x_t[None] for x_t in steps]

    def run() -> list[Tensor]:
        state, outputs = None, []
        for x_t in sequences:
            y, state = layer(x_t, state)
            outputs.append(y[0])
        return outputs

    return run


def _cell_loop(cell: torch.nn.Module, steps: Sequence[Tensor]) -> Run:
    def run() -> list[Tensor]:
        state, outputs = None, []
        for x_t in steps:
            state = cell(x_t, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return outputs

    return run


def _onnx_loop(case: Case) -> Run:
    from .onnx_peers import step_session

    infer, names = step_session(case)
    xs = case.x[:, None].numpy()
    zeros = torch.zeros(1, case.problem.batch, case.problem.hidden_size).numpy()

    def run() -> list[Tensor]:
        state: Mapping[str, Any] = dict.fromkeys(names, zeros)
        outputs = []
        for x_t in xs:
            found = infer({"x": x_t, **state})
            state = {name: found[name.replace("_0_", "_n_")] for name in names}
            outputs.append(torch.from_numpy(found["output"])[0])
        return outputs

    return run


def measure_steps(problem: Problem, seconds: float) -> StepRow:
    """Verify every contender, then time them in turns."""
    row, runs = StepRow(problem), {}
    case = Case.draw(problem)
    expected = oracle(case, with_state=False)["output"]
    with torch.no_grad():
        for name, tolerance, run in contenders(case):
            found = run()
            error = ((torch.stack(found) if isinstance(found, list) else found) - expected).abs().max().item()
            if not error <= tolerance:
                row.failures.append(f"{name}: error {error:.1e}")
            runs[name] = run
        if not row.failures:
            row.timings = measure(runs, seconds, idle=WORKERS_SPIN)
            row.noise = noise_of(row.timings, current_load())
    return row


def table(rows: Sequence[StepRow]) -> Table:
    """Microseconds of one step."""
    names = tuple(dict.fromkeys(name for row in rows for name in row.timings))

    def cell(row: StepRow, name: str) -> str:
        return f"{row.microseconds(name):.2f}{MARK * bool(row.noise)}" if name in row.timings else "-"

    return Table(
        "Steps: microseconds of one (least)",
        ("problem", *names),
        [(str(row.problem), *(cell(row, name) for name in names)) for row in rows],
        bad=frozenset(index for index, row in enumerate(rows) if row.failures),
    )


def as_json(environment: Environment, rows: Sequence[StepRow], seconds: float) -> dict[str, Any]:
    """Everything about a measurement."""
    return {"environment": environment, "seconds": seconds, "steps": [row.to_json() for row in rows]}
