"""convert() swaps layers inside any model and keeps everything that hangs on them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize

import fused_rnn

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")


class Model(torch.nn.Module):
    """Layers as attributes, in containers, twice, and one subclass with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True)
        self.stack = torch.nn.Sequential(torch.nn.Linear(10, 5), torch.nn.Tanh())
        self.heads = torch.nn.ModuleDict({"a": torch.nn.GRU(5, 5), "b": torch.nn.RNN(5, 5, nonlinearity="relu")})
        self.again = self.heads["a"]
        self.own = Own(5, 5)
        self.cell = torch.nn.LSTMCell(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.stack(self.encoder(x)[0])
        hidden = self.again(self.heads["a"](hidden)[0])[0] + self.heads["b"](hidden)[0]
        state = None
        for step in self.own(hidden)[0]:
            state = self.cell(step, state)
        assert state is not None
        h: torch.Tensor = state[0]
        return h


class Own(torch.nn.GRU):
    """A subclass of torch.nn.GRU that changes what a call does."""

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:  # type: ignore[override]  # noqa: A002
        return super().forward(2 * input, hx)


def test_a_converted_model_computes_the_same_with_the_same_parameters() -> None:
    model, x = Model(), torch.randn(4, 2, 3)
    expected, names = model(x), list(model.state_dict())
    parameters = dict(model.named_parameters())
    assert fused_rnn.convert(model) is model
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == names
    found = dict(model.named_parameters())
    assert list(found) == list(parameters)
    assert all(found[name] is parameters[name] for name in parameters)


def test_every_kind_of_layer_is_swapped_and_subclasses_are_not() -> None:
    modules = dict(fused_rnn.convert(Model()).named_modules())
    expected = {
        "encoder": fused_rnn.LSTM,
        "heads.a": fused_rnn.GRU,
        "heads.b": fused_rnn.RNN,
        "cell": fused_rnn.LSTMCell,
        "own": Own,
    }
    assert {name: type(modules[name]) for name in expected} == expected


def test_a_layer_used_twice_stays_one_layer() -> None:
    model = fused_rnn.convert(Model())
    assert model.again is model.heads["a"]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_itself_is_returned_converted(name: str) -> None:
    layer = getattr(torch.nn, name)(3, 5).eval()
    converted = fused_rnn.convert(layer)
    assert type(converted) is getattr(fused_rnn, name)
    assert not converted.training
    assert repr(converted) == repr(layer)
    assert all(one is other for one, other in zip(converted.parameters(), layer.parameters(), strict=True))
    x = torch.randn(4, 3)
    torch.testing.assert_close(converted(x), layer(x))
    torch.testing.assert_close(copy.deepcopy(converted)(x), layer(x))


def test_an_optimizer_made_before_goes_on() -> None:
    model, x = Model(), torch.randn(4, 2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fused_rnn.convert(model)
    before = model.state_dict()["encoder.weight_hh_l0"].clone()
    model(x).sum().backward()
    optimizer.step()
    assert not torch.equal(model.state_dict()["encoder.weight_hh_l0"], before)


def test_tied_parameters_stay_tied() -> None:
    first, second = torch.nn.GRU(5, 5), torch.nn.GRU(5, 5)
    second.weight_hh_l0 = first.weight_hh_l0
    model = fused_rnn.convert(torch.nn.Sequential(first, second))
    held = dict(model.named_parameters(remove_duplicate=False))
    assert held["0.weight_hh_l0"] is held["1.weight_hh_l0"] is first.weight_hh_l0


def test_hooks_move_along_and_their_handles_still_remove_them() -> None:
    layer, calls = torch.nn.GRU(3, 5), list[str]()
    handle = layer.register_forward_hook(lambda *_: calls.append("called"))
    converted = fused_rnn.convert(torch.nn.Sequential(layer))
    converted(torch.randn(4, 2, 3))
    assert calls == ["called"]
    handle.remove()
    converted(torch.randn(4, 2, 3))
    assert calls == ["called"]


def test_moving_the_original_layer_later_leaves_the_converted_one() -> None:
    layer = torch.nn.GRU(3, 5)
    converted = fused_rnn.convert(layer)
    layer.register_parameter("another", torch.nn.Parameter(torch.zeros(1)))
    layer.weight_hh_l0 = torch.nn.Parameter(torch.zeros(15, 5))
    assert "another" not in dict(converted.named_parameters())
    assert converted.weight_hh_l0 is not layer.weight_hh_l0


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_parametrizations_move_along(name: str) -> None:
    layer = getattr(torch.nn, name)(3, 5)
    weight = "weight_hh_l0" if name == "LSTM" else "weight_hh"
    parametrizations.weight_norm(layer, weight)
    parametrizations.orthogonal(layer, weight.replace("hh", "ih"))
    x, names = torch.randn(4, 3), [each for each, _ in layer.named_parameters()]
    converted = fused_rnn.convert(layer)
    assert isinstance(converted, getattr(fused_rnn, name))
    assert parametrize.is_parametrized(converted, weight)
    assert sorted(each for each, _ in converted.named_parameters()) == sorted(names)
    originals = dict(layer.named_parameters())
    assert all(parameter is originals[each] for each, parameter in converted.named_parameters())
    torch.testing.assert_close(converted(x), layer(x))
    converted.load_state_dict(layer.state_dict())
    result = converted(x)[0] if name == "LSTM" else converted(x)
    result.sum().backward()
    assert all(parameter.grad is not None for parameter in converted.parameters())


def test_converting_twice_changes_nothing_more() -> None:
    model = fused_rnn.convert(Model())
    encoder = model.encoder
    fused_rnn.convert(model)
    assert model.encoder is encoder


def test_only_modules_are_converted() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        fused_rnn.convert([torch.nn.LSTM(3, 5)])  # type: ignore[type-var]
