"""The variants through the layers: values and gradients against the oracle, and what equals the plain layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fused_rnn
from fused_rnn import _layers, _variants
from tests import variant_reference
from tests.test_modules import assert_same, flat, total
from tests.tolerances import TOLERANCES, relative_error
from tests.variant_reference import Draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

RELU = {"nonlinearity": "relu"}
LAYERS: tuple[tuple[str, dict[str, Any]], ...] = (("LSTM", {}), ("GRU", {}), ("RNN", {}), ("RNN", RELU))
ALL: dict[str, Any] = {
    "layer_norm": True,
    "zoneout": 0.3,
    "recurrent_dropout": 0.25,
    "weight_dropout": 0.4,
    "dropout": 0.5,
}
# 0.2: about half of the cells are clipped (asserted below).
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {**kind, **variant}) for name, kind in LAYERS for variant in (
        {"layer_norm": True}, {"zoneout": 0.3}, {"recurrent_dropout": 0.25}, {"weight_dropout": 0.4}, ALL,
    )),
    ("LSTM", {"zoneout": (0.2, 0.6)}),
    ("LSTM", {"zoneout": (0.0, 0.5)}),
    ("LSTM", {"layer_norm": True, "proj_size": 3, "recurrent_dropout": 0.25}),
    ("LSTM", {"peephole": True}),
    ("LSTM", {"cell_clip": 0.2}),
    ("LSTM", {"peephole": True, "cell_clip": 0.2, "zoneout": (0.1, 0.4), "weight_dropout": 0.4, "dropout": 0.5}),
    ("LSTM", {"peephole": True, "cell_clip": 0.2, "proj_size": 3, "recurrent_dropout": 0.25, "weight_dropout": 0.4}),
)  # fmt: skip
each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
each_layer = pytest.mark.parametrize(("name", "kind"), LAYERS, ids=str)

LENGTHS = torch.tensor([4, 6, 0, 1, 6])
HIDDEN = 19  # whole vectors and a part of one, in float32 and in float64


def make(name: str, *sizes: int, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A layer whose gains, biases and peepholes are not what they start from."""
    layer = getattr(fused_rnn, name)(*(sizes or (3, HIDDEN)), dtype=dtype, **options)
    with torch.no_grad():
        for each, parameter in layer.named_parameters():
            if each.startswith("gain_"):  # of a half: greater ones multiply the roundings of a small h at every step
                parameter.mul_(0.5)
            if each.startswith(("gain_", "bias_")):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Draws]]:
    """What the layers draw, layer by layer, for the oracle."""
    draws: list[Draws] = []
    dropped: list[Any] = []
    with_dropped_weights, draw_masks = _variants.with_dropped_weights, _variants.draw_masks

    def weights(variants: _variants.Variants, weights: Any) -> Any:
        after = with_dropped_weights(variants, weights)
        left = 1 - variants.weight_dropout
        dropped.append(None if after is weights else torch.stack([(w.w_hh != 0).double() / left for w in after]))
        return after

    def masks(*arguments: Any) -> _variants.Masks:
        result = draw_masks(*arguments)
        draws.append(Draws(*result, dropped.pop()))
        return result

    def drop(x: Tensor, probability: float, places: Any) -> Tensor:
        factors = F.dropout(torch.ones_like(x), probability)
        draws[-1] = draws[-1]._replace(outputs=factors)
        assert probability == ALL["dropout"]
        assert places is None or len(places) <= len(x) * x.shape[1]
        return x * factors

    monkeypatch.setattr(_layers, "with_dropped_weights", weights)
    monkeypatch.setattr(_layers, "draw_masks", masks)
    monkeypatch.setattr(_layers, "_drop", drop)
    yield draws
    assert draws, "nothing was recorded"


class Call(NamedTuple):
    """The arguments of a call, with time first, that want gradients."""

    x: Any  # [T, B, I]
    hx: Any = None
    lengths: Any = None
    resets: Any = None

    @property
    def inputs(self) -> list[Tensor]:
        return [self.x, *(() if self.hx is None else flat(self.hx))]


def call_of(layer: Any, *, time_steps: int = 6, batch: int = 5, full: bool = True) -> Call:
    """Random arguments; `full` has states, lengths 0 and T among others, and resets, also of first steps."""
    options: dict[str, Any] = {"dtype": layer.weight_ih_l0.dtype}
    x = torch.randn(time_steps, batch, 3, **options).requires_grad_()
    if not full:
        return Call(x)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h_0 = torch.randn(rows, batch, layer.proj_size or layer.hidden_size, **options).requires_grad_()
    c_0 = torch.randn(rows, batch, layer.hidden_size, **options).requires_grad_()
    resets = torch.rand(time_steps, batch) < 0.3
    resets[0, ::2] = True
    return Call(x, (h_0, c_0) if layer.mode == "LSTM" else h_0, LENGTHS[:batch].clamp(max=time_steps), resets)


def run(layer: Any, call: Call) -> list[Tensor]:
    """Output, final states and cells, with time first."""
    x, hx, lengths, resets = call
    if layer.batch_first:
        x, resets = x.transpose(0, 1), None if resets is None else resets.t()
    cells = {"return_cells": True} if layer.mode == "LSTM" else {}
    output, state, *more = layer(x, hx, lengths=lengths, resets=resets, **cells)
    steps = [each.transpose(0, 1) if layer.batch_first else each for each in (output, *more)]
    return [steps[0], *flat(state), *steps[1:]]


def exact(layer: Any, call: Call, draws: list[Draws], incoming: list[Tensor]) -> list[Tensor]:
    """The oracle's results and gradients of inputs and parameters."""

    def again(tensor: Tensor) -> Tensor:
        return tensor.detach().double().requires_grad_()

    parameters = {name: again(parameter) for name, parameter in layer.named_parameters()}
    x, states = again(call.x), [again(state) for state in call.inputs[1:]]
    h_0, c_0 = [*states, None, None][:2]
    cell = "lstm" if layer.mode == "LSTM" else layer.mode.lower()
    draws = [each.double() for each in draws]
    found = variant_reference.stack(cell, x, parameters, h_0, c_0, call.lengths, call.resets, draws, layer.cell_clip)
    results = [each for each in found if each is not None]
    d_results = [d.double() for d in incoming]
    gradients = torch.autograd.grad(results, [x, *states, *parameters.values()], d_results, materialize_grads=True)
    return [*results, *gradients]


def check(layer: Any, call: Call, draws: list[Draws], results: list[Tensor], inputs: list[Tensor]) -> None:
    """Results and gradients against the oracle."""
    dtype = layer.weight_ih_l0.dtype
    incoming = [torch.randn_like(each) for each in results]
    gradients = torch.autograd.grad(results, [*inputs, *layer.parameters()], incoming)
    expected = exact(layer, call, draws, incoming)
    for index, (actual, wanted) in enumerate(zip([*results, *gradients], expected, strict=True)):
        assert actual.dtype == dtype
        # The gradients of relu and of clipping jump, which rounding to bfloat16 decides at some unit.
        if index < len(results) or dtype != torch.bfloat16 or not (layer.mode == "RNN_RELU" or layer.cell_clip):
            assert relative_error(actual, wanted) <= TOLERANCES[dtype][index >= len(results)], index


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@each_case
def test_stacks_match_the_oracle(name: str, options: dict[str, Any], dtype: torch.dtype, drawn: list[Draws]) -> None:
    layer = make(name, dtype=dtype, num_layers=2, bidirectional=True, batch_first=True, **options)
    call = call_of(layer)
    check(layer, call, drawn, run(layer, call), call.inputs)


@each_case
def test_layers_without_biases_and_states_match_the_oracle(
    name: str, options: dict[str, Any], drawn: list[Draws]
) -> None:  # fmt: skip
    layer = make(name, bias=False, **{each: value for each, value in options.items() if each != "dropout"})
    assert not any("bias" in each for each, _ in layer.named_parameters())
    call = call_of(layer, full=False)
    check(layer, call, drawn, run(layer, call), call.inputs)


@each_case
def test_packed_sequences_match_the_oracle(name: str, options: dict[str, Any], drawn: list[Draws]) -> None:
    layer = make(name, num_layers=2, bidirectional=True, **options)
    order = torch.tensor([1, 4, 3, 0, 2])  # what is drawn is for the longest row first
    call = call_of(layer)._replace(lengths=torch.tensor([6, 5, 4, 3, 1]), resets=None)
    x, *states = (each[:, order.argsort()] for each in call.inputs)
    packed = pack_padded_sequence(x, call.lengths[order.argsort()], enforce_sorted=False)
    cells = {"return_cells": True} if name == "LSTM" else {}
    output, state, *more = layer(packed, states[0] if len(states) == 1 else tuple(states), **cells)
    steps = [pad_packed_sequence(each)[0] for each in (output, *more)]
    results = [each[:, order] for each in (steps[0], *flat(state), *steps[1:])]
    check(layer, call, drawn, results, call.inputs)


@each_case
def test_an_input_without_a_batch_is_a_batch_of_one(name: str, options: dict[str, Any]) -> None:
    layer = make(name, num_layers=2, bidirectional=True, **options)
    x, hx, _, resets = call_of(layer, batch=1)
    alone = hx[:, 0] if torch.is_tensor(hx) else tuple(state[:, 0] for state in hx)
    torch.manual_seed(1)
    expected = layer(x, hx, lengths=torch.tensor([4]), resets=resets)
    torch.manual_seed(1)
    actual = layer(x[:, 0], alone, lengths=torch.tensor(4), resets=resets[:, 0])
    assert all(torch.equal(one, other.squeeze(1)) for one, other in zip(flat(actual), flat(expected), strict=True))


@each_case
def test_empty_sequences_and_batches_pass(name: str, options: dict[str, Any]) -> None:
    layer = make(name, num_layers=2, bidirectional=True, recompute=True, **options)
    for time_steps, batch in ((0, 4), (3, 0), (0, 0)):
        call = call_of(layer, time_steps=time_steps, batch=batch, full=False)
        output, *state = run(layer, call)
        assert output.shape == (time_steps, batch, 2 * (layer.proj_size or HIDDEN))
        assert all(torch.equal(part, torch.zeros_like(part)) for part in state[: 1 + (name == "LSTM")])
        total([output, *state]).backward()


def test_padding_may_hold_anything() -> None:
    layer = make("LSTM", num_layers=2, bidirectional=True, **ALL)
    clean = torch.randn(6, 5, 3, dtype=torch.float64)
    padding = torch.arange(6).unsqueeze(1) >= LENGTHS
    found = []
    for x in (clean, clean.masked_fill(padding.unsqueeze(2), torch.nan)):
        torch.manual_seed(1)
        results = flat(layer(x, lengths=LENGTHS))
        found.append([*results, *torch.autograd.grad(total(results), list(layer.parameters()))])
        with torch.no_grad():
            torch.manual_seed(1)
            assert all(map(torch.equal, flat(layer(x, lengths=LENGTHS)), results))
    assert all(map(torch.equal, *found))


# --- What equals the plain layer ---


def plain_of(layer: Any, **options: Any) -> Any:
    """The layer of torch.nn with the parameters that both have."""
    names = [
        each for each in ("nonlinearity", "bias", "num_layers", "bidirectional", "proj_size") if hasattr(layer, each)
    ]
    given = {each: getattr(layer, each) for each in names if each != "proj_size" or layer.proj_size}
    plain = getattr(torch.nn, type(layer).__name__)(3, layer.hidden_size, dtype=torch.float64, **given, **options)
    plain.load_state_dict({each: value for each, value in layer.state_dict().items() if each in plain.state_dict()})
    return plain


@each_layer
def test_options_that_say_nothing_give_the_bits_of_the_plain_layer(name: str, kind: dict[str, Any]) -> None:
    nothing: dict[str, Any] = {
        "layer_norm": False, "zoneout": 0.0, "recurrent_dropout": 0, "weight_dropout": 0.0, "recompute": False,
        **({"peephole": False, "cell_clip": None, "zoneout": (0.0, 0)} if name == "LSTM" else {}),
    }  # fmt: skip
    layers = []
    for options in ({}, nothing):
        torch.manual_seed(1)
        layers.append(getattr(fused_rnn, name)(3, HIDDEN, num_layers=2, bidirectional=True, **kind, **options))
    assert list(layers[0].state_dict()) == list(layers[1].state_dict())
    x = torch.randn(6, 5, 3, requires_grad=True)
    found = [flat(layer(x)) for layer in layers]
    assert all(map(torch.equal, *found))
    gradients = [torch.autograd.grad(total(f), [x, *m.parameters()]) for f, m in zip(found, layers, strict=True)]
    assert all(map(torch.equal, *gradients))


@each_layer
def test_options_without_parameters_start_from_the_parameters_of_torch(name: str, kind: dict[str, Any]) -> None:
    found = []
    for namespace, options in ((torch.nn, {}), (fused_rnn, {"zoneout": 0.1, "weight_dropout": 0.1, "recompute": True})):
        torch.manual_seed(1)
        found.append(getattr(namespace, name)(3, 5, **kind, **options).state_dict())
    assert all(map(torch.equal, found[0].values(), found[1].values()))


@each_layer
def test_dropout_leaves_evaluation_as_torch_has_it(name: str, kind: dict[str, Any]) -> None:
    variants: tuple[dict[str, Any], ...] = ({"weight_dropout": 0.5}, {"recurrent_dropout": 0.5})
    for options in variants:
        layer = make(name, num_layers=2, bidirectional=True, **kind, **options).eval()
        x = torch.randn(6, 5, 3, dtype=torch.float64)
        assert_same(layer(x), plain_of(layer).eval()(x))


@each_layer
def test_zoneout_in_evaluation_is_the_mean_of_both_states(
    name: str, kind: dict[str, Any], drawn: list[Draws]
) -> None:  # fmt: skip
    layer = make(name, num_layers=2, zoneout=(0.2, 0.6) if name == "LSTM" else 0.2, **kind).eval()
    call = call_of(layer, full=False)
    results = run(layer, call)
    means = torch.tensor([0.2, 0.6] if name == "LSTM" else [0.2], dtype=torch.float64)
    shape = (6, 5, 1, len(means), HIDDEN)
    check(layer, call, [Draws(means.unsqueeze(1).expand(shape))] * 2, results, call.inputs)
    assert len(drawn) == 2


@each_layer
def test_a_state_that_always_stays_is_the_initial_one(name: str, kind: dict[str, Any]) -> None:
    for training in (True, False):
        layer = make(name, bidirectional=True, zoneout=1, **kind).train(training)
        call = call_of(layer)._replace(lengths=None, resets=None)
        results = run(layer, call)
        for one, other in zip(results[1:3], call.inputs[1:], strict=False):
            assert torch.equal(one, other)
        assert torch.equal(results[0], call.inputs[1].transpose(0, 1).flatten(1).expand(6, 5, 2 * HIDDEN))


@each_layer
def test_dropping_everything_leaves_no_recurrence(name: str, kind: dict[str, Any]) -> None:
    variants: tuple[dict[str, Any], ...] = ({"recurrent_dropout": 1.0}, {"weight_dropout": 1.0})
    for options in variants:
        layer, x = make(name, **kind, **options), torch.randn(1, 5, 3, dtype=torch.float64)
        h_0 = torch.randn(1, 5, HIDDEN, dtype=torch.float64)
        plain = plain_of(layer)
        with torch.no_grad():
            plain.weight_hh_l0.zero_()
        hx = (h_0, h_0) if name == "LSTM" else h_0
        assert_same(layer(x, hx), plain(x, hx))


def test_a_far_limit_and_peepholes_of_zero_are_the_plain_lstm() -> None:
    variants: tuple[dict[str, Any], ...] = ({"cell_clip": 1e6}, {"cell_clip": float("inf")}, {"peephole": True})
    for options in variants:
        layer = make("LSTM", num_layers=2, bidirectional=True, proj_size=3, **options)
        with torch.no_grad():
            for each, parameter in layer.named_parameters():
                if "peephole" in each:
                    parameter.zero_()
        plain, x = plain_of(layer), torch.randn(6, 5, 3, dtype=torch.float64, requires_grad=True)
        found = [layer(x), plain(x)]
        assert_same(*found)
        gradients = [
            torch.autograd.grad(
                total(result), [x, *(dict(module.named_parameters())[each] for each in plain.state_dict())]
            )
            for result, module in zip(found, (layer, plain), strict=True)
        ]
        for one, other in zip(*gradients, strict=True):
            assert relative_error(one, other) <= TOLERANCES[torch.float64].gradients


def test_no_cell_is_over_the_limit_and_many_are_at_it() -> None:
    layer = make("LSTM", num_layers=2, bidirectional=True, peephole=True, cell_clip=0.2)
    cells = run(layer, call_of(layer, full=False))[-1]
    assert cells.abs().max() == 0.2
    assert 0.1 < (cells.abs() == 0.2).double().mean() < 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_case
def test_half_types_and_autocast_give_their_types(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    layer = make(name, dtype=torch.float32, num_layers=2, bidirectional=True, **options).eval()
    call = call_of(layer)
    exact_results = run(layer, call)
    of_torch = {key: value for key, value in options.items() if key in {"proj_size", "dropout"}}
    plain = make(name, dtype=torch.float32, num_layers=2, bidirectional=True, **of_torch).eval()
    with torch.autocast("cpu", dtype=dtype):
        found, expected = run(layer, call), run(plain, call)
    assert [each.dtype for each in found] == [each.dtype for each in expected]
    gradients = torch.autograd.grad(total([each.float() for each in found]), [*call.inputs, *layer.parameters()])
    assert all(each.dtype == torch.float32 and each.isfinite().all() for each in gradients)
    # The input and the parameters are rounded too, and a norm multiplies what they carry into it.
    allowed = (3 if "layer_norm" in options else 2) * TOLERANCES[dtype].outputs
    for one, other in zip(found, exact_results, strict=True):
        assert relative_error(one, other.double()) <= allowed
    layer.to(dtype)
    hx = None if call.hx is None else [state.to(dtype) for state in flat(call.hx)]
    half = call._replace(x=call.x.to(dtype), hx=hx[0] if hx is not None and len(hx) == 1 else hx)
    for one, other in zip(run(layer, half), exact_results, strict=True):
        assert one.dtype == dtype
        assert relative_error(one, other.double()) <= allowed
