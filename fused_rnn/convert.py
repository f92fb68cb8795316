"""Swap the recurrent layers and cells in a model, torch.nn's for this package's or back, keeping their parameters."""

from __future__ import annotations

import operator
import warnings
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch.nn.utils import parametrize

from fused_rnn import modules
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._variants import NAMES, PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable

_Model = TypeVar("_Model", bound=torch.nn.Module)

_REPLACEMENTS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.LSTM: modules.LSTM,
    torch.nn.GRU: modules.GRU,
    torch.nn.RNN: modules.RNN,
    torch.nn.LSTMCell: modules.LSTMCell,
    torch.nn.GRUCell: modules.GRUCell,
    torch.nn.RNNCell: modules.RNNCell,
}
# Containers that the replacement owns; the hook dictionaries stay shared, because the handles of hooks point to them.
_OWN = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
# What is bound to the old module: what torch.nn's layers remember about their parameters, and what its compile() made.
_FORGOTTEN = ("_flat_weights", "_flat_weight_refs", "_flat", "_compiled_call_impl")
# What a class may have of its own while its instances behave as those of its base: how they are made, and what Python
# writes into every class.
_NO_BEHAVIOUR = frozenset(
    {"__init__", "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__",
     "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__"}
)  # fmt: skip


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
    return _swap(model, "convert", _REPLACEMENTS, _own_behaviour)


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
    return _swap(model, "restore", {ours: theirs for theirs, ours in _REPLACEMENTS.items()}, _own_options)


def _swap(
    model: _Model,
    action: str,
    replacements: dict[type[torch.nn.Module], type[torch.nn.Module]],
    lost: Callable[[torch.nn.Module, type[torch.nn.Module]], list[str]],
) -> _Model:
    """Put replacements in place of modules, but of those that would lose something by it."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    replaced: dict[torch.nn.Module, torch.nn.Module] = {}
    left = []
    for path, module in model.named_modules():
        base = next((each for each in replacements if isinstance(module, each)), None)
        if base is None:
            continue
        own = lost(module, base)
        if own:
            kind = parametrize.type_before_parametrizations(module)
            left.append(f"{path or 'the model itself'} ({kind.__name__} has its own {', '.join(own)})")
        else:
            replaced[module] = _replacement(module, replacements[base])
    if left:
        warnings.warn(
            f"fused_rnn.{action} left {len(left)} recurrent layer(s) as they are: {'; '.join(left)}", stacklevel=3
        )
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in replaced:
                module._modules[name] = replaced[child]
    return cast("_Model", replaced.get(model, model))


def _own_behaviour(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """Names that the module's class or the module itself has, and that another class would lose."""
    classes = [each for each in parametrize.type_before_parametrizations(module).__mro__ if each not in base.__mro__]
    of_class = {name for each in classes for name in vars(each)} - _NO_BEHAVIOUR
    of_itself = {name for name in vars(module) if callable(getattr(base, name, None))}  # a method set on the instance
    return sorted(of_class | of_itself)


def _own_options(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """The same, and the variants of a layer, which torch.nn does not have."""
    options = []
    if isinstance(module, RecurrentLayer):
        pairs = zip(NAMES, module._variants(), PLAIN, strict=False)
        options = [f"{name}={value}" for name, value, plain in pairs if value != plain and name != "recompute"]
    return _own_behaviour(module, base) + options


def _replacement(module: torch.nn.Module, kind: type[torch.nn.Module]) -> torch.nn.Module:
    """A module of class `kind` with the state of `module`."""
    new = kind.__new__(kind)
    given = _given_weights(module)
    new.__dict__.update({name: value for name, value in module.__dict__.items() if name not in _FORGOTTEN})
    for name in _OWN:
        new.__dict__[name] = module.__dict__[name].copy()
    if parametrize.is_parametrized(module):
        _carry_parametrizations(module, new)
    if isinstance(new, torch.nn.RNNBase):
        new._init_flat_weights()
        if given is not None:
            new._flat_weights = given
    hooks: dict[int, Any] = new._load_state_dict_pre_hooks
    for hook in hooks.values():
        if hook.with_module:
            hook.module = weakref.ref(new)
    return new


def _given_weights(module: torch.nn.Module) -> list[Any] | None:
    """The tensors that the next call of a layer of torch.nn would use, where some of them are not its parameters."""
    if not isinstance(module, torch.nn.RNNBase) or parametrize.is_parametrized(module):
        return None
    if isinstance(module, RecurrentLayer) and module._flat is None:
        return None  # nobody has asked for the list, which to ask for would make it
    module._update_flat_weights()
    held = [getattr(module, name, None) for name in module._flat_weights_names]
    flat = module._flat_weights
    return None if len(flat) == len(held) and all(map(operator.is_, flat, held)) else list(flat)


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
