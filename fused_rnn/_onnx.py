"""One recurrent layer as ONNX's own LSTM, GRU or RNN, which is what `torch.onnx.export(..., dynamo=True)` is to find.

The node stands for the input projection and the recurrence of all directions. The operators of this package, which it
takes the place of, would be unknown to whoever runs the model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_rnn import _autocast, _modes
from fused_rnn._autograd import RecurrenceResult


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


def exporting() -> bool:
    """Whether this call becomes part of an ONNX graph."""
    if torch.compiler.is_compiling():
        return _modes.is_compiled_for_onnx()
    if _modes.is_traced() and torch.onnx.is_in_onnx_export():
        raise NotImplementedError("fused_rnn has no export to ONNX by tracing: call torch.onnx.export with dynamo=True")
    return False


def run_layer(
    cell: str,
    x: Tensor,
    weights: tuple[Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None],
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    **homeless: Any,
) -> RecurrenceResult:
    """One layer on x [T, B, I] from h_0 and c_0 [D, B, H].

    The weights are w_ih [D*G*H, I] and w_hh [D, G*H, H], the biases b_ih [D*G*H] and b_hh [D, G*H]. `homeless` are
    those arguments of a layer that have no place in ONNX, by the names that users know; None and False do without.
    """
    for name, value in homeless.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"ONNX has no operator for a recurrent layer with {name}")
    operator = OPERATORS[cell]
    time_steps, batch = x.shape[:2]
    directions, _, hidden_size = weights[1].shape
    w_ih, w_hh = (_reordered(w.reshape(directions, -1, w.shape[-1]), operator.gates) for w in weights)
    bias = [_reordered(b.reshape(directions, -1), operator.gates) for b in biases if b is not None]
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
