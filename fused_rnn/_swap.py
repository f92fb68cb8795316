"""Put other modules in the place of modules in a model, with everything that hangs on the old ones."""

from __future__ import annotations

import operator
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch.nn.utils import parametrize

from fused_rnn._recurrent_layer import RecurrentLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# Containers that the replacement owns; the hook dictionaries stay shared, because the handles of hooks point to them.
_OWN = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
# What is bound to the old module: what torch.nn's layers remember about their parameters, and what its compile() made.
_FORGOTTEN = ("_flat_weights", "_flat_weight_refs", "_flat", "_compiled_call_impl")
# What a class may have of its own while its instances behave as those of its base: how they are made, and what Python
# writes into every class, or into those of abc.ABC.
_NO_BEHAVIOUR = frozenset(
    {"__init__", "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__",
     "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__slots__",
     "__abstractmethods__", "_abc_impl"}
)  # fmt: skip


class Swap(NamedTuple):
    """What is put in the place of what."""

    action: str
    """The public function that swaps, for messages."""
    bases: Sequence[type[torch.nn.Module]]
    """Classes whose instances are swapped; of several, the first that fits counts."""
    why_left: Callable[[torch.nn.Module, type[torch.nn.Module]], list[str]]
    """Why an instance of a base stays, as phrases that follow the name of its class; empty: it does not."""
    replacement: Callable[[torch.nn.Module, type[torch.nn.Module]], torch.nn.Module]
    """The module that takes the place of an instance of a base."""
    objections: Callable[[torch.nn.Module, Mapping[str, torch.nn.Module]], list[str]] = lambda model, swapped: []  # noqa: ARG005
    """What else the caller should know, of the model and of what is swapped in it by name; it may raise."""
    advice: str = ""
    """What the caller may do about instances that stay: a sentence."""
    strict: bool = False
    """Whether an error takes the place of warnings, before anything is changed."""


class Swapped(NamedTuple):
    """What came of it."""

    model: torch.nn.Module
    """The model, or the replacement where the model itself was swapped."""
    found: int
    """The instances of the bases, swapped or left."""


def swap(model: torch.nn.Module, rule: Swap) -> Swapped:
    """Put replacements in the place of modules, in place, and name in a warning those that stay; for public functions.

    A module that occurs twice has one replacement.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}{_modules_hint(model)}")
    chosen: dict[torch.nn.Module, type[torch.nn.Module]] = {}
    names: dict[str, torch.nn.Module] = {}
    left = []
    for path, module in model.named_modules():
        base = next((each for each in rule.bases if isinstance(module, each)), None)
        if base is None:
            continue
        name, reasons = path or "the model itself", rule.why_left(module, base)
        if reasons:
            left.append(f"{name} ({_class_name(module, base)} {' and '.join(reasons)})")
        else:
            chosen[module], names[name] = base, module
    found = [f"left {len(left)} recurrent layer(s) as they are: {'; '.join(left)}{rule.advice}"] if left else []
    _tell(rule, found + rule.objections(model, names))
    replaced = {module: rule.replacement(module, base) for module, base in chosen.items()}
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in replaced:
                module._modules[name] = replaced[child]
    return Swapped(replaced.get(model, model), len(replaced) + len(left))


def _tell(rule: Swap, objections: list[str]) -> None:
    """Raise or warn, in the name of the caller of the public function."""
    for each in objections:
        text = f"fused_rnn.{rule.action} {each}"
        if rule.strict:
            raise ValueError(text)
        warnings.warn(text, stacklevel=5)  # those of _tell, swap, convert and what it is decorated with


def _class_name(module: torch.nn.Module, base: type[torch.nn.Module]) -> str:
    """The name of a class; its module, too, where a library has given it the name of the base."""
    kind = parametrize.type_before_parametrizations(module)
    same_name = kind is not base and kind.__name__ == base.__name__
    return f"{kind.__module__}.{kind.__name__}" if same_name else kind.__name__


def _modules_hint(given: object) -> str:
    """For an object that holds models, such as an agent or a trainer."""
    kinds = (torch.nn.RNNBase, torch.nn.RNNCellBase)
    held = [
        name
        for name, value in getattr(given, "__dict__", {}).items()
        if isinstance(value, torch.nn.Module) and any(isinstance(each, kinds) for each in value.modules())
    ]
    return f": did you mean its {' or '.join(held)}?" if held else ""


def described(model: torch.nn.Module) -> str:
    """The class of a model without a layer to swap, and where its layers are if torch has made a graph of them."""
    makers = {torch.jit.ScriptModule: "torch.jit", torch.fx.GraphModule: "torch.fx or torch.export"}
    made_by = [
        f", which {maker} made of a model: give that one" for kind, maker in makers.items() if isinstance(model, kind)
    ]
    return "".join((type(model).__name__, *made_by))


def own_behaviour(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """Names that the module's class or the module itself has, and that another class would lose."""
    classes = [each for each in parametrize.type_before_parametrizations(module).__mro__ if each not in base.__mro__]
    of_class = {name for each in classes for name in vars(each)} - _NO_BEHAVIOUR
    of_itself = {name for name in vars(module) if callable(getattr(base, name, None))}  # a method set on the instance
    return sorted(of_class | of_itself)


def _makes_weights(hook: object) -> bool:
    """Whether a hook before a call is one of torch.nn.utils: weight_norm, spectral_norm, prune."""
    return type(hook).__module__.startswith("torch.nn.utils.")


def make_weights(module: torch.nn.Module) -> None:
    """What the hooks of torch.nn.utils do before a call, for those who read the weights without one."""
    for hook in module._forward_pre_hooks.values():
        if _makes_weights(hook):
            hook(module, ())


def warn_of_own_code(action: str, modules: Iterable[torch.nn.Module], stacklevel: int) -> None:
    """Name in a warning what calls of modules run and steps do not: a forward of their own, and hooks."""
    told = []
    for module in modules:
        kind = parametrize.type_before_parametrizations(module)
        base = next(each for each in kind.__mro__ if each.__module__.partition(".")[0] in {"fused_rnn", "torch"})
        found = ["its own forward"] if "forward" in own_behaviour(module, base) else []
        before = [hook for hook in module._forward_pre_hooks.values() if not _makes_weights(hook)]
        found += ["forward hooks"] if module._forward_hooks or before else []
        told += [f"{kind.__name__} has {' and '.join(found)}"] if found else []
    if told:
        warnings.warn(f"fused_rnn.{action} leaves out what is called: {'; '.join(told)}", stacklevel=stacklevel + 1)


def carry_attributes(module: torch.nn.Module, new: torch.nn.Module) -> None:
    """Give `new` the attributes, containers and hooks of `module`."""
    new.__dict__.update({name: value for name, value in module.__dict__.items() if name not in _FORGOTTEN})
    for name in _OWN:
        new.__dict__[name] = module.__dict__[name].copy()
    hooks: dict[int, Any] = new._load_state_dict_pre_hooks
    for hook in hooks.values():
        if hook.with_module:
            hook.module = weakref.ref(new)


def given_weights(module: torch.nn.Module) -> list[Any] | None:
    """The tensors that the next call of a layer of torch.nn would use, where some of them are not its parameters."""
    if not isinstance(module, torch.nn.RNNBase) or parametrize.is_parametrized(module):
        return None
    if isinstance(module, RecurrentLayer) and module._flat is None:
        return None  # nobody has asked for the list, which to ask for would make it
    module._update_flat_weights()
    held = [getattr(module, name, None) for name in module._flat_weights_names]
    flat = cast("list[Any]", module._flat_weights)
    return None if len(flat) == len(held) and all(map(operator.is_, flat, held)) else list(flat)
