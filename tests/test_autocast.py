"""Under autocast, results and gradients have the types of torch.nn's under the same autocast, and are no less exact."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import fused_rnn
from tests.tolerances import TOLERANCES, allowed_error, relative_error

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": 8}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("RNN", {}),
    ("LSTMCell", {}),
    ("GRUCell", {}),
    ("RNNCell", {}),
)
TYPES = {"b": torch.bfloat16, "h": torch.float16, "f": torch.float32}
TIME, BATCH, WIDTH, UNITS = 8, 4, 6, 16


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


class Case:
    """A module of torch.nn with its input and state."""

    def __init__(self, name: str, options: dict[str, Any], x_type: torch.dtype, state_type: torch.dtype | None) -> None:
        self.name, self.options = name, options
        self.parameters = getattr(torch.nn, name)(WIDTH, UNITS, **options).state_dict()
        single = name.endswith("Cell")
        self.x = torch.randn(*(() if single else (TIME,)), BATCH, WIDTH).to(x_type)
        rows = () if single else (options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1),)
        widths = [options.get("proj_size", UNITS), *([UNITS] if name.startswith("LSTM") else [])]
        self.states = (
            [] if state_type is None else [torch.randn(*rows, BATCH, width).to(state_type) for width in widths]
        )

    def run(self, namespace: Any, dtype: torch.dtype | None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Results and gradients under autocast to `dtype`, or in float64 where it is None."""
        exact = dtype is None
        module = getattr(namespace, self.name)(WIDTH, UNITS, **self.options).to(torch.float64 if exact else None)
        module.load_state_dict(self.parameters)
        x, *states = ((t.double() if exact else t.clone()).requires_grad_() for t in (self.x, *self.states))
        hx: Any = (tuple(states) if self.name.startswith("LSTM") else states[0]) if states else None
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=not exact):
            results = flat(module(x, hx))
        loss = torch.stack([result.to(torch.float64).square().sum() for result in results]).sum()
        return results, list(torch.autograd.grad(loss, [x, *states, *module.parameters()]))


def check(case: Case, dtype: torch.dtype) -> None:
    """Types and errors of our results and gradients beside torch.nn's."""
    limits = (TOLERANCES[dtype].outputs, TOLERANCES[dtype].gradients)
    found = (case.run(fused_rnn, dtype), case.run(torch.nn, dtype), case.run(torch.nn, None))
    for limit, ours, theirs, exact in zip(limits, *found, strict=True):
        assert [t.dtype for t in ours] == [t.dtype for t in theirs]
        for one, other, truth in zip(ours, theirs, exact, strict=True):
            error = relative_error(one, truth)
            assert error <= limit
            assert error <= allowed_error(dtype, relative_error(other, truth))


@pytest.mark.parametrize("kinds", ["".join(kinds) for kinds in itertools.product("bh", "fl", "fl-")])
@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_types_are_those_of_torch(name: str, options: dict[str, Any], kinds: str) -> None:
    """`kinds`: autocast's type; float32 or that type, l, for the input; the same or nothing for the state."""
    dtype = TYPES[kinds[0]]
    if name == "LSTM" and "proj_size" not in options:
        if dtype == torch.float16:
            pytest.skip("torch.nn.LSTM under float16 is an error or not, and of another type, by the processor")
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            pytest.skip("torch.nn.LSTM needs a processor with AVX-512 here")
    types = {"f": torch.float32, "l": dtype, "-": None}
    x_type = types[kinds[1]]
    assert x_type is not None
    check(Case(name, options, x_type, types[kinds[2]]), dtype)


@pytest.mark.parametrize("x_type", [torch.float32, torch.float16], ids=str)
def test_an_lstm_layer_has_one_type_under_float16_too(x_type: torch.dtype) -> None:
    case = Case(*MODULES[0], x_type, torch.float32)
    (results, gradients), (exact, exact_gradients) = case.run(fused_rnn, torch.float16), case.run(torch.nn, None)
    assert {t.dtype for t in results} == {torch.float16}
    limits = TOLERANCES[torch.float16]
    assert all(relative_error(*pair) <= limits.outputs for pair in zip(results, exact, strict=True))
    assert all(relative_error(*pair) <= limits.gradients for pair in zip(gradients, exact_gradients, strict=True))


def test_a_float32_state_loses_nothing_from_step_to_step() -> None:
    """512 steps that each add 2^-10: bfloat16 would stop at 0.25, whose next value is 2^-9 away, and never see it."""
    cell = fused_rnn.LSTMCell(1, 1, bias=True)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih.copy_(torch.tensor([100.0, 100.0, 2.0**-10, 0.0]))  # i = f = 1, g = tanh(2^-10)
        h, c = torch.zeros(1, 1), torch.zeros(1, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for _ in range(512):
                h, c = cell(torch.zeros(1, 1), (h, c))
    assert c.item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_compiler_gives_the_same_under_autocast(name: str) -> None:
    torch._dynamo.reset()
    module = getattr(fused_rnn, name)(WIDTH, UNITS)
    x = torch.randn(TIME, BATCH, WIDTH)
    compiled: Any = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, actual = flat(module(x)), flat(compiled(x))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
