"""What a constructor says to an argument that it does not know: the name that was meant, or the class that has it."""

from __future__ import annotations

import difflib
import functools
import inspect
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Constructor = TypeVar("_Constructor", bound="Callable[..., None]")

_NAMES: dict[str, tuple[str, ...]] = {}  # of each class's arguments, in the order of the classes
_OF_CELL_STATE = ("peephole", "cell_clip")


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
    """The name that is most like the keyword, whatever its case and underscores; None: none is."""
    plain = {name.replace("_", ""): name for name in names}
    asked = keyword.replace("_", "").lower()
    found = difflib.get_close_matches(asked, plain, n=1, cutoff=0.75)
    return plain[found[0]] if found else None
