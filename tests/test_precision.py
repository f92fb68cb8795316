"""torch's switch for the precision of float32 RNNs on CPU: where it says "bf16", GEMMs take rounded factors."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn import _ops
from tests import reference
from tests.tolerances import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = _ops.active_instruction_set() in {"avx512_bf16", "neon_bf16"}
WIDTH, UNITS = 33, 72  # of which no vector, pair or tile is a multiple
LAYERS: dict[str, Callable[..., torch.nn.Module]] = {
    "lstm": lambda **options: fused_rnn.LSTM(WIDTH, UNITS, **options),
    "projected": lambda **options: fused_rnn.LSTM(WIDTH, UNITS, proj_size=35, **options),
    "gru": lambda **options: fused_rnn.GRU(WIDTH, UNITS, **options),
    "rnn_tanh": lambda **options: fused_rnn.RNN(WIDTH, UNITS, **options),
    "rnn_relu": lambda **options: fused_rnn.RNN(WIDTH, UNITS, nonlinearity="relu", **options),
}
# One unit of bfloat16's last place, of a factor.
ROUNDING = 2.0**-8
SWITCH: Any = torch.backends.mkldnn.rnn  # type: ignore[attr-defined]


@contextmanager
def precision(value: str, of: Any = SWITCH) -> Iterator[None]:
    before = of.fp32_precision
    of.fp32_precision = value
    try:
        yield
    finally:
        of.fp32_precision = before


def run(layer: torch.nn.Module, x: Tensor, **more: Any) -> list[Tensor]:
    """Output, final states and all gradients."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    output, states = layer(x, **more)
    generator = torch.Generator().manual_seed(5)
    (output * torch.randn(output.shape, generator=generator)).sum().backward()
    finals = states if isinstance(states, tuple) else (states,)
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    assert x.grad is not None
    return [t.detach().clone() for t in (output, *finals, x.grad, *gradients)]


def rounded(values: Tensor) -> Tensor:
    return values.float().to(torch.bfloat16).double()


def with_rounded_factors(name: str, layer: torch.nn.Module, x: Tensor) -> Tensor:
    """The output of one direction of one layer in float64, with the factors of its products rounded."""
    cell = "lstm" if name == "projected" else name
    w = {key: p.detach().double() for key, p in layer.named_parameters()}
    h = torch.zeros(x.shape[1], w["weight_hh_l0"].shape[1], dtype=torch.float64)
    c = torch.zeros(x.shape[1], UNITS, dtype=torch.float64) if cell == "lstm" else None
    outputs = []
    for step in x:
        from_x = rounded(step) @ rounded(w["weight_ih_l0"]).t() + w["bias_ih_l0"]
        from_h = rounded(h) @ rounded(w["weight_hh_l0"]).t() + w["bias_hh_l0"]
        from_x, from_h = (gates.view(len(step), -1, UNITS) for gates in (from_x, from_h))
        h, c = reference.step(cell, from_x, from_h, h, c)
        if name == "projected":
            h = rounded(h) @ rounded(w["weight_hr_l0"]).t()
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.skipif(not ROUNDS, reason="this processor, or the instruction set that is forced, has no BF16")
@pytest.mark.parametrize("name", LAYERS)
def test_products_take_rounded_factors_and_states_stay_float32(name: str) -> None:
    layer, x = LAYERS[name](), torch.randn(9, 5, WIDTH)
    with precision("bf16"), torch.no_grad():
        output = layer(x)[0].double()
    # What float32 adds, and now and then a state that it rounds to the other neighbour.
    assert relative_error(output, with_rounded_factors(name, layer, x)) < 2e-4
    assert relative_error(layer(x)[0].detach().double(), output) > 5e-4


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", ["ieee", "tf32", "none"])
def test_other_precisions_change_no_bit(name: str, value: str) -> None:
    layer, x = LAYERS[name](bidirectional=True), torch.randn(5, 3, WIDTH)
    exact = run(layer, x)
    with precision(value):
        assert all(torch.equal(a, b) for a, b in zip(run(layer, x), exact, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_results_and_gradients_are_near_the_exact_ones(name: str) -> None:
    layer, x = LAYERS[name](bidirectional=True, num_layers=2), torch.randn(7, 4, WIDTH)
    lengths = torch.tensor([7, 1, 4, 6])
    exact = run(layer, x, lengths=lengths)
    with precision("bf16"):
        found = run(layer, x, lengths=lengths)
    if name == "rnn_relu":  # a gradient of which jumps where a state changes its sign
        found, exact = found[:2], exact[:2]
    errors = [relative_error(a, b.double()) for a, b in zip(found, exact, strict=True)]
    assert max(errors) < 8 * ROUNDING
    assert (max(errors) > 0) == ROUNDS


@pytest.mark.parametrize("name", LAYERS)
def test_a_row_has_the_same_bits_in_any_batch_and_on_any_threads(name: str) -> None:
    layer, x = LAYERS[name](), torch.randn(6, 11, WIDTH)
    with precision("bf16"), torch.no_grad():
        together = layer(x)[0]
        alone = torch.cat([layer(x[:, row : row + 1])[0] for row in range(x.shape[1])], 1)
        torch.set_num_threads(2)
        shared = layer(x)[0]
    assert torch.equal(together, alone)
    assert torch.equal(together, shared)


def test_a_kept_state_goes_on_exactly() -> None:
    """The state between two calls, and between steps that a row leaves out, is not rounded."""
    for name, make in LAYERS.items():
        layer, x = make(), torch.randn(8, 3, WIDTH)
        with precision("bf16"), torch.no_grad():
            whole, last = layer(x)
            first, state = layer(x[:3])
            second, end = layer(x[3:], state)
            padded = layer(torch.cat([x, x]), lengths=torch.full((3,), 8))[1]
        assert torch.equal(torch.cat([first, second]), whole), name
        for a, b, c in zip(*([s] if isinstance(s, Tensor) else s for s in (last, end, padded)), strict=True):
            assert torch.equal(a, b), name
            assert torch.equal(a, c), name


@pytest.mark.skipif(not ROUNDS, reason="this processor, or the instruction set that is forced, has no BF16")
@pytest.mark.parametrize("switch", ["mkldnn", "all"])
def test_the_switch_inherits_as_torch_says(switch: str) -> None:
    layer, x = fused_rnn.LSTM(WIDTH, UNITS), torch.randn(5, 3, WIDTH)
    with precision("bf16"):
        expected = run(layer, x)
    with precision("bf16", torch.backends.mkldnn if switch == "mkldnn" else torch.backends):
        assert all(torch.equal(a, b) for a, b in zip(run(layer, x), expected, strict=True))


def test_weights_packed_for_one_precision_are_not_taken_for_the_other() -> None:
    layer, x = fused_rnn.GRU(WIDTH, UNITS), torch.randn(5, 3, WIDTH)
    found: dict[str, list[Tensor]] = {"none": [], "bf16": []}
    with torch.no_grad():
        for _ in range(4):
            for value, outputs in found.items():
                with precision(value):
                    outputs.append(layer(x)[0])
    for outputs in found.values():
        assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize(
    "options", [{"layer_norm": True}, {"zoneout": 0.1}, {"peephole": True}, {"dtype": torch.float64}]
)
def test_what_has_no_such_kernel_stays_exact(options: dict[str, Any]) -> None:
    layer = fused_rnn.LSTM(WIDTH, UNITS, **options).eval()
    x = torch.randn(5, 3, WIDTH, dtype=options.get("dtype"))
    with torch.no_grad():
        exact = layer(x)[0]
        with precision("bf16"):
            assert torch.equal(layer(x)[0], exact)


@pytest.mark.parametrize("name", LAYERS)
def test_a_stepper_keeps_to_what_the_switch_says_as_it_is_made(name: str) -> None:
    layer, x = LAYERS[name](num_layers=2), torch.randn(6, 3, WIDTH)
    steppers = {}
    for value in ("none", "bf16"):
        with precision(value):
            steppers[value] = fused_rnn.Stepper(layer, 3)
            expected = layer(x)[0].detach()
        output = steppers[value].steps(x)
        assert relative_error(output, expected.double()) < (5e-4 if value == "bf16" else 2e-6)
        assert torch.equal(steppers[value].steps(x[:0]), output[:0])
    differ = relative_error(steppers["bf16"].step(x[0]), steppers["none"].step(x[0]).double()) > 2e-6
    assert differ == ROUNDS


def test_cells_and_single_steps_stay_exact() -> None:
    """They read each weight once, where it lies: to round it takes as long as to multiply it."""
    cell, layer, x = fused_rnn.LSTMCell(WIDTH, UNITS), fused_rnn.LSTM(WIDTH, UNITS), torch.randn(3, WIDTH)
    with torch.no_grad():
        exact = cell(x)[0], layer(x.unsqueeze(0))[0]
        with precision("bf16"):
            assert torch.equal(cell(x)[0], exact[0])
            assert torch.equal(layer(x.unsqueeze(0))[0], exact[1])


@pytest.mark.parametrize("value", ["none", "bf16"])
def test_explain_says_whether_factors_are_rounded(value: str) -> None:
    layer, x = fused_rnn.LSTM(WIDTH, UNITS), torch.randn(5, 3, WIDTH)
    with precision(value):
        text = str(fused_rnn.explain(layer, x))
        single = str(fused_rnn.explain(layer, x[:1]))
        exact = str(fused_rnn.explain(fused_rnn.LSTM(WIDTH, UNITS, zoneout=0.1), x))
    assert text.count("factors rounded to bfloat16") == (2 if ROUNDS and value == "bf16" else 0)
    for each in (single, exact):
        assert ("factors exact" in each) == (value == "bf16" and _ops.MULTIPLIES_BFLOAT16)


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_layer_is_compiled_for_what_the_switch_says_then() -> None:
    layer, x = fused_rnn.GRU(WIDTH, UNITS), torch.randn(5, 3, WIDTH)
    exact = layer(x)[0].detach().double()
    for value, rounds in (("none", False), ("bf16", ROUNDS)):
        torch._dynamo.reset()
        compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
        with precision(value):
            found = [compiled(x)[0].detach()]
        found.append(compiled(x)[0].detach())
        assert torch.equal(*found)
        error = relative_error(found[0], exact)
        assert (error > 1e-4) == rounds, value  # the projection is torch.nn.functional.linear
        assert error < 4 * ROUNDING, value


def test_a_backward_pass_on_library_gemms_is_not_taken_where_factors_are_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has no products with rounded factors; on processors of AMD it is never taken."""
    monkeypatch.setattr("fused_rnn._products._ENABLED", False)
    monkeypatch.setattr("fused_rnn._products._LARGE", 1 << 21)
    layer, x = fused_rnn.LSTM(64, 128), torch.randn(200, 8, 64)
    with precision("bf16"):
        routes = [each.route for each in fused_rnn.explain(layer, x).layers[0].passes]
        run(layer, x)
    assert routes == ["whole", "one_call" if _ops.MULTIPLIES_BFLOAT16 else "apart"]
