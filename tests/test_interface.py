"""The names, arguments and annotations of the modules, beside torch.nn's."""

from __future__ import annotations

import inspect
import itertools
import pydoc
import re
import typing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from fused_rnn import _variants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
of_every_layer = pytest.mark.parametrize("name", LAYERS)
of_every_module = pytest.mark.parametrize("name", LAYERS + CELLS)


def pair(name: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """A module of this package and one of torch.nn with the same parameters."""
    ours, theirs = (getattr(each, name)(*(arguments or (3, 4)), **options) for each in (fused_rnn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def public(owner: object) -> list[str]:
    return [name for name in dir(owner) if not name.startswith("_")]


@of_every_module
def test_every_public_name_of_torch_is_here(name: str) -> None:
    ours, theirs = pair(name)
    assert set(public(theirs)) <= set(public(ours))
    assert {name for name in public(theirs) if callable(getattr(theirs, name))} <= {
        name for name in public(ours) if callable(getattr(ours, name))
    }


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def arguments_of_torch(name: str) -> list[tuple[str, Any, Any]]:
    """Those that torch.nn's constructor takes: layers hand theirs on, RNN after it has taken its own."""
    if name in CELLS:
        return parameters(getattr(torch.nn, name))
    own: list[tuple[str, Any, Any]] = []
    handed_on = parameters(torch.nn.RNNBase)[1:]
    if name == "RNN":
        own = [("nonlinearity", inspect.Parameter.POSITIONAL_OR_KEYWORD, "tanh")]
    return [*handed_on[:3], *own, *handed_on[3:]]


@of_every_module
def test_the_signature_shows_the_arguments_of_torch_and_then_keywords(name: str) -> None:
    own, expected = parameters(getattr(fused_rnn, name)), arguments_of_torch(name)
    assert own[: len(expected)] == expected
    more = own[len(expected) :]
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in more)
    layer = getattr(fused_rnn, name)(3, 4)
    assert {argument: getattr(layer, argument) for argument, *_ in more} == {name: value for name, _, value in more}
    assert {argument for argument, *_ in more} == {
        each for each in _variants.NAMES if name in LAYERS and (name == "LSTM" or each not in {"peephole", "cell_clip"})
    }


@of_every_module
def test_help_shows_the_arguments(name: str) -> None:
    text = pydoc.render_doc(getattr(fused_rnn, name))
    for argument, _, default in arguments_of_torch(name):
        assert re.search(rf"{argument}: .* = {default!r}" if default is not inspect.Parameter.empty else argument, text)
    assert "*args" not in text.partition("Method resolution order")[0]


@of_every_module
@pytest.mark.parametrize("count", range(2, 12))
def test_arguments_by_position_mean_what_they_mean_in_torch(name: str, count: int) -> None:
    values = {"input_size": 3, "hidden_size": 4, "num_layers": 2, "nonlinearity": "relu", "bias": False,
              "batch_first": True, "dropout": 0.5, "bidirectional": True, "proj_size": 2 if name == "LSTM" else 0,
              "device": "cpu", "dtype": torch.float64}  # fmt: skip
    given = [values[argument] for argument, *_ in arguments_of_torch(name)][:count]
    ours, theirs = (getattr(each, name)(*given) for each in (fused_rnn, torch.nn))
    assert repr(ours) == repr(theirs)
    own, expected = ({n: (p.shape, p.dtype) for n, p in each.named_parameters()} for each in (ours, theirs))
    assert own == expected


@of_every_module
def test_every_method_takes_the_arguments_that_it_takes_in_torch(name: str) -> None:
    ours, theirs = (getattr(each, name) for each in (fused_rnn, torch.nn))
    for method in public(theirs):
        if not inspect.isfunction(getattr(theirs, method)):
            continue
        own, expected = (parameters(getattr(each, method)) for each in (ours, theirs))
        assert own[: len(expected)] == expected, method
        assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in own[len(expected) :]), method


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the type and the text of its error."""
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        return type(error), str(error)


def states(name: str, rows: int, batch: int, units: int = 4) -> Any:
    made = torch.arange(2.0 * rows * batch * units).view(2, rows, batch, units)
    return (made[0], made[1]) if name == "LSTM" else made[0]


@of_every_layer
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("batch", [2, 5])
def test_the_methods_that_check_and_permute_do_what_they_do_in_torch(
    name: str, options: dict[str, Any], batch: int
) -> None:
    ours, theirs = pair(name, **options)
    x, packed, sizes = torch.randn(5, 2, 3), torch.randn(6, 3), torch.tensor([2, 2, 2])
    order, rows = torch.arange(batch - 1, -1, -1), 4 if options.get("bidirectional") else 1
    state = states(name, rows, batch)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        *(("check_forward_args", (given, state, None)) for given in (x, x.double(), x[0], x[..., 1:])),
        ("check_forward_args", (packed, state, sizes)),
        *(("check_input", (given, None)) for given in (x, x[0], x.half(), x[..., 1:])),
        ("check_input", (packed, sizes)),
        *(("get_expected_hidden_size", arguments) for arguments in ((x, None), (packed, sizes))),
        *(("permute_hidden", (state, each)) for each in (order, None)),
        ("check_hidden_size", (torch.ones(1, batch, 4), (1, 2, 4))),
        ("check_hidden_size", (torch.ones(1, batch, 4), (1, 2, 4), "{} but {}")),
    ]  # fmt: skip
    if name == "LSTM":
        calls += [("get_expected_cell_size", arguments) for arguments in ((x, None), (packed, sizes))]
    for method, arguments in calls:
        found, expected = (outcome(partial(getattr(module, method), *arguments)) for module in (ours, theirs))
        if isinstance(expected, tuple) and isinstance(expected[0], type):
            assert found == expected, method
        else:
            torch.testing.assert_close(found, expected)


@of_every_layer
def test_all_weights_are_those_of_torch(name: str) -> None:
    ours, theirs = pair(name, num_layers=2, bidirectional=True, bias=False)
    torch.testing.assert_close(ours.all_weights, theirs.all_weights)
    weights = itertools.chain.from_iterable(ours.all_weights)
    assert all(weight is parameter for weight, parameter in zip(weights, ours.parameters(), strict=True))


# --- Attributes that change after a layer was made ---


@of_every_layer
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
    ("attribute", "value"),
    [("batch_first", True), ("dropout", 1.0), ("training", False), ("nonlinearity", "relu")],
)
def test_an_attribute_that_is_set_later_acts_as_in_torch(
    name: str, attribute: str, value: Any, num_layers: int
) -> None:
    x, found = torch.randn(5, 2, 3), []
    for module in pair(name, num_layers=num_layers):
        setattr(module, attribute, value)
        found.append(outcome(partial(module, x)))
    if isinstance(found[1][0], torch.Tensor):
        torch.testing.assert_close(*found)
    else:
        assert found[0][0] is found[1][0]
        assert found[0][1].startswith(found[1][1])


@of_every_layer
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("attribute", ["num_layers", "bidirectional", "bias", "proj_size"])
def test_an_attribute_that_asks_for_other_parameters_is_refused(
    name: str, options: dict[str, Any], attribute: str
) -> None:
    layer = getattr(fused_rnn, name)(3, 4, **options)
    changed = {"num_layers": 3 - layer.num_layers, "proj_size": 2}
    setattr(layer, attribute, changed.get(attribute, not getattr(layer, attribute)))
    with pytest.raises(RuntimeError, match="got an incorrect number of RNN parameters"):
        layer(torch.randn(5, 2, 3))


@of_every_layer
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize(("attribute", "value"), [("input_size", 2), ("hidden_size", 5)])
def test_a_size_that_is_not_that_of_the_parameters_is_refused(
    name: str, options: dict[str, Any], attribute: str, value: int
) -> None:
    layer = getattr(fused_rnn, name)(3, 4, **options)
    setattr(layer, attribute, value)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=attribute):
            layer(torch.randn(5, 2, 3))
    setattr(layer, attribute, {"input_size": 3, "hidden_size": 4}[attribute])
    layer(torch.randn(5, 2, 3))


@of_every_layer
def test_sizes_may_change_together_with_the_parameters(name: str) -> None:
    found, x = [], torch.randn(5, 2, 2)
    smaller = getattr(torch.nn, name)(2, 3)
    for layer in pair(name):
        layer.input_size, layer.hidden_size = 2, 3
        for weight, value in smaller.named_parameters():
            setattr(layer, weight, torch.nn.Parameter(value.detach().clone()))
        found.append(layer(x))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", CELLS)
def test_the_size_of_a_state_that_is_not_given_is_that_of_the_attribute(name: str) -> None:
    for cell in pair(name):
        cell.hidden_size = 5
        for grad in (True, False):
            with (
                torch.set_grad_enabled(grad),
                pytest.raises(RuntimeError, match="hidden0 has inconsistent hidden_size: got 5, expected 4"),
            ):
                cell(torch.randn(2, 3))


@of_every_module
def test_a_weight_that_was_replaced_by_a_tensor_is_used(name: str) -> None:
    weight, found = ("weight_hh_l0" if name in LAYERS else "weight_hh"), []
    x = torch.randn(4, 2, 3) if name in LAYERS else torch.randn(2, 3)
    given = torch.randn(16 if "LSTM" in name else 12 if "GRU" in name else 4, 4, requires_grad=True)
    for module in pair(name):
        delattr(module, weight)
        setattr(module, weight, 2 * given)
        hidden = torch.ones(2, 4)
        states = () if name in LAYERS else ((hidden, hidden) if name == "LSTMCell" else hidden,)
        result = module(x, *states)
        result = result if isinstance(result, torch.Tensor) else result[0]
        found.append((result, *torch.autograd.grad(result.sum(), given)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh", "sigmoid"])
def test_the_nonlinearity_of_a_cell_may_change(nonlinearity: str) -> None:
    found, x = [], torch.randn(2, 3)
    for cell in pair("RNNCell"):
        cell.nonlinearity = nonlinearity
        found.append(outcome(partial(cell, x)))
    if nonlinearity == "sigmoid":
        assert found[0] == found[1]
        assert found[0][0] is RuntimeError
    else:
        torch.testing.assert_close(*found)


# --- Annotations ---


def annotated() -> Iterator[tuple[str, Any]]:
    """Everything public that may have annotations."""
    for name in fused_rnn.__all__:
        one = getattr(fused_rnn, name)
        if callable(one):
            yield name, one
        for member, value in inspect.getmembers(one) if isinstance(one, type) else []:
            function = value.fget if isinstance(value, property) else value
            if inspect.isfunction(function) and function.__module__.startswith("fused_rnn"):
                yield f"{name}.{member}", function


@pytest.mark.parametrize("one", [pytest.param(one, id=name) for name, one in annotated()])
def test_annotations_can_be_looked_up(one: Any) -> None:
    assert isinstance(typing.get_type_hints(one), dict)


@of_every_module
@pytest.mark.parametrize("method", ["__init__", "forward"])
def test_every_argument_and_result_has_a_type(name: str, method: str) -> None:
    function = getattr(getattr(fused_rnn, name), method)
    hints = typing.get_type_hints(function)
    assert set(hints) == {argument for argument, *_ in parameters(function)[1:]} | {"return"}
    assert Any not in hints.values()
