"""Swap the recurrent layers and cells in a model, torch.nn's for this package's or back, keeping their parameters."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch.nn.utils import parametrize

from fused_rnn import modules
from fused_rnn._swap import Swap, carry_attributes, given_weights, own_behaviour, swap
from fused_rnn._variants import NAMES, PLAIN

_Model = TypeVar("_Model", bound=torch.nn.Module)

_REPLACEMENTS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.LSTM: modules.LSTM,
    torch.nn.GRU: modules.GRU,
    torch.nn.RNN: modules.RNN,
    torch.nn.LSTMCell: modules.LSTMCell,
    torch.nn.GRUCell: modules.GRUCell,
    torch.nn.RNNCell: modules.RNNCell,
}


def convert(model: _Model) -> _Model:
    """Swap every torch.nn LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell in `model` for the fused one, in place.

    The new layers hold the very same Parameter objects, so optimizers, tied weights and state dicts go on unchanged.
    The training flag, other attributes, hooks (with their handles) and parametrizations move along, and a layer that
    occurs twice in the model stays one layer.

    A subclass of torch.nn's layers that adds nothing but a constructor is swapped, too. One that adds more, such as a
    forward, would lose it: it is left as it is, with a warning; let its class derive from the fused one instead. Also
    left is a reference that a model keeps outside of its submodules, for example in a list.

    Args:
        model: any module; a torch.nn recurrent layer itself, too.

    Returns:
        `model`, or the replacement where `model` itself is a layer to swap.

    Raises:
        TypeError: `model` is not a torch.nn.Module.

    Warns:
        UserWarning: layers with a behaviour of their own were left; it names them and what they have.

    Example::

        model = torch.nn.ModuleDict({"encoder": torch.nn.LSTM(16, 32)})
        fused_rnn.convert(model)
        assert isinstance(model["encoder"], fused_rnn.LSTM)
    """
    rule = Swap(
        "convert", list(_REPLACEMENTS), _why_not_fused, lambda module, base: _replacement(module, _REPLACEMENTS[base])
    )
    return cast("_Model", swap(model, rule).model)


def restore(model: _Model) -> _Model:
    """Swap every LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell of this package in `model` for torch.nn's, in place.

    The inverse of `convert`, for tools that know torch.nn's layers by their type. The same things move along, the very
    same Parameter objects first of all; so `restore(copy.deepcopy(model))` leaves `model` as it is.

    A layer with a variant (layer_norm, zoneout, recurrent_dropout, weight_dropout, peephole, cell_clip) has no
    counterpart in torch.nn: it is left as it is, with a warning. Where the two dropouts no longer matter, set them to 0
    before. `recompute`, which changes no result, becomes an attribute that torch.nn ignores and `convert` finds again.
    Subclasses are treated as in `convert`.

    Args:
        model: any module; a recurrent layer of this package itself, too.

    Returns:
        `model`, or the replacement where `model` itself is a layer to swap.

    Raises:
        TypeError: `model` is not a torch.nn.Module.

    Warns:
        UserWarning: layers with variants or with a behaviour of their own were left; it names them and what they have.

    Example::

        model = torch.nn.ModuleDict({"encoder": fused_rnn.LSTM(16, 32)})
        plain = fused_rnn.restore(copy.deepcopy(model))
        quantized = torch.ao.quantization.quantize_dynamic(plain, {torch.nn.LSTM})
    """
    theirs = {ours: theirs for theirs, ours in _REPLACEMENTS.items()}
    rule = Swap("restore", list(theirs), _why_not_plain, lambda module, base: _replacement(module, theirs[base]))
    return cast("_Model", swap(model, rule).model)


def _why_not_fused(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """What a layer would lose as one of ours."""
    return _has_its_own(own_behaviour(module, base))


def _why_not_plain(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """What a layer would lose as one of torch.nn, which has no variants."""
    options = []
    if isinstance(module, modules.RecurrentLayer):
        pairs = zip(NAMES, module._variants(), PLAIN, strict=False)
        options = [f"{name}={value}" for name, value, plain in pairs if value != plain and name != "recompute"]
    return _has_its_own(own_behaviour(module, base) + options)


def _has_its_own(names: list[str]) -> list[str]:
    return [f"has its own {', '.join(names)}"] if names else []


def _replacement(module: torch.nn.Module, kind: type[torch.nn.Module]) -> torch.nn.Module:
    """A module of class `kind` with the state of `module`."""
    new = kind.__new__(kind)
    given = given_weights(module)
    carry_attributes(module, new)
    if parametrize.is_parametrized(module):
        _carry_parametrizations(module, new)
    if isinstance(new, torch.nn.RNNBase):
        new._init_flat_weights()
        if given is not None:
            new._flat_weights = given
    return new


def _carry_parametrizations(module: torch.nn.Module, new: torch.nn.Module) -> None:
    """Make the parametrizations of `module` compute the parameters of `new`, too.

    Registering makes the properties that read a parametrized tensor. It needs something to register on, so each name
    gets a stand-in with a parametrization that does nothing, and the list of the original module takes its place.
    """
    lists = dict(cast("torch.nn.ModuleDict", module.parametrizations).items())
    del new._modules["parametrizations"]
    for name in lists:
        stand_in = torch.nn.Parameter(getattr(module, name).detach(), requires_grad=False)
        new.register_parameter(name, stand_in)
        parametrize.register_parametrization(new, name, torch.nn.Identity(), unsafe=True)
    for name, parametrizations in lists.items():
        cast("torch.nn.ModuleDict", new.parametrizations)[name] = parametrizations
