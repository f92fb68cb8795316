"""Parity: outputs, final states and all gradients of whole layers against the oracle and against torch.nn.

Named problems share the benchmark's strings; hypothesis draws more. Every instruction set that this machine can run
repeats the problems in a process of its own, because the choice is made once per process.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fused_rnn
from fused_rnn import _ops
from tests import reference
from tests.problems import CELLS, Problem
from tests.tolerances import TOLERANCES, allowed_error, relative_error
from tests.warm_python import python

# Hidden states (T * B * H) from which on the largest error is no longer luck.
ENOUGH_TO_COMPARE = 256

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

NAMED = (
    *(f"{cell}:t20,b4,i17,h33,f32,train" for cell in CELLS),
    *(f"{cell}:t7,b1,i16,h64,f32,train" for cell in CELLS),
    *(f"{cell}:t5,b3,i8,h15,l2,bi,f32,train" for cell in CELLS),
    *(f"{cell}:t9,b2,i5,h7,l2,bi,f64,train" for cell in CELLS),
    *(f"{cell}:t10,b5,i16,h31,bf16,train" for cell in CELLS),
    *(f"{cell}:t10,b5,i16,h31,f16,train" for cell in CELLS),
    "lstm:t6,b3,i8,h17,p5,l2,bi,f32,train",
    "lstm:t6,b3,i8,h17,p5,f64,train",
    "lstm:t6,b3,i8,h17,p5,bf16,train",
    "gru:t1,b1,i1,h1,f32,train",
    "gru:t2,b16,i67,h67,f32,infer",
    "lstm:t30,b16,i64,h128,f32,train",
    # Weight gradients in several rounds of steps, the first of them shorter; sequences that do not fit the caches.
    "lstm:t37,b20,i24,h130,f32,train",
    "gru:t37,b20,i24,h130,f32,train",
    "rnn_tanh:t131,b17,i9,h33,f64,train",
)


def make_parameters(problem: Problem) -> dict[str, torch.Tensor]:
    """Parameters by name, in the problem's type.

    For relu, whose slope jumps at 0, biases and small weights keep the pre-activations away from 0, where rounding
    could choose the other side.
    """
    parameters = {name: p.detach() for name, p in problem.make_layer(torch.nn).named_parameters()}
    if problem.cell == "rnn_relu":
        for name, parameter in parameters.items():
            width = parameter.shape[-1] if parameter.dim() == 2 else 1
            parameter.copy_(
                torch.randn(parameter.shape).sign() * 1.5 if name.startswith("bias_ih")
                else torch.rand(parameter.shape).sub(0.5).mul(0.2 / width) if parameter.dim() == 2
                else torch.zeros(parameter.shape)
            )  # fmt: skip
    return parameters


class Case:
    """One problem with its parameters, input, states and incoming gradients."""

    def __init__(self, problem: Problem, *, with_state: bool) -> None:
        self.problem = problem
        self.parameters = make_parameters(problem)
        dtype = problem.dtype
        self.x = torch.randn(problem.input_shape).to(dtype)
        shapes = [problem.h_shape, *([problem.c_shape] if problem.cell == "lstm" else [])] if with_state else []
        self.states = [torch.randn(shape).to(dtype) for shape in shapes]
        time_steps, batch, _ = problem.input_shape
        outputs = [(time_steps, batch, problem.directions * problem.output_size), problem.h_shape]
        outputs += [problem.c_shape] if problem.cell == "lstm" else []
        self.d_outputs = [torch.randn(shape).to(dtype) for shape in outputs]

    def inputs(self, dtype: torch.dtype) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        values = [t.to(dtype).clone().requires_grad_() for t in (self.x, *self.states)]
        return values, {name: p.to(dtype).clone().requires_grad_() for name, p in self.parameters.items()}

    def run(self, namespace: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Results and gradients of a layer of torch.nn or fused_rnn."""
        layer = self.problem.make_layer(namespace)
        (x, *states), parameters = self.inputs(self.problem.dtype)
        hx: Any = None if not states else tuple(states) if self.problem.cell == "lstm" else states[0]
        output, final = torch.func.functional_call(layer, parameters, (x, hx))
        results = [output, *(final if self.problem.cell == "lstm" else [final])]
        return results, self._gradients(results, [x, *states, *parameters.values()])

    def oracle(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        (x, *states), parameters = self.inputs(torch.float64)
        found = reference.stack(self.problem.cell, x, parameters, *states)
        results = [t for t in found[:3] if t is not None]
        return results, self._gradients(results, [x, *states, *parameters.values()])

    def _gradients(self, results: list[torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        if not self.problem.training:
            return []
        return reference.gradients(results, inputs, self.d_outputs)


def check_parity(problem: Problem, *, with_state: bool = True) -> None:
    """Within the table, and no worse than twice torch.nn, for every result and every gradient."""
    case = Case(problem, with_state=with_state)
    ours, truth = case.run(fused_rnn), case.oracle()
    # torch.nn refuses empty sequences. In float64 the oracle itself rounds as torch.nn does. In a tiny problem, it is
    # luck which of two errors of an ulp is amplified (by 1 / (1 - tanh^2), say).
    theirs = case.run(torch.nn) if problem.time_steps > 0 else truth
    values = problem.time_steps * problem.batch * problem.hidden_size
    compared = problem.dtype != torch.float64 and values >= ENOUGH_TO_COMPARE
    tolerance = TOLERANCES[problem.dtype]
    names = ["output", "h_n", "c_n"][: len(truth[0])]
    inputs = ["x", "h_0", "c_0"][: 1 + len(case.states)]
    names_of_gradients = [*inputs, *case.parameters] if problem.training else []
    for kind, labels, limit in ((0, names, tolerance.outputs), (1, names_of_gradients, tolerance.gradients)):
        for label, actual, other, expected in zip(labels, ours[kind], theirs[kind], truth[kind], strict=True):
            error, torch_error = relative_error(actual, expected), relative_error(other, expected)
            message = f"{problem}: {'gradient of ' * kind}{label}: error {error:.2e}, torch.nn {torch_error:.2e}"
            assert error <= limit, message
            if compared:
                assert error <= allowed_error(problem.dtype, torch_error), message


@pytest.mark.parametrize("with_state", [True, False], ids=["state", "no_state"])
@pytest.mark.parametrize("name", NAMED)
def test_named_problem(name: str, with_state: bool) -> None:
    check_parity(Problem.parse(name), with_state=with_state)


@pytest.mark.parametrize("name", ["lstm:t10,b1,i64,h256,f32,train", "gru:t10,b32,i64,h128,bi,f32,train"])
def test_a_problem_shared_between_two_threads(name: str) -> None:
    torch.set_num_threads(2)
    check_parity(Problem.parse(name))


@pytest.mark.parametrize("cell", CELLS)
def test_a_long_sequence_stays_within_the_table(cell: str) -> None:
    check_parity(Problem.parse(f"{cell}:t1000,b2,i16,h32,f32,train"))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Small problems of every kind; sizes around vectors and tiles are drawn more often."""
    edges = st.sampled_from([1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67])
    problem = Problem(
        cell=draw(st.sampled_from(CELLS)),
        time_steps=draw(st.sampled_from([0, 1, 2, 5])),
        batch=draw(st.integers(1, 9)),
        input_size=draw(st.integers(1, 20)),
        hidden_size=draw(edges | st.integers(1, 70)),
        dtype=draw(st.sampled_from([torch.float32, torch.float32, *TOLERANCES])),
        training=draw(st.booleans()),
        layers=draw(st.integers(1, 2)),
        bidirectional=draw(st.booleans()),
    )
    if problem.cell == "lstm" and problem.hidden_size > 1 and draw(st.booleans()):
        problem = replace(problem, proj=draw(st.integers(1, problem.hidden_size - 1)))
    return problem


@given(problem=problems(), with_state=st.booleans(), seed=st.integers(0, 2**16))
def test_drawn_problems(problem: Problem, with_state: bool, seed: int) -> None:
    torch.manual_seed(seed)
    check_parity(problem, with_state=with_state)


# Those with instructions for int8 alone beside another differ in what tests/test_quantized_sets.py compares.
SETS = [name for name in _ops.instruction_sets() if not name.endswith(("_vnni", "_dot"))]


@pytest.mark.parametrize("instruction_set", SETS)
def test_every_instruction_set_passes(instruction_set: str) -> None:
    active = _ops.active_instruction_set()
    if active in {instruction_set, f"{instruction_set}_vnni"}:
        return  # the tests of this process are about it, or about the same code but for int8
    if os.environ.get("FUSED_RNN_CPU_ISA"):
        pytest.skip("this process was started for one instruction set")
    # Left out is what does not depend on the instruction set, or takes long.
    chosen = "not opcheck and not importing and not long_sequence and not instruction_set"
    if instruction_set.partition("_")[0] == active.partition("_")[0]:
        chosen += " and (bf16 or bfloat16 or precision or drawn)"  # the same code but for that type
    else:
        chosen += " and not compiled"  # which asks whether the set has that type alone
    files = [f"tests/test_{name}.py" for name in ("parity", "ops", "variants", "kept_weights", "precision")]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files]
    result = python(*command, FUSED_RNN_CPU_ISA=instruction_set)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


def test_an_unknown_instruction_set_is_refused_in_words() -> None:
    script = "import torch, fused_rnn; fused_rnn.GRU(2, 2)(torch.zeros(1, 1, 2))"
    result = python("-c", script, FUSED_RNN_CPU_ISA="abacus")
    assert result.returncode != 0
    assert "FUSED_RNN_CPU_ISA" in result.stderr
    assert "abacus" in result.stderr
