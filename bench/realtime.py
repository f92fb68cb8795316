"""Single steps and blocks of the C library beside those of `fused_rnn.Stepper`, which must have the same bits.

The program examples/realtime/step_times, which CMake builds, makes the steps of the C library. A sample is a problem's
T steps; its figure is the time of one.

Where the environment variable RTNEURAL_DIR names a checkout of RTNeural (github.com/jatinchowdhury18/RTNeural), the
program is compiled again for each LSTM and GRU of one row, with the problem's sizes, for this processor. It then also
times the compile-time sizes of both, whose outputs must be near those of the library. `--against` adds torch's C++ and
the C API of ONNX Runtime in the same way, on one thread.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import torch

import fused_rnn

from .case import Case
from .noise import MARK, current_load, noise_of
from .problems import Problem
from .table import Table
from .timing import Timing, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .environment import Environment

PROGRAM = Path("build/cmake/examples/realtime/step_times")
PROBLEMS: tuple[Problem, ...] = tuple(
    Problem.parse(f"{cell}:t64,b1,i{inputs},h{hidden},f32,infer")
    for cell in ("lstm", "gru")
    for inputs, hidden in (*((1, hidden) for hidden in (8, 16, 24, 40, 64, 128)), (64, 64), (128, 128), (256, 256))
)
LIBRARY = ("C, step", "C, block")  # of these contenders the outputs have the bits of a Stepper
TOLERANCE = 2e-6  # of the others: sums in another order, and other approximations
ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples/realtime"
FLAGS = ("-std=c++20", "-O3", "-DNDEBUG", "-march=" + "native", "-w")  # for this machine alone


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


class Peer(NamedTuple):
    """Another program's steps, compiled: an object, and the words that link it."""

    name: str
    words: tuple[str, ...]


def _torch_words() -> tuple[list[str], list[str]]:
    """Words that compile for torch's C++ API, and words that link it."""
    folder = Path(torch.__file__).parent
    libraries = f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'}"
    return [f"-isystem{folder / 'include'}"], [*libraries, "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]


def _onnxruntime_words() -> tuple[list[str], list[str]]:
    """The same for ONNX Runtime, whose package of Python has no headers."""
    folder = os.environ.get("ONNXRUNTIME_DIR")
    if not folder:
        raise click.UsageError("ONNXRUNTIME_DIR must name a release of ONNX Runtime for C, with include and lib.")
    library = Path(folder).resolve() / "lib"
    return [f"-isystem{Path(folder) / 'include'}"], [f"-L{library}", f"-Wl,-rpath,{library}", "-lonnxruntime"]


PEERS: dict[str, Callable[[], tuple[list[str], list[str]]]] = {
    "torch": _torch_words,
    "onnxruntime": _onnxruntime_words,
}


def _compiler() -> list[str]:
    return [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS]


def compiled_peer(name: str, folder: Path) -> Peer:
    """The peer of this name; its steps are compiled in the folder, for all problems."""
    compile_words, link_words = PEERS[name]()
    source, target = EXAMPLES / f"{name}_steps.cpp", folder / f"{name}.o"
    _run([*_compiler(), *compile_words, "-c", str(source), "-o", str(target)])
    return Peer(name, (str(target), *link_words))


def _with_peers(problem: Problem, program: Path, rtneural: str | None, peers: Sequence[Peer], folder: Path) -> Path:
    """The program compiled with the peers, and for the problem's sizes with RTNeural."""
    built, compiled = program.parent.parent.parent, folder / "step_times"
    words = [f"-DWITH_{peer.name.upper()}" for peer in peers]
    if rtneural:
        sizes = {"CELL": problem.cell.capitalize(), "INPUT": problem.input_size, "HIDDEN": problem.hidden_size}
        defined = {**sizes, "WITH_RTNEURAL": 1, "RTNEURAL_USE_EIGEN": 1, "EIGEN_STACK_ALLOCATION_LIMIT": 0}
        words += [f"-D{name}={value}" for name, value in defined.items()]
        words += [f"-isystem{Path(rtneural, path)}" for path in (".", "modules/Eigen", "modules/json")]
    words += [f"-I{path}" for path in (ROOT / "include", built / "include")]
    objects = [word for peer in peers for word in peer.words]
    parts = (EXAMPLES / "step_times.cpp", built / "libfused_rnn.a", "-o", compiled)
    _run([*_compiler(), *words, *map(str, parts), *objects])
    return compiled


def _run(command: Sequence[str]) -> str:
    """What a command prints; its errors are a RuntimeError."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip()[-2000:])
    return result.stdout


def _run_program(
    program: Path, layer: torch.nn.Module, case: Case, seconds: float, peers: Sequence[Peer]
) -> tuple[dict[str, torch.Tensor], dict[str, Timing]]:
    """The outputs [T, B, H] of each contender of the program, and its times."""
    problem = case.problem
    has_known_sizes = problem.batch == 1 and problem.cell in {"lstm", "gru"}
    rtneural = os.environ.get("RTNEURAL_DIR") if has_known_sizes else None
    with tempfile.TemporaryDirectory() as name:
        if rtneural or peers:
            program = _with_peers(problem, program, rtneural, peers, Path(name))
        model, x, y = (Path(name, each) for each in ("model.frnn", "x", "y"))
        fused_rnn.save_stream(layer, model)
        if any(peer.name == "onnxruntime" for peer in peers):
            from .onnx_peers import recurrent_model

            one_step = replace(case, problem=replace(problem, time_steps=1))
            onnx = recurrent_model(one_step, with_state=True).SerializeToString()
            model.with_name("model.frnn.onnx").write_bytes(onnx)
        x.write_bytes(case.x.numpy().tobytes())
        printed = _run([str(word) for word in (program, model, x, y, problem.batch, seconds)])
        outputs = torch.frombuffer(bytearray(y.read_bytes()), dtype=torch.float32)
    lines = dict(line.split(":") for line in printed.splitlines())
    times = {name: Timing(tuple(map(float, samples.split()))) for name, samples in lines.items()}
    found = outputs.view(len(times), len(case.x), problem.batch, -1)
    return dict(zip(times, found, strict=True)), times


def measure_realtime(problem: Problem, program: Path, seconds: float, peers: Sequence[Peer] = ()) -> RealtimeRow:
    """Compare the outputs of all, then time the program and the Stepper for half of the seconds each."""
    row, case = RealtimeRow(problem), Case.draw(problem)
    layer = problem.make_layer(fused_rnn)
    layer.load_state_dict(dict(case.weights))
    stepper, steps = fused_rnn.Stepper(layer, problem.batch), case.x.unbind(0)
    outputs = stepper.steps(case.x)
    rows = outputs.clone().unbind(0)
    try:
        found, row.timings = _run_program(program, layer, case, seconds / 2, peers)
    except RuntimeError as error:
        row.failures.append(str(error))
        return row
    for name, y in found.items():
        off = (y - outputs).abs().max().item()
        if not torch.equal(y, outputs) if name in LIBRARY else not off <= TOLERANCE:
            row.failures.append(f"outputs of {name} differ by {off:.1e}")
    if row.failures:
        row.timings.clear()
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
    """Nanoseconds of one step, in a line for each contender."""
    lines: list[tuple[str, ...]] = []
    bad: set[int] = set()
    for row in rows:
        if row.failures:
            bad.add(len(lines))
            lines.append((str(row.problem), *"-----"))
        for name, timing in row.timings.items():
            figures = (timing.minimum, timing.median, timing.quantile(0.99), timing.quantile(1.0))
            cells = (f"{figure * 1e9:.0f}{MARK * bool(row.noise)}" for figure in figures)
            lines.append((str(row.problem), name, *cells))
    titles = ("problem", "contender", "least", "median", "99 %", "most")
    return Table("Real time: nanoseconds of one step", titles, lines, left=2, bad=frozenset(bad))


def as_json(environment: Environment, rows: Sequence[RealtimeRow], seconds: float) -> dict[str, Any]:
    """Everything about a measurement."""
    return {"environment": environment, "seconds": seconds, "realtime": [row.to_json() for row in rows]}
