"""Layers of the cells in _published_cells.py, with the arguments of `Recurrent`."""

from __future__ import annotations

from types import FunctionType
from typing import Any, ClassVar

import torch  # noqa: TC002 - typing.get_type_hints looks the name up

from fused_rnn._published_cells import CoupledLSTMCell, IndRNNCell, MinGRUCell, MinLSTMCell, SLSTMCell
from fused_rnn._recurrent import Recurrent
from fused_rnn._signatures import named_arguments
from fused_rnn.cells import Cell  # noqa: TC001 - the same


class _Published(Recurrent):
    _published: ClassVar[type[Cell]]

    def __init__(  # noqa: PLR0913 - those of Recurrent
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, num_heads: int = 1,
        device: torch.device | str | int | None = None, dtype: torch.dtype | None = None, *, zoneout: float = 0.0,
        recurrent_dropout: float = 0.0, weight_dropout: float = 0.0, recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            self._published, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, num_heads,
            device, dtype, zoneout=zoneout, recurrent_dropout=recurrent_dropout, weight_dropout=weight_dropout,
            recompute=recompute,
        )  # fmt: skip

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Give each layer here the constructor under its own name, which errors say."""
        super().__init_subclass__(**keywords)
        if "_published" not in vars(cls):  # a class of somebody else
            return
        shared: Any = _Published.__init__
        own = FunctionType(shared.__code__, shared.__globals__, closure=shared.__closure__)
        for name in ("__defaults__", "__kwdefaults__", "__annotations__", "__doc__", "__module__"):
            setattr(own, name, getattr(shared, name))
        own.__qualname__ = f"{cls.__qualname__}.__init__"
        cls.__init__ = named_arguments(own)  # type: ignore[method-assign]


class CoupledLSTM(_Published):
    """Layers of the LSTM with coupled gates, a `Recurrent`; its arguments are those of `Recurrent` without the cell.

    Gates f, g, o, states h, c::

        f, o = sigmoid(...), g = tanh(...)
        c' = f * c + (1 - f) * g
        h' = o * tanh(c')

    Source: Greff et al., "LSTM: a search space odyssey", 2017 (CIFG).

    Example::

        output, (h_n, c_n) = fused_rnn.CoupledLSTM(16, 32)(torch.randn(5, 3, 16))
    """

    _published = CoupledLSTMCell


class SLSTM(_Published):
    """Layers of the sLSTM of xLSTM, a `Recurrent`; its arguments are those of `Recurrent` without the cell.

    Gates i, f, z, o, states h, c, n, m. With `num_heads` no unit sees h of another head::

        m' = max(i, log sigmoid(f) + m), or i at the first step
        i', f' = exp(i - m'), exp(log sigmoid(f) + m - m')
        c' = f' * c + i' * tanh(z)
        n' = f' * n + i'
        h' = sigmoid(o) * c' / n'

    Source: Beck et al., "xLSTM: extended long short-term memory", 2024, equations 8 to 17. The causal convolution and
    the group norm of its block are not part of the layer.

    Example::

        output, (h_n, c_n, n_n, m_n) = fused_rnn.SLSTM(16, 32, num_heads=4)(torch.randn(5, 3, 16))
    """

    _published = SLSTMCell


class IndRNN(_Published):
    """Layers of independently recurrent units, a `Recurrent`; its arguments are those of `Recurrent` without the cell.

    `h' = relu(W x + b + u * h)` with `weight_u_lk` [H], drawn between 0 and 1. There is no W_hh.

    Source: Li et al., "Independently recurrent neural network (IndRNN)", 2018.

    Example::

        output, h_n = fused_rnn.IndRNN(16, 32)(torch.randn(5, 3, 16))
    """

    _published = IndRNNCell


class MinGRU(_Published):
    """Layers of the minimal GRU, a `Recurrent`; its arguments are those of `Recurrent` without the cell.

    `z = sigmoid(W_z x + b_z)`, `h' = (1 - z) * h + z * (W_n x + b_n)`. There is no W_hh.

    Source: Feng et al., "Were RNNs all we needed?", 2024, section 3.1.

    Example::

        output, h_n = fused_rnn.MinGRU(16, 32)(torch.randn(5, 3, 16))
    """

    _published = MinGRUCell


class MinLSTM(_Published):
    """Layers of the minimal LSTM, a `Recurrent`; its arguments are those of `Recurrent` without the cell.

    `f, i = sigmoid(...)` of x alone, `h' = (f * h + i * (W_n x + b_n)) / (f + i)`. There is no W_hh.

    Source: Feng et al., "Were RNNs all we needed?", 2024, section 3.2.

    Example::

        output, h_n = fused_rnn.MinLSTM(16, 32)(torch.randn(5, 3, 16))
    """

    _published = MinLSTMCell
