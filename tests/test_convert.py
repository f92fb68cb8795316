"""convert() swaps layers inside any model and keeps everything that hangs on them."""

from __future__ import annotations

import abc
import copy
import warnings
from types import SimpleNamespace
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


def converted(model: Model) -> Model:
    """The model, converted but for its subclass, which is reported."""
    message = r"^fused_rnn.convert left 1 recurrent layer\(s\) as they are: own \(Own has its own forward\)\. They run "
    message += r"on torch\.nn: derive their classes from fused_rnn's, or import the library .* fused_rnn\.patch\(\):`$"
    with pytest.warns(UserWarning, match=message):
        return fused_rnn.convert(model)


def test_a_converted_model_computes_the_same_with_the_same_parameters() -> None:
    model, x = Model(), torch.randn(4, 2, 3)
    expected, names = model(x), list(model.state_dict())
    parameters = dict(model.named_parameters())
    assert converted(model) is model
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == names
    found = dict(model.named_parameters())
    assert list(found) == list(parameters)
    assert all(found[name] is parameters[name] for name in parameters)


def test_every_kind_of_layer_is_swapped_and_a_subclass_with_a_forward_is_not() -> None:
    modules = dict(converted(Model()).named_modules())
    expected = {
        "encoder": fused_rnn.LSTM,
        "heads.a": fused_rnn.GRU,
        "heads.b": fused_rnn.RNN,
        "cell": fused_rnn.LSTMCell,
        "own": Own,
    }
    assert {name: type(modules[name]) for name in expected} == expected


def test_a_layer_used_twice_stays_one_layer() -> None:
    model = converted(Model())
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
    converted(model)
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
    model = converted(Model())
    encoder = model.encoder
    converted(model)
    assert model.encoder is encoder


class Narrow(torch.nn.GRU):
    """A subclass that only says how it is made."""

    size: int

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.size = size


class Narrower(Narrow):
    """A subclass of that one."""


class Tracing:
    """A mixin with a behaviour of its own."""

    def trace(self) -> str:
        return "traced"


class Mixed(Tracing, torch.nn.LSTMCell):
    """A subclass with a method that torch.nn does not have."""


class MixedBehind(torch.nn.LSTMCell, Tracing):
    """The same with the bases in the other order."""


@pytest.mark.parametrize("kind", [Narrow, Narrower])
def test_a_subclass_with_only_a_constructor_is_swapped(kind: type[Narrow]) -> None:
    layer, x = kind(3), torch.randn(4, 2, 3)
    model = fused_rnn.convert(torch.nn.Sequential(layer))
    assert type(model[0]) is fused_rnn.GRU
    assert model[0].size == 3
    torch.testing.assert_close(model(x), layer(x))
    torch.testing.assert_close(copy.deepcopy(model)(x), layer(x))


@pytest.mark.parametrize("kind", [Mixed, MixedBehind])
def test_a_subclass_with_more_is_left(kind: type[torch.nn.LSTMCell]) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Sequential(kind(3, 5)), "b": torch.nn.LSTMCell(3, 5)})
    with pytest.warns(UserWarning, match=rf"as they are: a\.0 \({kind.__name__} has its own trace\)\. "):
        fused_rnn.convert(model)
    assert isinstance(model["b"], fused_rnn.LSTMCell)
    layer = kind(3, 5)
    with pytest.warns(UserWarning, match=r"as they are: the model itself \("):
        assert fused_rnn.convert(layer) is layer


def test_a_parametrized_subclass_is_known_by_its_own_class() -> None:
    own = parametrizations.weight_norm(Own(3, 5), "weight_hh_l0")
    with pytest.warns(UserWarning, match=r"\(Own has its own forward\)"):
        assert fused_rnn.convert(own) is own
    assert isinstance(fused_rnn.convert(parametrizations.weight_norm(Narrow(3), "weight_hh_l0")), fused_rnn.GRU)


def test_a_method_set_on_a_layer_is_not_lost() -> None:
    layer = torch.nn.GRU(3, 5)
    plain = layer.forward
    layer.forward = lambda *arguments: plain(*arguments)[0]  # type: ignore[assignment, method-assign]
    with pytest.warns(UserWarning, match=r"\(GRU has its own forward\)"):
        assert fused_rnn.convert(layer) is layer
    assert isinstance(layer(torch.randn(4, 2, 3)), torch.Tensor)


def test_a_class_called_as_its_base_is_named_with_its_module() -> None:
    class Abstract(abc.ABC, torch.nn.RNNBase):
        __slots__ = ()

        @abc.abstractmethod
        def extra(self) -> None: ...

    class LSTM(Abstract, torch.nn.LSTM):
        def extra(self) -> None: ...

    with pytest.warns(UserWarning, match=rf"\({__name__}\.LSTM has its own extra\)\. They run"):
        fused_rnn.convert(LSTM(3, 5))


def test_the_warning_points_at_the_caller() -> None:
    with pytest.warns(UserWarning, match="convert left") as found:
        fused_rnn.convert(Model())
    assert found[0].filename == __file__


def test_only_modules_are_converted() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        fused_rnn.convert([torch.nn.LSTM(3, 5)])  # type: ignore[type-var]


@pytest.mark.parametrize("swap", [fused_rnn.convert, fused_rnn.restore, fused_rnn.quantize])
def test_an_object_that_holds_a_model_is_told_its_name(swap: Any) -> None:
    layer = fused_rnn.LSTM(3, 5) if swap is fused_rnn.restore else torch.nn.LSTM(3, 5)
    agent = SimpleNamespace(policy=torch.nn.Sequential(layer), loss=torch.nn.MSELoss(), steps=3)
    with pytest.raises(
        TypeError, match=r"must be a torch\.nn\.Module, got SimpleNamespace: did you mean its policy\?$"
    ):
        swap(agent)


# --- Options ---

LAYERS = ("LSTM", "GRU", "RNN")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"zoneout": 0.3},
    {"recurrent_dropout": 0.2, "weight_dropout": 0.1, "recompute": True},
    {"layer_norm": True, "zoneout": 0.1},
    {"peephole": True, "cell_clip": 2.0, "zoneout": (0.1, 0.2)},
)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_are_those_of_the_constructor(name: str, options: dict[str, Any]) -> None:
    theirs = getattr(torch.nn, name)(3, 5, num_layers=2, bidirectional=True)
    model, x = torch.nn.ModuleDict({"a": theirs}), torch.randn(4, 2, 3)
    if "peephole" in options and name != "LSTM":
        with pytest.raises(ValueError, match=rf"a \({theirs.mode}\): .*cell state|a \({theirs.mode}\): zoneout"):
            fused_rnn.convert(model, **options)
        assert model["a"] is theirs
        return
    kept = dict(theirs.named_parameters())
    ours: Any = fused_rnn.convert(model, **options)["a"]
    made = getattr(fused_rnn, name)(3, 5, num_layers=2, bidirectional=True, **options)
    assert repr(ours) == repr(made)
    assert list(ours.state_dict()) == list(made.state_dict())
    assert all(getattr(ours, each) is parameter for each, parameter in kept.items())
    made.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, made):
        torch.manual_seed(1)
        found.append(layer(x)[0])
    assert torch.equal(*found)


def test_peepholes_of_a_converted_layer_change_nothing_before_they_are_trained() -> None:
    theirs, x = torch.nn.LSTM(3, 5), torch.randn(4, 2, 3)
    torch.testing.assert_close(fused_rnn.convert(theirs, peephole=True)(x), theirs(x))


def test_an_option_that_one_layer_cannot_have_changes_nothing() -> None:
    model = torch.nn.ModuleList([torch.nn.LSTM(3, 5), torch.nn.LSTM(3, 5, proj_size=2), torch.nn.LSTMCell(3, 5)])
    before = list(model)
    for options in ({"zoneout": 0.1}, {"zoneout": 5.0}):
        with pytest.raises(ValueError, match=r"[01] \(LSTM\): zoneout"):
            fused_rnn.convert(model, **options)  # type: ignore[arg-type]
    assert list(model) == before


def test_cells_are_swapped_without_options_and_named() -> None:
    model = torch.nn.ModuleDict({"layer": torch.nn.GRU(3, 5), "cell": torch.nn.GRUCell(3, 5)})
    message = "fused_rnn.convert found cells, which have no zoneout, recompute: cell$"
    with pytest.warns(UserWarning, match=message) as found:
        fused_rnn.convert(model, zoneout=0.1, recompute=True)
    assert found[0].filename == __file__
    assert isinstance(model["cell"], fused_rnn.GRUCell)


def test_a_recompute_that_restore_left_is_found_beside_other_options() -> None:
    plain = fused_rnn.restore(fused_rnn.GRU(3, 5, recompute=True))
    assert repr(fused_rnn.convert(plain, zoneout=0.1)) == "GRU(3, 5, zoneout=0.1, recompute=True)"


@pytest.mark.parametrize("strict", [False, True])
def test_a_model_without_recurrent_layers_is_told_of(strict: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    message = "fused_rnn.convert found no recurrent layer or cell of torch.nn in Sequential$"
    if strict:
        with pytest.raises(ValueError, match=message):
            fused_rnn.convert(model, strict=True)
    else:
        with pytest.warns(UserWarning, match=message) as found:
            assert fused_rnn.convert(model) is model
        assert found[0].filename == __file__


@pytest.mark.parametrize("swap", [fused_rnn.convert, fused_rnn.quantize, fused_rnn.restore])
def test_a_graph_that_torch_made_of_a_model_is_told_from_one_without_layers(swap: Any) -> None:
    model, x = torch.nn.Sequential(torch.nn.Linear(3, 5)), torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls scripts and their copies deprecated
        graphs = {"torch.jit": torch.jit.trace(model, x), "torch.fx or torch.export": torch.fx.symbolic_trace(model)}  # type: ignore[no-untyped-call]
    for maker, graph in graphs.items():
        with pytest.warns(UserWarning, match=f"found no .*, which {maker} made of a model: give that one$"):
            swap(graph, **({"inplace": True} if swap is fused_rnn.quantize else {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_was_converted_before_is_fine(name: str) -> None:
    model = torch.nn.Sequential(getattr(torch.nn, name)(3, 5))
    assert fused_rnn.convert(fused_rnn.convert(model, strict=True), strict=True) is model


def test_strict_raises_and_changes_nothing() -> None:
    model = Model()
    before = list(model.modules())
    with pytest.raises(ValueError, match=r"fused_rnn\.convert left 1 .*: own \(Own has its own forward\)\. "):
        fused_rnn.convert(model, strict=True)
    del model.own
    with pytest.raises(ValueError, match=r"found cells, which have no zoneout: cell$"):
        fused_rnn.convert(model, strict=True, zoneout=0.1)
    assert [module for module in model.modules() if module not in before] == []
