"""torch.nn's recurrent layers and cells on hand-written fused kernels."""

from fused_rnn import _flops, _fork, _shapes, quantized  # noqa: F401 - for flop counters, forked children and compilers
from fused_rnn._explain import CudaDevice, Explanation, build_info, explain
from fused_rnn._patch import patch
from fused_rnn._strict import ReferencePathError, strict
from fused_rnn.convert import convert, restore
from fused_rnn.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from fused_rnn.quantized import quantize
from fused_rnn.stepper import Stepper

__version__ = "0.2.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CudaDevice",
    "Explanation",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "ReferencePathError",
    "Stepper",
    "__version__",
    "build_info",
    "convert",
    "explain",
    "patch",
    "quantize",
    "quantized",
    "restore",
    "strict",
]
