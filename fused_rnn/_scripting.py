"""Refuses torch.jit.script, which would fail at whatever piece of Python it cannot read first."""

from __future__ import annotations

from collections import UserDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import KeysView


class _NoOverloads(UserDict[str, Any]):
    """Overloads of a class that has none and cannot be compiled.

    torch.jit.script and the class torch.jit.ScriptModule copy a module's `__overloads__` when they collect the methods
    to compile, which asks for the keys. torch.jit.trace only looks at the items.
    """

    def __init__(self, owner: str) -> None:
        super().__init__()
        self._owner = owner

    def keys(self) -> KeysView[str]:
        raise NotImplementedError(
            f"{self._owner}: torch.jit.script cannot read this module; "
            "torch.jit.trace, torch.export and torch.compile take it"
        )


class _Refusal:
    def __get__(self, instance: object, owner: type) -> _NoOverloads:
        return _NoOverloads(owner.__name__)


class Unscriptable:
    """A module that torch.jit.script refuses in words, by itself and inside of other modules."""

    __overloads__ = _Refusal()

    def __prepare_scriptable__(self) -> None:
        """torch.jit.script asks what to compile in place of the module, before it reads annotations."""
        _NoOverloads(type(self).__name__).keys()
