"""Turn what runs in plain torch instead of the kernels, which is slow and right, into errors.

Whether it is an error belongs to the thread or task that asks, so a context variable says it. New threads start without
it, and autograd runs the backward pass of a GPU in threads of its own (that of a CPU where it is asked for). So a node
of the graph keeps what held where it was made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator  # noqa: TC003 - typing.get_type_hints looks the name up
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

from fused_rnn._modes import constant_for_compilers

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_strict: ContextVar[bool] = ContextVar("fused_rnn_strict", default=False)
# The blocks that are open anywhere. Dynamo reads no context variable, but recompiles when a global changes.
_open_blocks = 0
_open_blocks_lock = threading.Lock()


class ReferencePathError(RuntimeError):
    """Inside of `fused_rnn.strict()`, something would have run in plain torch instead of the kernels."""


@contextmanager
def strict() -> Iterator[None]:
    """Make it an error when a call, or a derivative of it, would run in plain torch instead of the kernels.

    Such are second derivatives, forward-mode derivatives, and cells of one's own without a compiler; all else runs in
    the kernels or raises by itself. The block holds for the thread or asyncio task that it is in, and for the
    derivatives of calls made in it, wherever and whenever they are taken. It may be nested, and is a decorator too.
    Around a compiled function it counts when the function is compiled, which happens again inside of a block; in one,
    torch.compile does not take it.

    Raises:
        ReferencePathError: a RuntimeError that says what would have run in plain torch, and why.

    Example::

        with fused_rnn.strict():
            loss = layer(x)[0].sum()
            loss.backward()  # fine; torch.autograd.grad(..., create_graph=True) and a gradient of that is an error
    """
    before = _strict.set(True)
    _count_blocks(1)
    try:
        yield
    finally:
        _count_blocks(-1)
        _strict.reset(before)


def resumed(held: bool) -> AbstractContextManager[None]:
    """What held where a node was made holds in the thread that runs it, too."""
    return strict() if held else nullcontext()


@constant_for_compilers
def active() -> bool:
    """Whether this thread or task is inside of a block: for the compiler a constant, see `strict`."""
    return _strict.get()


active_in_eager = _strict.get
"""The same, for calls that no compiler sees: short ones feel every call of Python."""


def reference_path(reason: str, *, held: bool = False) -> None:
    """To be called where something is about to run in plain torch; `held` is what a node of the graph kept."""
    if held or (_open_blocks > 0 and active()):
        raise ReferencePathError(f"fused_rnn.strict: {reason}")


def _count_blocks(change: int) -> None:
    global _open_blocks  # noqa: PLW0603 - see there
    with _open_blocks_lock:
        _open_blocks += change
