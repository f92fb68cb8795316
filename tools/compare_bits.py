"""Compare the bits of two versions of fused_rnn: `python -m tools.compare_bits OLD [NEW]`, folders that hold fused_rnn.

Each version runs the same seeded problems in a process of its own. Both write down a hash of every result: outputs,
states and cells with and without gradients, all gradients, and the steps of a Stepper. The problems use the public API
alone, so that versions may differ inside. NEW is this checkout unless it is given; a folder of site-packages works too.
A difference need not be a fault (a better kernel may round elsewhere), but it must be meant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from build_support.toolchain import ROOT
from tools.fuzz.case import Case, compatible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from tools.fuzz.problem import Problem

    Hashes = Mapping[str, str]

PROBLEMS = 200
# Around the widths of vectors and tiles; the large ones are worth two threads and more than one block of a GEMM.
_HIDDEN = (1, 3, 5, 8, 13, 16, 17, 31, 33, 48, 65, 96, 129, 257)
_INPUT = (1, 2, 7, 16, 33, 64, 101)
_STEPS = (1, 1, 2, 3, 5, 9, 17, 40)


def problem(index: int) -> Case:
    """The problem with this index. Every 33 of them have all batch sizes up to 33."""
    rng = random.Random(f"bits:{index}")  # noqa: S311

    def chance(probability: float) -> bool:
        return rng.random() < probability

    module = rng.choices(("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"), (9, 7, 5, 2, 2, 2))[0]
    dtype = rng.choices(("float32", "float64", "bfloat16", "float16"), (5, 2, 2, 2))[0]
    case = Case(
        module=module, dtype=dtype, seed=index, t=rng.choice(_STEPS), b=1 + index % 33, i=rng.choice(_INPUT),
        h=rng.choice(_HIDDEN), bias=chance(0.8), training=chance(0.8), states=chance(0.6), again=rng.choice((1, 2)),
        relu=module.startswith("RNN") and chance(0.5), x_layout="transposed" if chance(0.1) else "",
    )  # fmt: skip
    return compatible(case if case.is_cell else _of_layer(case, rng))


def _of_layer(case: Case, rng: random.Random) -> Case:
    """The case with what layers have and cells have not; half of the layers have nothing that torch.nn has not."""

    def chance(probability: float) -> bool:
        return rng.random() < probability

    given: dict[str, Any] = vars(case) | {
        "layers": rng.choice((1, 1, 2)), "bidirectional": chance(0.3), "batch_first": chance(0.3),
        "dropout": 0.5 if chance(0.1) else 0.0, "proj": 1 + case.h // 2 if case.is_lstm and chance(0.2) else 0,
        "lengths": "int64" if chance(0.3) else "", "resets": chance(0.2), "cells": case.is_lstm and chance(0.3),
        "form": rng.choices(("padded", "packed", "unsorted", "unbatched"), (7, 1, 1, 1))[0],
    }  # fmt: skip
    if given["proj"] >= case.h:
        given["proj"] = 0
    if chance(0.5):
        given |= {
            "layer_norm": chance(0.25), "zoneout": rng.choice((0.0, 0.0, 0.1, 0.5)), "recompute": chance(0.2),
            "recurrent_dropout": rng.choice((0.0, 0.0, 0.3)), "weight_dropout": rng.choice((0.0, 0.0, 0.0, 0.5)),
            "peephole": case.is_lstm and chance(0.7), "cell_clip": 0.3 if case.is_lstm and chance(0.6) else None,
        }  # fmt: skip
    return Case(**given)


def digest(tensor: Tensor) -> str:
    """A hash of type, shape and bits; -0 is not 0."""
    import torch

    values = tensor.detach().resolve_neg().contiguous()
    data = values.reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{values.dtype}{tuple(values.shape)}".encode() + data).hexdigest()[:16]


def hashes(case: Case) -> dict[str, str]:
    """Those of all results of the problem; what raises has its error instead."""
    import torch

    from tools.fuzz.problem import build

    found: dict[str, str] = {}
    torch.set_num_threads(case.again)
    for name, results in {"infer": _infer, "train": _train, "stepper": _step}.items():
        try:
            made = build(case)
            torch.manual_seed(case.seed)  # which draws all masks
            found |= {f"{name} {each}": digest(value) for each, value in results(made)}
        except Exception as error:  # noqa: BLE001, PERF203 - whatever a version raises is its result
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


def _infer(given: Problem) -> Iterator[tuple[str, Tensor]]:
    import torch

    from tools.fuzz.problem import call

    with torch.no_grad():
        yield from call(given, given.module, given.inputs).items()


def _train(given: Problem) -> Iterator[tuple[str, Tensor]]:
    """Results, and the gradients of all inputs and parameters."""
    import torch

    from tools.fuzz.problem import call, incoming

    results = call(given, given.module, given.inputs)
    arriving = incoming(given.case, results)
    yield from results.items()
    torch.autograd.backward([results[name] for name in arriving], list(arriving.values()))
    yield from ((f"d_{name}", leaf.grad) for name, leaf in given.leaves.items() if leaf.grad is not None)


def _step(given: Problem) -> Iterator[tuple[str, Tensor]]:
    """Three steps of a Stepper, with each way of keeping its weights, and the state behind them."""
    import torch

    import fused_rnn

    case = given.case
    if case.is_cell or case.bidirectional or case.layer_norm or case.zoneout or case.dtype in {"float16", "bfloat16"}:
        return
    x = torch.randn(3, case.b, case.i, dtype=getattr(torch, case.dtype))
    for weights in (None, torch.bfloat16, torch.int8) if case.dtype == "float32" else (None,):
        stepper = fused_rnn.Stepper(given.module, case.b, weights=weights)
        yield from ((f"{weights} {time}", stepper.step(step)) for time, step in enumerate(x))
        state = stepper.state
        yield from ((f"{weights} state {n}", s) for n, s in enumerate(state if isinstance(state, tuple) else (state,)))


def work(folder: Path, problems: range) -> None:
    """The process of one version: a line for each problem."""
    import warnings

    sys.path.insert(0, str(folder))
    import fused_rnn

    sys.path.remove(str(folder))  # fused_rnn finds its parts itself, and tools are those of this checkout
    if Path(fused_rnn.__file__).resolve().parent.parent != folder:
        raise SystemExit(f"{folder} holds no fused_rnn")
    warnings.simplefilter("ignore")
    for index in problems:
        print(json.dumps(hashes(problem(index))), flush=True)


def hashes_of(folder: Path, problems: range) -> list[Hashes]:
    """Those of each problem by the version in `folder`."""
    options = ["--work", "--first", str(problems.start), "--problems", str(len(problems))]
    command = [sys.executable, "-m", "tools.compare_bits", str(folder.resolve()), *options]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{folder}: the process ended with {result.returncode}, above")
    return [json.loads(line) for line in result.stdout.splitlines()]


def differing(old: Hashes, new: Hashes) -> list[str]:
    """The names of the results whose bits differ, or that one version lacks."""
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def compare(old: Path, new: Path, problems: range) -> dict[int, list[str]]:
    """The results that differ, by the index of their problem."""
    pairs = zip(problems, hashes_of(old, problems), hashes_of(new, problems), strict=True)
    return {index: names for index, one, other in pairs if (names := differing(one, other))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 where bits differ."""
    parser = argparse.ArgumentParser(prog="python -m tools.compare_bits", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=ROOT)
    parser.add_argument("--problems", type=int, default=PROBLEMS)
    parser.add_argument("--first", type=int, default=0, help="index of the first problem")
    parser.add_argument("--show", type=int, default=10, help="how many problems that differ are named")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    problems = range(given.first, given.first + given.problems)
    if given.work:
        work(given.old, problems)
        return 0
    found = compare(given.old, given.new, problems)
    for index in list(found)[: given.show]:
        print(f"--first {index} --problems 1: {', '.join(found[index])}\n    {problem(index)}")
    print(f"{len(problems)} problems, {len(found)} with other bits")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
