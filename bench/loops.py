"""LSTM, GRU and RNN as a Python loop over the steps, as one writes a recurrent layer by hand in torch.

The input projection of all steps is one GEMM before the loop, and a step has one GEMM, `W_hh h`. `compiled=True`
hands UNROLL steps at a time to `torch.compile` (inductor): a single step is slower than the loop itself, since every
call has its cost, and more steps compile longer. LSTM training, T = 100, B = 4, H = 128, two threads of an EPYC,
2026-11-21: loop 16.6 ms, 1 step at a time 18.4 (compiled in 10 s), 10 steps 10.1 (in 20 s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import hold_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    States = list[Tensor]  # h [B, P] and, of an LSTM, c [B, H]
    Step = Callable[[Tensor, Tensor, States], States]  # from from_x [B, G*H], W_hh h + b_hh, and the states before
    Run = Callable[..., tuple[Tensor, States]]  # as `_run`

UNROLL = 10  # time steps of one compiled call


def _lstm(from_x: Tensor, from_h: Tensor, states: States) -> States:
    i, f, g, o = (from_x + from_h).chunk(4, -1)
    c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def _gru(from_x: Tensor, from_h: Tensor, states: States) -> States:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.chunk(3, -1), from_h.chunk(3, -1)
    z = torch.sigmoid(x_z + h_z)
    return [(1.0 - z) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n) + z * states[0]]


def _rnn_tanh(from_x: Tensor, from_h: Tensor, _states: States) -> States:
    return [torch.tanh(from_x + from_h)]


def _rnn_relu(from_x: Tensor, from_h: Tensor, _states: States) -> States:
    return [torch.relu(from_x + from_h)]


_STEPS: dict[str, Step] = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _rnn_tanh, "RNN_RELU": _rnn_relu}


def _run(
    mode: str, from_x: Tensor, states: States, w_hh: Tensor, b_hh: Tensor, w_hr: Tensor | None
) -> tuple[Tensor, States]:
    """All steps of from_x [T, B, G*H]: the output [T, B, P] and the last states."""
    output = []
    for step in from_x.unbind(0):
        states = _STEPS[mode](step, F.linear(states[0], w_hh, b_hh), states)
        if w_hr is not None:
            states[0] = F.linear(states[0], w_hr)
        output.append(states[0])
    return torch.stack(output), states


def _compiled_run() -> Run:
    torch.compiler.reset()  # it keeps few versions of one function, and this one has a few for each problem
    return torch.compile(_run, fullgraph=True, dynamic=False)


class _Loop(torch.nn.Module):
    """What the layers share: the arguments and parameters of torch.nn's layer, which has biases, and the loop."""

    kind: type[torch.nn.RNNBase]

    def __init__(self, *args: Any, compiled: bool = False, **kwargs: Any) -> None:
        super().__init__()
        like = self.kind(*args, **kwargs)
        hold_parameters(self, like)
        self.mode, self.num_layers, self.directions = like.mode, like.num_layers, 2 if like.bidirectional else 1
        self.hidden_size, self.proj_size = like.hidden_size, like.proj_size
        self._at_a_time = UNROLL if compiled else None
        self._run: Run = _compiled_run() if compiled else _run

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Output [T, B, D*P] and the final state in torch.nn's form, from x [T, B, I]."""
        initial = self._zeros(x, self.num_layers * self.directions) if state is None else state
        initial = initial if self.mode == "LSTM" else (initial,)
        last = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self.directions):
                states = [s[layer * self.directions + direction] for s in initial]
                output, states = self._one_direction(x, states, f"_l{layer}" + "_reverse" * direction, direction == 1)
                outputs.append(output)
                last.append(states)
            x = torch.cat(outputs, -1)
        final = tuple(torch.stack(of_kind) for of_kind in zip(*last, strict=True))
        return x, final if self.mode == "LSTM" else final[0]

    def _one_direction(self, x: Tensor, states: States, suffix: str, backwards: bool) -> tuple[Tensor, States]:
        weights = [getattr(self, name + suffix) for name in ("weight_hh", "bias_hh")]
        weights.append(getattr(self, f"weight_hr{suffix}") if self.proj_size else None)
        from_x = F.linear(x.flip(0) if backwards else x, *(getattr(self, n + suffix) for n in ("weight_ih", "bias_ih")))
        outputs = []
        for steps in torch.split(from_x, self._at_a_time or len(from_x)):
            output, states = self._run(self.mode, steps, states, *weights)
            outputs.append(output)
        output = torch.cat(outputs)
        return output.flip(0) if backwards else output, states

    def _zeros(self, x: Tensor, rows: int) -> Any:
        h, c = (x.new_zeros(rows, x.shape[1], size) for size in (self.proj_size or self.hidden_size, self.hidden_size))
        return (h, c) if self.mode == "LSTM" else h


class LSTM(_Loop):
    """The arguments are torch.nn.LSTM's, and `compiled`."""

    kind = torch.nn.LSTM


class GRU(_Loop):
    """The arguments are torch.nn.GRU's, and `compiled`."""

    kind = torch.nn.GRU


class RNN(_Loop):
    """The arguments are torch.nn.RNN's, and `compiled`."""

    kind = torch.nn.RNN
