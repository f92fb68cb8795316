"""What a function says to an argument that it does not know: the name that was meant, or the class that has it."""

from __future__ import annotations

import difflib
import functools
import inspect
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Constructor = TypeVar("_Constructor", bound="Callable[..., None]")
_Function = TypeVar("_Function", bound="Callable[..., Any]")

_NAMES: dict[str, tuple[str, ...]] = {}  # of each class's arguments, in the order of the classes
_OF_CELL_STATE = ("peephole", "cell_clip")
# What torch's tutorials, Keras and libraries of reinforcement learning call our arguments.
_OTHER_WORDS = {
    "mask": "lengths",
    "h0": "hx",
    "h_0": "hx",
    "hidden": "hx",
    "state": "hx",
    "states": "hx",
    "initial_state": "hx",
    "done": "resets",
    "dones": "resets",
    "is_init": "resets",
    "episode_starts": "resets",
    "units": "hidden_size",
    "activation": "nonlinearity",
}


def named_arguments(constructor: _Constructor) -> _Constructor:
    """Let a constructor, whose signature stays, refuse unknown keywords with what was probably meant."""
    owner = constructor.__qualname__.partition(".")[0]
    known = _NAMES[owner] = tuple(inspect.signature(constructor).parameters)[1:]

    @functools.wraps(constructor)
    def checked(self: object, *arguments: Any, **keywords: Any) -> None:
        for keyword in keywords:
            if keyword not in known:
                _refuse(owner, keyword)
        constructor(self, *arguments, **keywords)

    return cast("_Constructor", checked)


def advised(function: _Function) -> _Function:
    """Let a function, whose signature stays, refuse unknown keywords with what was probably meant."""
    name, known = function.__qualname__, tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        for keyword in keywords:
            if keyword not in known:
                raise TypeError(_advice(name, keyword, known))
        return function(*arguments, **keywords)

    return cast("_Function", checked)


def without_unknown(forward: _Function) -> _Function:
    """Show a `forward` without its last parameter `unknown`, which collects keywords for `refuse_keywords`.

    A wrapper would be one more call of Python, which short calls feel. To torch.fx, which traces no layer by itself and
    says so later, `unknown` is a Proxy and no dict.
    """
    signature = inspect.signature(forward)
    *shown, unknown = signature.parameters.values()
    assert unknown.kind is unknown.VAR_KEYWORD  # noqa: S101 - a mistake of ours
    del forward.__annotations__[unknown.name]
    cast("Any", forward).__signature__ = signature.replace(parameters=shown)
    return forward


def refuse_keywords(module: object, unknown: Iterable[str]) -> NoReturn:
    """Raise the error of keywords that `forward` of a layer or cell does not have."""
    kind = type(module)
    forward = next(
        vars(each)["forward"] for each in kind.__mro__ if hasattr(vars(each).get("forward"), "__signature__")
    )
    known = [name for name in inspect.signature(forward).parameters if name != "self"]
    raise TypeError(_advice(f"{kind.__name__}.forward", next(iter(unknown)), known))


def _advice(function: str, keyword: str, known: Iterable[str]) -> str:
    """Python's words, and what was meant, or all that there is."""
    meant = _closest(keyword, known)
    hint = f"did you mean {meant}?" if meant else f"the arguments are {', '.join(known)}"
    return f"{function}() got an unexpected keyword argument '{keyword}': {hint}"


def _refuse(owner: str, keyword: str) -> NoReturn:
    """Raise the error of an unknown keyword; torch.nn's type, and Python's words up to the advice."""
    if keyword in _OF_CELL_STATE and owner in {"GRU", "RNN"}:
        raise ValueError(f"{owner}: {keyword} needs a cell state, which only the LSTM has")
    opening = f"{owner}.__init__() got an unexpected keyword argument '{keyword}'"
    meant = _closest(keyword, _NAMES[owner])
    if meant:
        raise TypeError(f"{opening}: did you mean {meant}?")
    for other in sorted(_NAMES, key=lambda name: name != owner.removesuffix("Cell")):  # a cell's own layer first
        meant = _closest(keyword, _NAMES[other])
        if meant:
            raise TypeError(f"{opening}: {owner} has no {meant}, which is an argument of fused_rnn.{other}")
    raise TypeError(f"{opening}: the arguments are {', '.join(_NAMES[owner])}")


def _closest(keyword: str, names: Iterable[str]) -> str | None:
    """The name that means the keyword, or is most like it, whatever its case and underscores; None: none is."""
    names = list(names)
    if _OTHER_WORDS.get(keyword) in names:
        return _OTHER_WORDS[keyword]
    plain = {name.replace("_", ""): name for name in names}
    asked = keyword.replace("_", "").lower()
    found = difflib.get_close_matches(asked, plain, n=1, cutoff=0.75)
    return plain[found[0]] if found else None
