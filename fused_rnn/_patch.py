"""Make torch.nn's names of recurrent layers and cells mean those of this package, for code that cannot be edited."""

from __future__ import annotations

import threading
from collections.abc import Iterator  # noqa: TC003 - typing.get_type_hints looks the name up
from contextlib import contextmanager
from typing import Any

import torch

from fused_rnn import modules

_NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
_PLACES = (torch.nn, torch.nn.modules, torch.nn.modules.rnn)
_lock = threading.Lock()  # of the two below
_open_blocks = 0
_before: list[tuple[Any, str, Any]] = []  # place, name and class that the first block found


@contextmanager
def patch() -> Iterator[None]:
    """Let torch.nn.LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell mean this package's, while a model is built.

    The names change in torch.nn, torch.nn.modules and torch.nn.modules.rnn, for all threads, until the last open block
    ends, also by an error. It may be nested, and is a decorator too. Build inside of the block, run and compile
    outside: what is made stays what it is.

    Out of reach, as with any name that is bound again, is what holds torch.nn's class already: a `from torch.nn import
    LSTM` made before, a class derived from it before, a default argument. `fused_rnn.convert` reaches layers of the
    first kind in a finished model. Inside of the block a new class that derives from torch.nn.LSTM derives from ours;
    isinstance(x, torch.nn.LSTM) asks for ours and is false for torch.nn's; a pickled torch.nn.LSTM loads as ours, and
    torch.nn's own cannot be pickled.

    Example::

        with fused_rnn.patch():
            model = torch.nn.Sequential(torch.nn.LSTM(16, 32))
        assert isinstance(model[0], fused_rnn.LSTM)
    """
    global _open_blocks  # noqa: PLW0603 - the names are global, too
    with _lock:
        if _open_blocks == 0:
            for place in _PLACES:
                for name in _NAMES:
                    _before.append((place, name, getattr(place, name)))
                    setattr(place, name, getattr(modules, name))
        _open_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _open_blocks -= 1
            if _open_blocks == 0:
                while _before:
                    setattr(*_before.pop())
