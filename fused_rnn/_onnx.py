"""One recurrent layer as ONNX's own LSTM, GRU or RNN, which is what `torch.onnx.export(..., dynamo=True)` is to find.

The node stands for the input projection and the recurrence of all directions. The operators of this package, which it
takes the place of, would be unknown to whoever runs the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fused_rnn import _autocast
from fused_rnn._autograd import RecurrenceResult

if TYPE_CHECKING:
    from fused_rnn._tensors import LayerArguments


class Operator(NamedTuple):
    """ONNX's operator for a cell."""

    name: str
    gates: tuple[int, ...]
    """Its gates, in its order, by their places in torch.nn's order."""
    states: int = 1
    linear_before_reset: bool = False
    activation: str | None = None
    """None: that of its definition."""

    def attributes(self, directions: int, hidden_size: int) -> dict[str, Any]:
        """The attributes of a node."""
        found: dict[str, Any] = {
            "hidden_size": hidden_size,
            "direction": "forward" if directions == 1 else "bidirectional",
        }
        if self.linear_before_reset:
            found["linear_before_reset"] = 1
        if self.activation is not None:
            found["activations"] = [self.activation] * directions
        return found


OPERATORS = {
    "lstm": Operator("LSTM", (0, 3, 1, 2), states=2),  # i o f g, from i f g o
    "gru": Operator("GRU", (1, 0, 2), linear_before_reset=True),  # z r n, from r z n
    "rnn_tanh": Operator("RNN", (0,)),
    "rnn_relu": Operator("RNN", (0,), activation="Relu"),
}


def run_layer(cell: str, given: LayerArguments, directions: int, **unsupported: Any) -> RecurrenceResult:
    """One layer; `unsupported` are options that ONNX lacks, by the names that users know, unless None or False."""
    x, w_ih, b_ih, w_hh, b_hh, w_hr, h_0, c_0, lengths, resets, *_ = given
    unsupported = {"proj_size": w_hr, "resets": resets, **unsupported}
    for name, value in unsupported.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"ONNX has no operator for a recurrent layer with {name}")
    operator = OPERATORS[cell]
    time_steps, batch = x.shape[:2]
    hidden_size = w_hh.shape[1]
    w_ih, w_hh = (_reordered(w.reshape(directions, -1, w.shape[-1]), operator.gates) for w in (w_ih, w_hh))
    bias = [_reordered(b.reshape(directions, -1), operator.gates) for b in (b_ih, b_hh) if b is not None]
    operands = [x, w_ih, w_hh, torch.cat(bias, 1) if bias else None, lengths, h_0, c_0][: 5 + operator.states]
    dtype = _autocast.recurrence_type(cell, x, h_0, c_0) or x.dtype
    sequence, state = (time_steps, directions, batch, hidden_size), (directions, batch, hidden_size)
    output, *states = torch.onnx.ops.symbolic_multi_out(
        operator.name,
        [None if t is None else t.to(torch.int32 if t is lengths else dtype) for t in operands],
        operator.attributes(directions, hidden_size),
        dtypes=(dtype,) * (1 + operator.states),
        shapes=(sequence, *(state,) * operator.states),
    )
    none = output.new_empty(0)
    h_n, c_n = [*states, none][:2]
    return RecurrenceResult(output.transpose(1, 2), h_n, c_n, none)


def _reordered(parameter: Tensor, gates: tuple[int, ...]) -> Tensor:
    """A parameter [D, G*H, ...] with its gates in another order."""
    if len(gates) == 1:
        return parameter
    order = torch.tensor(gates, device=parameter.device)  # one Gather, which the exporter folds into small constants
    parted = parameter.reshape(parameter.shape[0], len(gates), -1, *parameter.shape[2:])
    return parted.index_select(1, order).flatten(1, 2)
