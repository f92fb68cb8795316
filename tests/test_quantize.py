"""quantize() puts int8 layers and cells in the place of float ones, which are called as those are."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fused_rnn
from fused_rnn import quantized

LAYERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 4, "batch_first": True}),
    ("LSTM", {"bias": False, "dropout": 0.5, "num_layers": 2}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("GRU", {"batch_first": True, "bias": False}),
    ("RNN", {"bidirectional": True}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
)
CELLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTMCell", {}),
    ("GRUCell", {"bias": False}),
    ("RNNCell", {}),
    ("RNNCell", {"nonlinearity": "relu"}),
)
SIZES = (5, 9)  # I and H
# An input of up to 4 is rounded by at most 4/254, a state by 1/254, a weight of up to 1/3 by 1/762: of a gate of 5 + 9
# products, each off by some 0.005, the mean error is some 0.01, and relu lets a second layer double it.
TOLERANCE = 0.05
each_layer = pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
each_cell = pytest.mark.parametrize(("name", "options"), CELLS, ids=str)
each_module = pytest.mark.parametrize(("name", "options"), LAYERS + CELLS, ids=str)


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [tensor for part in result for tensor in flat(part)]


def make(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """A float module and its int8 one."""
    layer = getattr(fused_rnn, name)(*SIZES, **options).eval()
    return layer, fused_rnn.quantize(layer)


def arguments(layer: Any, time_steps: int = 6, batch: int = 3) -> tuple[Tensor, Any]:
    """An input and an initial state for a module."""
    if not hasattr(layer, "num_layers"):
        states = torch.randn(2, batch, SIZES[1])
        return torch.randn(batch, SIZES[0]), tuple(states) if hasattr(layer, "_bases") and len(
            layer._names
        ) == 2 else states[0]
    shape = (batch, time_steps) if layer.batch_first else (time_steps, batch)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h, c = (torch.randn(rows, batch, width).tanh() for width in (layer.proj_size or SIZES[1], SIZES[1]))
    return torch.randn(*shape, SIZES[0]), (h, c) if layer.mode == "LSTM" else h


def assert_near(actual: Any, expected: Any) -> None:
    for one, other in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0.0)


def assert_same(actual: Any, expected: Any) -> None:
    for one, other in zip(flat(actual), flat(expected), strict=True):
        assert torch.equal(one, other)


@each_module
def test_results_are_those_of_the_float_module_but_for_rounding(name: str, options: dict[str, Any]) -> None:
    layer, small = make(name, options)
    x, hx = arguments(small)
    with torch.no_grad():
        assert_near(small(x), layer(x))
        assert_near(small(x, hx), layer(x, hx))
        assert_near(small(input=x, hx=hx), layer(input=x, hx=hx))


@each_layer
def test_lengths_and_resets_are_those_of_the_float_layer(name: str, options: dict[str, Any]) -> None:
    layer, small = make(name, options)
    x, hx = arguments(small)
    resets = torch.rand(x.shape[:2]) < 0.3
    with torch.no_grad():
        for ends in (
            {"lengths": torch.tensor([6, 0, 3])},
            {"resets": resets},
            {"lengths": [2, 6, 1], "resets": resets},
        ):
            keywords = {key: torch.as_tensor(value) for key, value in ends.items()}
            assert_near(small(x, hx, **keywords), layer(x, hx, **keywords))


@each_layer
def test_a_packed_sequence_has_the_bits_of_lengths(name: str, options: dict[str, Any]) -> None:
    _, small = make(name, options)
    (x, hx), lengths = arguments(small), torch.tensor([3, 6, 1])
    output, states = small(x, hx, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, batch_first=small.batch_first, enforce_sorted=False)
    found, found_states = small(packed, hx)
    assert isinstance(found, PackedSequence)
    expected = pack_padded_sequence(output, lengths, batch_first=small.batch_first, enforce_sorted=False)
    assert torch.equal(found.data, expected.data)
    assert_same(found_states, states)


@each_layer
def test_no_batch_is_a_batch_of_one(name: str, options: dict[str, Any]) -> None:
    _, small = make(name, options)
    x, hx = arguments(small, batch=1)
    output, states = small(x, hx)
    axis = 0 if small.batch_first else 1
    alone = tuple(h.squeeze(1) for h in hx) if isinstance(hx, tuple) else hx.squeeze(1)
    found, found_states = small(x.squeeze(axis), alone)
    assert torch.equal(found, output.squeeze(axis))
    assert_same(found_states, [h.squeeze(1) for h in flat(states)])


@each_layer
def test_a_stack_is_the_operator_layer_by_layer(name: str, options: dict[str, Any]) -> None:
    _, small = make(name, options)
    x, hx = arguments(small)
    given, found = small.state_dict(), []
    directions = ["", "_reverse"] if small.bidirectional else [""]

    def joined(parameter: str, index: int, end: str = "") -> Tensor | None:
        names = [f"{parameter}_l{index}{direction}{end}" for direction in directions]
        return torch.cat([given[each] for each in names]) if names[0] in given else None

    y = x.transpose(0, 1) if small.batch_first else x
    for index in range(small.num_layers):
        rows = slice(index * len(directions), (index + 1) * len(directions))
        h, c = [*(state[rows] for state in flat(hx)), None][:2]
        w_ih, w_hh, w_hr = (
            (joined(each, index), joined(each, index, "_scale")) for each in ("weight_ih", "weight_hh", "weight_hr")
        )
        weights = (*w_ih, joined("bias_ih", index), *w_hh, joined("bias_hh", index), *w_hr)
        ends = (None, None, len(directions))
        y, *states = torch.ops.fused_rnn.quantized_layer(small.cell, y, *weights, h, c, *ends)
        found.append(states)
    output, expected = small(x, hx)
    assert torch.equal(output, y.transpose(0, 1) if small.batch_first else y)
    assert_same(expected, [torch.cat(each) for each in zip(*found, strict=True)][: len(flat(hx))])


@each_cell
def test_a_cell_is_one_step_of_its_layer(name: str, options: dict[str, Any]) -> None:
    cell, small = make(name, options)
    layer = getattr(fused_rnn, name.removesuffix("Cell"))(*SIZES, **options)
    layer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    x, hx = arguments(small)
    _, states = fused_rnn.quantize(layer)(
        x.unsqueeze(0), tuple(h[None] for h in hx) if name == "LSTMCell" else hx[None]
    )
    assert_same(small(x, hx), [h.squeeze(0) for h in flat(states)])
    row = tuple(h[0] for h in hx) if name == "LSTMCell" else hx[0]
    assert_same(small(x[0], row), [h[0] for h in flat(small(x, hx))])


@each_module
def test_matrices_are_a_quarter_and_rows_keep_their_largest_value(name: str, options: dict[str, Any]) -> None:
    layer, small = make(name, options)
    held, weights = small.state_dict(), layer.state_dict()
    assert set(weights) <= set(held)
    for key, weight in weights.items():
        if key.startswith("bias"):
            assert torch.equal(held[key], weight)
            assert held[key].data_ptr() != weight.data_ptr()
            continue
        scale = weight.abs().amax(1) / 127
        assert held[key].dtype == torch.int8
        assert held[key].abs().amax(1).eq(127).all()
        assert torch.equal(held[f"{key}_scale"], scale)
        assert ((held[key] * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()
    assert list(small.parameters()) == []
    assert "int8" in repr(small)
    assert "int8" not in repr(layer)


def test_rows_of_zeros_and_rows_that_are_not_finite_are_what_they_are() -> None:
    layer: Any = fused_rnn.RNN(3, 4, bias=False)
    with torch.no_grad():
        for row, values in enumerate(([0.0, 0.0, 0.0], [1.0, math.nan, 1.0], [1.0, math.inf, 1.0], [1e-39, 0.0, 0.0])):
            layer.weight_ih_l0[row] = torch.tensor(values)
    small: Any = fused_rnn.quantize(layer)
    assert small.weight_ih_l0.tolist() == [[0, 0, 0]] * 4
    assert torch.equal(small.weight_ih_l0_scale.isnan(), torch.tensor([False, True, True, False]))
    assert small.weight_ih_l0_scale[[0, 3]].tolist() == [0.0, 0.0]
    output, _ = small(torch.ones(1, 1, 3))
    assert output.isnan().flatten().tolist() == [False, True, True, False]


@each_module
def test_training_mode_changes_nothing(name: str, options: dict[str, Any]) -> None:
    _, small = make(name, options)
    x, hx = arguments(small)
    expected = small(x, hx)
    assert small.train().training
    assert_same(small(x, hx), expected)


@each_module
def test_the_float_module_of_the_integers_is_near_and_gives_the_same_integers(
    name: str, options: dict[str, Any]
) -> None:
    _, small = make(name, options)
    layer = small.dequantized()
    assert type(layer) is getattr(fused_rnn, name)
    x, hx = arguments(small)
    with torch.no_grad():
        assert_near(small(x, hx), layer(x, hx))
    again = fused_rnn.quantize(layer).state_dict()
    for key, value in small.state_dict().items():
        torch.testing.assert_close(again[key], value)


@each_module
def test_torch_nn_gives_the_same_module(name: str, options: dict[str, Any]) -> None:
    layer, small = make(name, options)
    plain = fused_rnn.restore(copy.deepcopy(layer))
    assert type(plain) is getattr(torch.nn, name)
    other = fused_rnn.quantize(plain)
    assert type(other) is type(small) is getattr(quantized, name)
    assert_same(list(other.state_dict().values()), list(small.state_dict().values()))
    x, hx = arguments(small)
    assert_same(other(x, hx), small(x, hx))


class Model(torch.nn.Module):
    """A layer of each package, one of them twice, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = fused_rnn.LSTM(5, 9, num_layers=2, bidirectional=True)
        self.stack = torch.nn.Sequential(torch.nn.Linear(18, 5), torch.nn.Tanh())
        self.heads = torch.nn.ModuleDict({"a": torch.nn.GRU(5, 5)})
        self.again = self.heads["a"]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.again(self.heads["a"](self.stack(self.encoder(x)[0]))[0])[0]
        return y


def test_a_model_is_copied_unless_in_place() -> None:
    model, x = Model().eval(), torch.randn(4, 2, 5)
    with torch.no_grad():
        expected = model(x)
        small = fused_rnn.quantize(model)
        assert small is not model
        assert torch.equal(model(x), expected)
        assert_near(small(x), expected)
        assert fused_rnn.quantize(model, inplace=True) is model
        assert torch.equal(model(x), small(x))
    kinds: set[type] = {type(each.encoder) for each in (small, model)}
    assert kinds == {quantized.LSTM}
    assert small.again is small.heads["a"]
    assert type(small.stack[0]) is torch.nn.Linear
    assert not small.encoder.training


def test_attributes_and_hooks_move_along() -> None:
    layer, calls = fused_rnn.GRU(3, 5), list[str]()
    layer.note = "kept"
    handle = layer.register_forward_hook(lambda *_: calls.append("called"))
    small = fused_rnn.quantize(torch.nn.Sequential(layer), inplace=True)
    small(torch.randn(4, 2, 3))
    assert small[0].note == "kept"
    assert calls == ["called"]
    handle.remove()
    small(torch.randn(4, 2, 3))
    assert calls == ["called"]


def test_a_parametrization_is_computed_once() -> None:
    layer: Any = parametrizations.weight_norm(torch.nn.GRU(3, 5), "weight_hh_l0")
    small: Any = fused_rnn.quantize(layer)
    assert not parametrize.is_parametrized(small)
    assert [name for name, _ in small.named_modules()] == [""]
    torch.testing.assert_close(small.dequantized().weight_hh_l0, layer.weight_hh_l0, atol=0.01, rtol=0.0)


@pytest.mark.parametrize("package", [fused_rnn, torch.nn], ids=["fused_rnn", "torch.nn"])
def test_weights_that_somebody_put_into_the_list_are_quantized(package: Any) -> None:
    layer = package.GRU(3, 5)
    layer._flat_weights[1] = torch.full((15, 5), 2.0)
    assert fused_rnn.quantize(layer, inplace=True).dequantized().weight_hh_l0.eq(2.0).all()


def test_what_acts_in_training_alone_is_no_obstacle() -> None:
    layer: Any = fused_rnn.LSTM(3, 5, recurrent_dropout=0.5, weight_dropout=0.5, recompute=True)
    small = fused_rnn.quantize(layer.train())
    x = torch.randn(4, 2, 3)
    with torch.no_grad():
        assert_near(small(x), layer.eval()(x))


class Own(torch.nn.GRU):
    """A subclass of torch.nn.GRU that changes what a call does."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # type: ignore[override]  # noqa: A002
        return super().forward(2 * input, hx)


def method_of_its_own() -> torch.nn.Module:
    layer = torch.nn.GRU(3, 5)
    layer.forward = lambda *_: None  # type: ignore[assignment, method-assign]
    return layer


def pruned() -> torch.nn.Module:
    layer = torch.nn.GRU(3, 5)
    prune.l1_unstructured(layer, "weight_hh_l0", 3)  # type: ignore[no-untyped-call]
    return layer


LEFT: dict[str, tuple[Any, str]] = {
    "layer_norm": (lambda: fused_rnn.LSTM(3, 5, layer_norm=True), "LSTM has layer_norm=True"),
    "zoneout": (lambda: fused_rnn.GRU(3, 5, zoneout=0.1), "GRU has zoneout=0.1"),
    "peephole": (lambda: fused_rnn.LSTM(3, 5, peephole=True), "LSTM has peephole=True"),
    "cell_clip": (lambda: fused_rnn.LSTM(3, 5, cell_clip=2.0), "LSTM has cell_clip=2.0"),
    "float64": (lambda: torch.nn.LSTM(3, 5).double(), "LSTM has a weight_ih_l0 of torch.float64"),
    "half": (lambda: fused_rnn.GRUCell(3, 5).half(), "GRUCell has a weight_ih of torch.float16"),
    "bfloat16": (lambda: fused_rnn.RNN(3, 5).bfloat16(), "RNN has a weight_ih_l0 of torch.bfloat16"),
    "meta": (lambda: fused_rnn.RNN(3, 5, device="meta"), "RNN has a weight_ih_l0 on meta"),
    "no features": (lambda: fused_rnn.GRUCell(0, 5), "GRUCell has input_size=0"),
    "no units": (lambda: fused_rnn.LSTMCell(3, 0), "LSTMCell has hidden_size=0"),
    "many features": (lambda: fused_rnn.RNN(65537, 1), "RNN has input_size=65537"),
    "forward": (lambda: Own(3, 5), "Own has its own forward"),
    "method": (method_of_its_own, "GRU has its own forward"),
    "pruned": (pruned, "GRU has a weight_hh_l0 that is no parameter"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_quantized_is_left_and_named(case: str) -> None:
    build, reason = LEFT[case]
    layer = build()
    model = torch.nn.ModuleDict({"a": torch.nn.Sequential(layer), "b": torch.nn.RNNCell(3, 5)})
    message = rf"^fused_rnn\.quantize left 1 recurrent layer\(s\) as they are: a\.0 \({reason}"
    with pytest.warns(UserWarning, match=message) as found:
        fused_rnn.quantize(model, inplace=True)
    assert found[0].filename == __file__
    assert model["a"][0] is layer  # type: ignore[index]
    assert isinstance(model["b"], quantized.RNNCell)
    kind = next(each for each in vars(quantized).values() if isinstance(layer, getattr(each, "_bases", ())))
    with pytest.raises(ValueError, match=f"layer cannot be quantized: {reason}"):
        kind(layer)


@pytest.mark.parametrize("again", [False, True], ids=["no layer", "int8 already"])
def test_nothing_to_quantize_is_said(again: bool) -> None:
    model = torch.nn.Sequential(fused_rnn.quantize(torch.nn.GRU(3, 5)) if again else torch.nn.Linear(3, 5))
    with pytest.warns(UserWarning, match="quantize found no LSTM, GRU, RNN or cell of float weights in Seq") as found:
        fused_rnn.quantize(model)
    assert found[0].filename == __file__


def test_only_modules_and_fitting_layers_are_taken() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        fused_rnn.quantize([torch.nn.LSTM(3, 5)])  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"layer must be torch's LSTM or fused_rnn's LSTM, got GRU"):
        quantized.LSTM(fused_rnn.GRU(3, 5))
    small = fused_rnn.quantize(fused_rnn.GRU(3, 5))
    with pytest.raises(TypeError, match="whose int8 layers all run the same way"):
        fused_rnn.explain(small, torch.randn(2, 2, 3))
    with pytest.raises(TypeError, match=r"weights must be None or torch\.int8 for an int8 layer"):
        fused_rnn.Stepper(small, weights=torch.bfloat16)
