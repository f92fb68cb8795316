"""The cells that files of streams have numbers for, in the order of csrc/stream/cells.h."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fused_rnn._keras import KerasGRUCell, KerasLSTMCell
from fused_rnn._published_cells import CoupledLSTMCell, IndRNNCell, MinGRUCell, MinLSTMCell, SLSTMCell
from fused_rnn.cells import Cell, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping

BUILT_IN = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_peephole")
"""Those that every version of the file knows, by the names of the operators."""

# Those of version 2, whose C++ is written from them into csrc/stream/cells (tools/stream_cells.py).
WRITTEN: Mapping[str, Cell] = {
    "coupled_lstm": CoupledLSTMCell(),
    "slstm": SLSTMCell(),
    "ind_rnn": IndRNNCell(),
    "min_gru": MinGRUCell(),
    "min_lstm": MinLSTMCell(),
    "hard_sigmoid_lstm": KerasLSTMCell("tanh", "hard_sigmoid"),
    "hard_sigmoid_gru": KerasGRUCell("tanh", "hard_sigmoid"),
    "keras2_lstm": KerasLSTMCell("tanh", "hard_sigmoid of Keras 2"),
    "keras2_gru": KerasGRUCell("tanh", "hard_sigmoid of Keras 2"),
}


@cache
def numbers() -> Mapping[str, int]:
    """By the names of the operators, the numbers in a file, which begin with 1."""
    names = (*BUILT_IN, *(source_of(cell).name for cell in WRITTEN.values()))
    return {name: number for number, name in enumerate(names, 1)}
