"""restore() is the inverse of convert(): torch.nn's own layers, with everything that hung on ours."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as untyped_prune

import fused_rnn

prune: Any = untyped_prune
restore: Any = fused_rnn.restore  # to mypy it returns what it was given

LAYERS, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "LSTM": ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}, {"proj_size": 2}),
    "GRU": ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5}, {"bias": False}),
    "RNN": ({"nonlinearity": "relu"}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "dtype": torch.double}),
    "LSTMCell": ({}, {"bias": False}),
    "GRUCell": ({}, {"dtype": torch.double}),
    "RNNCell": ({}, {"nonlinearity": "relu"}),
}
CASES = [(name, options) for name, each in OPTIONS.items() for options in each]
VARIANTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("LSTM", {"layer_norm": True}, "layer_norm=True"),
    ("GRU", {"zoneout": 0.1}, r"zoneout=0\.1"),
    ("LSTM", {"zoneout": (0.1, 0.2)}, r"zoneout=\(0\.1, 0\.2\)"),
    ("RNN", {"recurrent_dropout": 0.25}, r"recurrent_dropout=0\.25"),
    ("GRU", {"weight_dropout": 0.25, "layer_norm": True}, r"layer_norm=True, weight_dropout=0\.25"),
    ("LSTM", {"peephole": True, "cell_clip": 3.0}, r"peephole=True, cell_clip=3\.0"),
)


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(flat(one), flat(other))


def assert_torchs_own(layer: Any, name: str) -> None:
    """All that a layer of torch.nn remembers is there, and right."""
    kind: Any = getattr(torch.nn, name)
    assert type(layer) is kind
    assert set(vars(layer)) == set(vars(kind(3, 5)))
    if name in LAYERS:
        assert type(vars(layer)["_flat_weights"]) is list
        named = [getattr(layer, each) for each in layer._flat_weights_names]
        assert all(one is other for one, other in zip(layer._flat_weights, named, strict=True))
        assert all(ref() is each for ref, each in zip(layer._flat_weight_refs, named, strict=True))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_there_and_back_is_the_same_layer(name: str, options: dict[str, Any], training: bool) -> None:
    ours = getattr(fused_rnn, name)(3, 5, **options).train(training)
    x = torch.randn(2, 3, dtype=options.get("dtype")) if name in CELLS else torch.randn(4, 2, 3).to(ours.weight_hh_l0)
    theirs = restore(ours)
    again = fused_rnn.convert(theirs)
    assert_torchs_own(theirs, name)
    assert type(again) is type(ours)
    assert set(vars(again)) == set(vars(ours))
    assert repr(theirs) == repr(again) == repr(ours)
    assert theirs.training is again.training is training
    for other in (theirs, again):
        assert list(other.state_dict()) == list(ours.state_dict())
        assert all(one is each for one, each in zip(other.parameters(), ours.parameters(), strict=True))
    if not options.get("dropout"):
        same(theirs(x), ours(x))
    same(copy.deepcopy(theirs).eval()(x), ours.eval()(x))
    same(again.eval()(x), ours(x))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_torch_there_and_back_keeps_its_weights_current(name: str) -> None:
    theirs, x = getattr(torch.nn, name)(3, 5), torch.randn(4, 2, 3)
    back = restore(fused_rnn.convert(theirs))
    assert_torchs_own(back, name)
    for tensor in back.parameters():
        torch.nn.init.uniform_(tensor)
    same(back(x), theirs(x))
    back.weight_hh_l0 = torch.nn.Parameter(torch.zeros_like(back.weight_hh_l0))
    assert back._flat_weights[1] is back.weight_hh_l0
    same(back.double()(x.double()), fused_rnn.convert(back)(x.double()))


def test_a_model_keeps_its_places_ties_hooks_and_optimizer() -> None:
    model: Any = torch.nn.ModuleDict({"a": fused_rnn.GRU(5, 5), "b": fused_rnn.GRU(5, 5)})
    calls = list[str]()
    model["a"].weight_hh_l0 = model["b"].weight_hh_l0
    model["again"] = model["a"]
    handle = model["a"].register_forward_hook(lambda layer, *_: calls.append(type(layer).__module__))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert restore(model) is model
    assert model["again"] is model["a"]
    assert model["a"]._flat_weights[1] is model["b"]._flat_weights[1]
    before = model["b"].weight_hh_l0.clone()
    model["a"](torch.randn(4, 2, 5))[0].sum().backward()
    optimizer.step()
    assert not torch.equal(model["b"].weight_hh_l0, before)
    handle.remove()
    model["a"](torch.randn(4, 2, 5))
    assert calls == ["torch.nn.modules.rnn"]


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
@pytest.mark.parametrize("kind", ["weight_norm", "orthogonal", "spectral_norm"])
def test_parametrizations_go_on(name: str, kind: str) -> None:
    ours, weight = getattr(fused_rnn, name)(3, 5), "weight_hh_l0" if name == "LSTM" else "weight_hh"
    getattr(parametrizations, kind)(ours, weight)
    theirs, x = restore(ours).eval(), torch.randn(4, 3)
    assert isinstance(theirs, getattr(torch.nn, name))
    assert parametrize.is_parametrized(theirs, weight)
    originals = dict(ours.named_parameters())
    assert all(parameter is originals[each] for each, parameter in theirs.named_parameters())
    ours.eval()
    for _ in range(2):
        same(theirs(x), ours(x))
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.mul_(-0.5)
    torch.autograd.backward(flat(theirs(x))[0].sum())
    assert all(parameter.grad is not None for parameter in originals.values())


def test_pruning_goes_on() -> None:
    layer = prune.l1_unstructured(fused_rnn.LSTM(3, 5), "weight_hh_l0", 0.5)
    theirs, x = restore(layer), torch.randn(4, 2, 3)
    with torch.no_grad():
        layer.weight_hh_l0_orig.mul_(2)
    same(theirs(x), layer(x))
    prune.remove(theirs, "weight_hh_l0")
    same(theirs(x), layer(x))
    assert_torchs_own(theirs, "LSTM")


@pytest.mark.parametrize(("name", "options", "named"), VARIANTS, ids=str)
def test_a_layer_with_a_variant_is_left_and_named(name: str, options: dict[str, Any], named: str) -> None:
    model = torch.nn.Sequential(getattr(fused_rnn, name)(3, 5, **options), fused_rnn.RNN(5, 5))
    layer = model[0]
    message = rf"^fused_rnn\.restore left 1 recurrent layer\(s\) as they are: 0 \({name} has its own {named}\)$"
    with pytest.warns(UserWarning, match=message) as found:
        restore(model)
    assert model[0] is layer
    assert type(model[1]) is torch.nn.RNN
    assert found[0].filename == __file__


def test_a_dropout_that_was_set_to_zero_is_none() -> None:
    layer = fused_rnn.GRU(3, 5, recurrent_dropout=0.25, weight_dropout=0.1)
    layer.recurrent_dropout = layer.weight_dropout = 0.0
    x = torch.randn(4, 2, 3)
    same(restore(layer)(x), layer(x))


def test_recomputation_comes_back() -> None:
    layer = fused_rnn.LSTM(3, 5, recompute=True)
    theirs = restore(layer)
    assert type(theirs) is torch.nn.LSTM
    assert repr(fused_rnn.convert(theirs)) == repr(layer)


class Narrow(fused_rnn.GRU):
    """A subclass that only says how it is made."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)


class Doubled(fused_rnn.GRU):
    """A subclass that changes what a call does."""

    def forward(self, input: Any, *arguments: Any, **options: Any) -> Any:  # noqa: A002
        return super().forward(2 * input, *arguments, **options)


def test_subclasses_are_treated_as_by_convert() -> None:
    assert type(restore(Narrow(3))) is torch.nn.GRU
    layer = Doubled(3, 5)
    with pytest.warns(UserWarning, match=r"restore left 1 .*: the model itself \(Doubled has its own forward\)$"):
        assert restore(layer) is layer


def test_a_copy_is_restored_and_the_model_stays() -> None:
    model, x = torch.nn.Sequential(fused_rnn.LSTM(3, 5)), torch.randn(4, 2, 3)
    plain = restore(copy.deepcopy(model))
    assert isinstance(model[0], fused_rnn.LSTM)
    assert not {id(parameter) for parameter in plain.parameters()} & {id(parameter) for parameter in model.parameters()}
    same(plain(x), model(x))


@pytest.mark.parametrize("action", [fused_rnn.convert, fused_rnn.restore])
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_nothing_of_the_old_layer_is_needed_or_called(name: str, action: Any) -> None:
    namespace, other = (torch.nn, fused_rnn) if action is fused_rnn.convert else (fused_rnn, torch.nn)
    model: Any = torch.nn.Sequential(getattr(namespace, name)(3, 5))
    seen = list[type]()
    model[0].register_load_state_dict_pre_hook(lambda layer, *_: seen.append(type(layer)))
    model[0].register_forward_hook(lambda layer, *_: seen.append(type(layer)))
    model[0].compile(backend="eager")
    action(model)
    gc.collect()
    model.load_state_dict(model.state_dict())
    model(torch.randn(2, 3))
    assert seen == [getattr(other, name)] * 2


def test_only_modules_are_restored() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        restore([fused_rnn.LSTM(3, 5)])


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
def test_dynamic_quantization_by_type_finds_a_restored_layer() -> None:
    model, x = torch.nn.Sequential(fused_rnn.LSTM(16, 32)).eval(), torch.randn(4, 2, 16)
    quantize: Any = torch.ao.quantization.quantize_dynamic
    quantized = quantize(restore(copy.deepcopy(model)), {torch.nn.LSTM})
    assert type(quantized[0]).__module__ == "torch.ao.nn.quantized.dynamic.modules.rnn"
    assert (quantized(x)[0] - model(x)[0]).abs().max() < 0.02


def test_a_model_without_a_layer_of_ours_is_told() -> None:
    with pytest.warns(UserWarning, match="found no recurrent layer or cell of fused_rnn in Linear"):
        fused_rnn.restore(torch.nn.Linear(2, 3))
    int8 = fused_rnn.quantize(torch.nn.Sequential(fused_rnn.LSTM(3, 4)))
    with pytest.warns(UserWarning, match=r"left int8 layers, which have dequantized\(\) for a float one: 0"):
        assert fused_rnn.restore(int8)[0] is int8[0]
    own = torch.nn.Sequential(fused_rnn.MinGRU(3, 4, device="meta"))
    with pytest.warns(UserWarning, match="left layers of cells that torch.nn does not have: 0 .MinGRU."):
        assert fused_rnn.restore(own)[0] is own[0]
