"""torch.nn's recurrent layers and cells on hand-written fused kernels."""

from fused_rnn import (
    _flops,  # noqa: F401 - for flop counters
    _fork,  # noqa: F401 - for forked children
    _shapes,  # noqa: F401 - for compilers
    cells,
    quantized,
)
from fused_rnn._check_cell import CellReport, check_cell
from fused_rnn._checks import ArgumentTypeError
from fused_rnn._explain import CudaDevice, Explanation, build_info, explain
from fused_rnn._keras import from_keras
from fused_rnn._patch import patch
from fused_rnn._published_layers import SLSTM, CoupledLSTM, IndRNN, MinGRU, MinLSTM
from fused_rnn._recurrent import Recurrent
from fused_rnn._stream_json import read_json_model
from fused_rnn._strict import ReferencePathError, strict
from fused_rnn.cells import Cell, CellError
from fused_rnn.convert import convert, restore
from fused_rnn.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from fused_rnn.quantized import quantize
from fused_rnn.stepper import Stepper
from fused_rnn.stream import Chain, save_stream

__version__ = "0.2.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "ArgumentTypeError",
    "Cell",
    "CellError",
    "CellReport",
    "Chain",
    "CoupledLSTM",
    "CudaDevice",
    "Explanation",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "RNNCell",
    "Recurrent",
    "ReferencePathError",
    "Stepper",
    "__version__",
    "build_info",
    "cells",
    "check_cell",
    "convert",
    "explain",
    "from_keras",
    "patch",
    "quantize",
    "quantized",
    "read_json_model",
    "restore",
    "save_stream",
    "strict",
]
