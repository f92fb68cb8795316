"""Drawn cells: the C++ of each, compiled for vectors as the kernels have them, against the autograd of torch.

The schedules hand any cell its values and take any cell's gradients; tests/test_recurrent.py runs them. Here is what
differs from cell to cell: the trace, the derivatives, what is saved, and the text.
"""

from __future__ import annotations

import random
import subprocess
from itertools import product
from math import nan
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from build_support import native
from fused_rnn import _reference, cells
from fused_rnn.cells import source_of

if TYPE_CHECKING:
    from pathlib import Path

    from fused_rnn._cell_source import CellSource

CELLS = 200
UNITS = 2  # with numbers of their own: the doubles of the narrowest vector, SSE2's and NEON's
UNARY = (
    *("sigmoid", "tanh", "relu", "softplus", "abs", "exp", "log", "sqrt", "neg", "square"),
    *("log_sigmoid", "hard_sigmoid", "clip"),
)
NANS = ("none", "gate", "gradient")  # where they are, in turn
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "where")


def bounded(name: str, x: Any) -> Any:
    """An operation of one value, within its domain and without large results."""
    if name == "exp":
        return cells.exp(-cells.abs(x))
    if name in {"log", "sqrt"}:
        return getattr(cells, name)(1 + x * x)
    if name == "neg":
        return -x
    if name == "clip":
        return cells.clip(x, -0.75, 0.5)
    return x**2 if name == "square" else getattr(cells, name)(x)


def combined(name: str, a: Any, b: Any) -> Any:
    """An operation of two values."""
    if name == "add":
        return a + b
    if name == "sub":
        return a - b
    if name == "mul":
        return a * b
    if name == "div":
        return a / (1.5 + b * b)
    return cells.where(a < b, 0.5 * a, b + 0.25) if name == "where" else getattr(cells, name)(a, b)


def drawn_cell(seed: int) -> fused_rnn.Cell:
    """A cell whose step is a drawn expression graph, the same one at each call."""
    draw = random.Random(seed)
    recurrent, others, states, units = draw.randint(0, 3), draw.randint(0, 2), draw.randint(1, 4), draw.randint(0, 2)
    gates = tuple(f"g{k}" for k in range(recurrent))
    input_gates = tuple(f"i{k}" for k in range(max(others, 1 - recurrent)))
    names = tuple(f"s{k}" for k in range(states))
    weights = tuple(f"w{k}" for k in range(units))
    plan = [(draw.random(), draw.choice(UNARY), draw.choice(BINARY), draw.random(), draw.random()) for _ in range(12)]
    split = [draw.random() < 0.3 for _ in gates]

    def step(_: Any, gate: Any, state: Any, unit: Any = None) -> dict[str, Any]:
        values = [
            *(getattr(gate.x, g) * 0.7 + getattr(gate.h, g) if apart else getattr(gate, g)
              for g, apart in zip(gates, split, strict=True)),
            *(getattr(gate, g) for g in input_gates),
            *(getattr(state, name) for name in names),
            *(getattr(unit, name) for name in weights),
        ]  # fmt: skip
        every = sum(values[1:], values[0]) * 0.1  # nothing is left out
        for kind, unary, binary, first, second in plan:
            a, b = values[int(first * len(values))], values[int(second * len(values))]
            values.append(bounded(unary, a) if kind < 0.5 else combined(binary, a, b))
        made = values[-states:]
        return {name: cells.tanh(value + every) for name, value in zip(names, made, strict=True)}

    attributes = {"gates": gates, "input_gates": input_gates, "states": names, "unit_weights": weights, "step": step}
    found: fused_rnn.Cell = type(f"Drawn{seed}", (fused_rnn.Cell,), attributes)()
    return found


def cell_of_one_function(name: str) -> fused_rnn.Cell:
    """A cell whose h is a function of its gates, and of nothing else, so that a NaN is seen to go through it or not."""
    gates = ("a", "b")[: 1 + (name in BINARY)]

    def step(_: Any, gate: Any, state: Any) -> dict[str, Any]:  # noqa: ARG001
        return {"h": combined(name, gate.a, gate.b) if name in BINARY else bounded(name, gate.a)}

    found: fused_rnn.Cell = type(f"Only_{name}", (fused_rnn.Cell,), {"gates": gates, "step": step})()
    return found


# Reads numbers, and writes what both passes make of them. The units of a value follow each other.
DRIVER = """
#include "cpu/simd/compiler_isa.h"
// (first: the cells need its names)
#include "cells/cell_math.h"
#include "cpu/simd/cell_math.h"
#include <cmath>
#include <cstdio>
#include <cstdlib>
INCLUDES
using namespace fused_rnn;
using V = Vec<double>;

template <class Values>
void read(Values& values, int count) {
  for (int k = 0; k < count; ++k) {
    double units[V::kLanes];
    for (double& unit : units) {
      if (std::scanf("%lf", &unit) != 1) std::abort();
    }
    values[k] = V::load(units);
  }
}

template <class Values>
void print(const Values& values, int count) {
  for (int k = 0; k < count; ++k) {
    double units[V::kLanes];
    values[k].store(units);
    for (const double unit : units) std::printf("%.17g\\n", unit);
  }
}

template <class Cell>
void run() {
  Pack<V, Cell::kGates> from_x{}, from_h{};
  Pack<V, Cell::kStates> state{}, d_current{};
  Pack<V, Cell::kUnitWeights> units{};
  read(from_x, Cell::kGates), read(from_h, Cell::kGates), read(state, Cell::kStates);
  read(units, Cell::kUnitWeights), read(d_current, Cell::kStates);
  const auto forward = cell_forward<Cell, V>(from_x, from_h, state, units);
  auto current = forward.state;
  if (Cell::kStates > 1) current[0] = V(NAN);  // which a schedule does not give
  if (Cell::kStates == 1 && !Cell::kReadsHidden) current[0] = V(NAN);
  if (!Cell::kReadsHidden) state[0] = V(NAN);
  const auto backward = cell_backward<Cell, V>(forward.saved, state, current, d_current, units);
  print(forward.state, Cell::kStates), print(backward.d_from_x, Cell::kGates);
  print(Cell::kSplit ? backward.d_from_h : backward.d_from_x, Cell::kGates);
  print(backward.d_state, Cell::kStates), print(backward.d_unit_weights, Cell::kUnitWeights);
}

int main() {
  static_assert(V::kLanes == UNITS);
CALLS
}
"""


def program_of(sources: list[CellSource], folder: Path) -> Path:
    """A program that runs each of the cells."""
    for source in sources:
        (folder / f"{source.title}.h").write_text(source.text)
    includes = "\n".join(f'#include "{source.title}.h"' for source in sources)
    calls = "\n".join(f"  run<own::{source.title}>();" for source in sources for _ in NANS)
    text = DRIVER.replace("INCLUDES", includes).replace("UNITS", str(UNITS)).replace("CALLS", calls)
    (folder / "drawn.cpp").write_text(text)
    flags = [flag for flag in native.common_flags() if flag != "-O3"]
    return native.compile_cpp([*flags, "-O0", "-I", str(folder), str(folder / "drawn.cpp")], folder / "drawn")


def sizes_of(source: CellSource) -> list[int]:
    """The numbers that a unit reads: from_x, from_h, state, unit weights, d_current."""
    return [source.gates, source.gates, source.states, source.unit_weights, source.states]


def in_torch(source: CellSource, numbers: torch.Tensor) -> list[float]:
    """The same from the reference and torch's autograd, for one unit."""
    from_x, from_h, state, units, d_current = (part.clone() for part in torch.split(numbers, sizes_of(source)))
    from_h[source.recurrent_gates :] = 0  # there is none
    inputs = [each.requires_grad_() for each in (from_x, from_h, state, units)]
    x, h = from_x.view(1, -1, 1), from_h.view(1, -1, 1)
    before = state[:1].view(1, 1), state[1:].view(1, -1)
    unit_weights = units.view(-1, 1) if source.unit_weights else None
    made = torch.cat(_reference.STEPS[source.name](x, h, *before, unit_weights)[: 1 + (source.states > 1)], 1)[0]
    d_x, d_h, d_state, d_units = torch.autograd.grad(made, inputs, d_current, allow_unused=True, materialize_grads=True)
    d_h = torch.cat([d_h[: source.recurrent_gates], d_x[source.recurrent_gates :]])
    return [*made.tolist(), *d_x.tolist(), *d_h.tolist(), *d_state.tolist(), *d_units.tolist()]


def test_drawn_cells_have_the_derivatives_of_torch(tmp_path: Path) -> None:
    sources = [source_of(drawn_cell(seed)) for seed in range(CELLS)]
    sources += [source_of(cell_of_one_function(name)) for name in (*UNARY, *BINARY)]
    assert {source.states for source in sources} == {1, 2, 3, 4}
    assert any(source.split for source in sources)
    assert any(source.recurrent_gates == 0 for source in sources)
    program = program_of(sources, tmp_path)
    numbers, expected = [], []
    for source, place in product(sources, NANS):
        sizes = sizes_of(source)
        given = torch.randn(sum(sizes), UNITS, dtype=torch.float64)
        given[source.gates + source.recurrent_gates : 2 * source.gates] = 0
        if place == "gate":  # the first one of one unit, and the last one of the other
            given[0, 0] = given[source.gates - 1, 1] = nan
        elif place == "gradient":
            given[-1] = nan
        numbers += given.flatten().tolist()
        of_units = [in_torch(source, unit) for unit in given.unbind(1)]
        expected.append((source.title, [value for units in zip(*of_units, strict=True) for value in units]))
    text = "\n".join(map(repr, numbers))
    output = subprocess.run([program], input=text, capture_output=True, text=True, check=True).stdout
    found = iter(map(float, output.split()))
    for title, values in expected:
        assert [next(found) for _ in values] == pytest.approx(values, rel=1e-10, abs=1e-12, nan_ok=True), title
    assert next(found, None) is None


def test_cells_are_drawn_of_all_functions() -> None:
    functions = {name for name in cells.__all__ if name[0].islower()} - {"build", "load"}
    assert functions <= {*UNARY, *BINARY}
