"""Swap the recurrent layers and cells in a model, torch.nn's for this package's or back, keeping their parameters."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - typing.get_type_hints looks the name up
from functools import partial
from typing import TypeVar, cast

import torch
from torch.nn.utils import parametrize

from fused_rnn import modules
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._signatures import advised
from fused_rnn._swap import Swap, carry_attributes, described, given_weights, own_behaviour, swap
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
_ADVICE = (
    ". They run on torch.nn: derive their classes from fused_rnn's, or import the library that has them inside of "
    "`with fused_rnn.patch():`"
)
_RECURRENT = (torch.nn.RNNBase, torch.nn.RNNCellBase)  # torch.nn's and this package's


@advised
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

    `isinstance(layer, torch.nn.LSTM)` is false of the new layers. Initialisers, converters and quantizers that ask for
    torch.nn's classes skip them, most without a word: call `restore` before such a tool.

    Norms and peepholes have new parameters, which no optimizer and no checkpoint has yet: gains of 1, the others 0.
    Cells have none of the options.

    Args:
        model: any module; a torch.nn recurrent layer itself, too.
        strict: raise an error, and change nothing, where there would be a warning.
        layer_norm, zoneout, recurrent_dropout, weight_dropout, peephole, cell_clip, recompute: of the new layers, as of
            `fused_rnn.LSTM`.

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
        assert not isinstance(model["encoder"], torch.nn.LSTM)
    """
    options = Variants(layer_norm, zoneout, recurrent_dropout, weight_dropout, peephole, cell_clip, recompute=recompute)
    rule = Swap(
        "convert",
        list(_REPLACEMENTS),
        _why_not_fused,
        partial(_fused, options),
        partial(_objections, options),
        _ADVICE,
        strict,
    )
    return cast("_Model", swap(model, rule).model)


@advised
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
            Or there is no recurrent layer or cell of this package in `model`, or there are int8 layers, which stay.

    Example::

        model = torch.nn.ModuleDict({"encoder": fused_rnn.LSTM(16, 32)})
        plain = fused_rnn.restore(copy.deepcopy(model))
        quantized = torch.ao.quantization.quantize_dynamic(plain, {torch.nn.LSTM})
    """
    theirs = {ours: theirs for theirs, ours in _REPLACEMENTS.items()}
    rule = Swap(
        "restore",
        list(theirs),
        _why_not_plain,
        lambda module, base: _replacement(module, theirs[base]),
        _nothing_of_ours,
    )
    return cast("_Model", swap(model, rule).model)


def _fused(options: Variants, module: torch.nn.Module, base: type[torch.nn.Module]) -> torch.nn.Module:
    """A layer or cell of this package in the place of one of torch.nn, with options where it is a layer."""
    new = _replacement(module, _REPLACEMENTS[base])
    if options != PLAIN and isinstance(new, RecurrentLayer):
        options = options._replace(recompute=options.recompute or new.recompute)
        new._take_options(checked_variants(type(new).__name__, options, lstm=new.mode == "LSTM"))
    return new


def _objections(options: Variants, model: torch.nn.Module, swapped: Mapping[str, torch.nn.Module]) -> list[str]:
    """What the caller of `convert` should know; an error where a layer cannot have the options."""
    found = []
    if options != PLAIN:
        cells = [name for name, module in swapped.items() if not _check_options(options, module, name)]
        asked = [name for name, value, usual in zip(NAMES, options, PLAIN, strict=False) if value != usual]
        found = [f"found cells, which have no {', '.join(asked)}: {', '.join(cells)}"] if cells else []
    if not any(isinstance(each, _RECURRENT) for each in model.modules()):
        found.append(f"found no recurrent layer or cell of torch.nn in {described(model)}")
    return found


def _nothing_of_ours(model: torch.nn.Module, _swapped: Mapping[str, torch.nn.Module]) -> list[str]:
    """What the caller of `restore` should know."""
    if int8 := [name or "the model itself" for name, each in model.named_modules() if hasattr(each, "dequantized")]:
        return [f"left int8 layers, which have dequantized() for a float one: {', '.join(int8)}"]
    if any(isinstance(each, tuple(_REPLACEMENTS.values())) for each in model.modules()):
        return []
    if own := [
        f"{name or 'the model itself'} ({type(each).__name__})"
        for name, each in model.named_modules()
        if isinstance(each, RecurrentLayer)
    ]:
        return [f"left layers of cells that torch.nn does not have: {', '.join(own)}"]
    return [f"found no recurrent layer or cell of fused_rnn in {described(model)}"]


def _check_options(options: Variants, module: torch.nn.Module, name: str) -> bool:
    """Whether a module of torch.nn is of a kind that has options; an error where it cannot have these."""
    if not isinstance(module, torch.nn.RNNBase):
        return False
    variants = checked_variants(f"{name} ({module.mode})", options, lstm=module.mode == "LSTM")
    if any(variants.zoneouts) and module.proj_size:
        raise ValueError(f"{name} ({module.mode}): zoneout and proj_size together are not supported")
    return True


def _why_not_fused(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """What a layer would lose as one of ours."""
    return _has_its_own(own_behaviour(module, base))


def _why_not_plain(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """What a layer would lose as one of torch.nn, which has no variants."""
    options = []
    if isinstance(module, RecurrentLayer):
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
