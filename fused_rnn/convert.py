"""Swap the recurrent layers and cells in a model, torch.nn's for this package's or back, keeping their parameters."""

from __future__ import annotations

import operator
import warnings
import weakref
from collections.abc import Callable  # noqa: TC003 - typing.get_type_hints looks the name up
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch.nn.utils import parametrize

from fused_rnn import modules
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._variants import NAMES, PLAIN, Variants, checked_variants

_Model = TypeVar("_Model", bound=torch.nn.Module)

_REPLACEMENTS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.LSTM: modules.LSTM,
    torch.nn.GRU: modules.GRU,
    torch.nn.RNN: modules.RNN,
    torch.nn.LSTMCell: modules.LSTMCell,
    torch.nn.GRUCell: modules.GRUCell,
    torch.nn.RNNCell: modules.RNNCell,
}
_RECURRENT = (torch.nn.RNNBase, torch.nn.RNNCellBase)  # torch.nn's and this package's
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


def convert(  # noqa: PLR0913 - the options of the layers
    model: _Model, *, strict: bool = False, layer_norm: bool = False, zoneout: float | tuple[float, float] = 0.0,
    recurrent_dropout: float = 0.0, weight_dropout: float = 0.0, peephole: bool = False, cell_clip: float | None = None,
    recompute: bool = False,
) -> _Model:  # fmt: skip
    """Swap every torch.nn LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell in `model` for the fused one, in place.

    The new layers hold the very same Parameter objects, so optimizers, tied weights and state dicts go on unchanged.
    The training flag, other attributes, hooks (with their handles) and parametrizations move along, and a layer that
    occurs twice in the model stays one layer.

    A subclass of torch.nn's layers that adds nothing but a constructor is swapped, too. One that adds more, such as a
    forward, would lose it: it is left as it is, with a warning; let its class derive from the fused one instead. Also
    left is a reference that a model keeps outside of its submodules, for example in a list.

    Args:
        model: any module; a torch.nn recurrent layer itself, too.
        strict: raise an error, and change nothing, where there would be a warning.
        layer_norm, zoneout, recurrent_dropout, weight_dropout, peephole, cell_clip, recompute: of the new layers, as of
            `fused_rnn.LSTM`. Norms and peepholes have new parameters, which no optimizer and no checkpoint has yet:
            gains of 1, the others 0. Cells have no options.

    Returns:
        `model`, or the replacement where `model` itself is a layer to swap.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
        ValueError: an option that one of the layers cannot have; with `strict`, what is a warning otherwise.

    Warns:
        UserWarning: layers with a behaviour of their own were left; it names them and what they have. Or there is no
            recurrent layer or cell in `model`. Or cells were swapped, which do not have the options.

    Example::

        model = torch.nn.ModuleDict({"encoder": torch.nn.LSTM(16, 32)})
        fused_rnn.convert(model)
        assert isinstance(model["encoder"], fused_rnn.LSTM)
    """
    options = Variants(layer_norm, zoneout, recurrent_dropout, weight_dropout, peephole, cell_clip, recompute=recompute)
    return _swap(model, _Action("convert", _REPLACEMENTS, _own_behaviour, options, strict))


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
    return _swap(model, _Action("restore", {ours: theirs for theirs, ours in _REPLACEMENTS.items()}, _own_options))


class _Action(NamedTuple):
    """What `convert` or `restore` is asked to do."""

    name: str
    replacements: dict[type[torch.nn.Module], type[torch.nn.Module]]
    lost: Callable[[torch.nn.Module, type[torch.nn.Module]], list[str]]  # what a module would lose by it
    options: Variants = PLAIN  # of new layers
    strict: bool = False


def _swap(model: _Model, action: _Action) -> _Model:
    """Put replacements in place of modules, but of those that would lose something by it."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    kinds: dict[torch.nn.Module, type[torch.nn.Module]] = {}
    left, plain = [], []
    for path, module in model.named_modules():
        base = next((each for each in action.replacements if isinstance(module, each)), None)
        if base is None:
            continue
        own = action.lost(module, base)
        name = path or "the model itself"
        if own:
            kind = parametrize.type_before_parametrizations(module)
            left.append(f"{name} ({kind.__name__} has its own {', '.join(own)})")
            continue
        kinds[module] = action.replacements[base]
        if action.options != PLAIN and not _check_options(action.options, module, name):
            plain.append(name)
    _tell(action, _complaints(model, action, left, plain))
    replaced = {module: _replacement(module, kind) for module, kind in kinds.items()}
    for new in replaced.values():
        if action.options != PLAIN and isinstance(new, RecurrentLayer):
            options = action.options._replace(recompute=action.options.recompute or new.recompute)
            new._take_options(checked_variants(type(new).__name__, options, lstm=new.mode == "LSTM"))
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in replaced:
                module._modules[name] = replaced[child]
    return cast("_Model", replaced.get(model, model))


def _check_options(options: Variants, module: torch.nn.Module, name: str) -> bool:
    """Whether a module of torch.nn is of a kind that has options; an error where it cannot have these."""
    if not isinstance(module, torch.nn.RNNBase):
        return False
    variants = checked_variants(f"{name} ({module.mode})", options, lstm=module.mode == "LSTM")
    if any(variants.zoneouts) and module.proj_size:
        raise ValueError(f"{name} ({module.mode}): zoneout and proj_size together are not supported")
    return True


def _complaints(model: torch.nn.Module, action: _Action, left: list[str], plain: list[str]) -> list[str]:
    """What the caller should know."""
    found = [f"left {len(left)} recurrent layer(s) as they are: {'; '.join(left)}"] if left else []
    if plain:
        names = [name for name, value, usual in zip(NAMES, action.options, PLAIN, strict=False) if value != usual]
        found.append(f"found cells, which have no {', '.join(names)}: {', '.join(plain)}")
    if action.name == "convert" and not any(isinstance(each, _RECURRENT) for each in model.modules()):
        found.append(f"found no recurrent layer or cell of torch.nn in {type(model).__name__}")
    return found


def _tell(action: _Action, complaints: list[str]) -> None:
    """Raise or warn, in the name of the caller of `convert` or `restore`."""
    for each in complaints:
        text = f"fused_rnn.{action.name} {each}"
        if action.strict:
            raise ValueError(text)
        warnings.warn(text, stacklevel=4)


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
