"""The recurrence in plain torch, step by step, for what is differentiated more than once or in forward mode.

It is slow, and differentiable as often as one likes, in every mode and under torch.func. Half types are computed in
float32. Shapes are those of `_ops`; None stands for zero states, no bias and no projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Tensors = Sequence[Tensor | None]

_HALF = (torch.bfloat16, torch.float16)


def step(cell: str, from_x: Tensor, from_h: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """New h (not yet projected) and c from the pre-activations [B, G, H]; without a cell state c passes through."""
    if cell == "gru":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.unbind(1), from_h.unbind(1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        return n + z * (h - n), c
    gates = from_x + from_h
    if cell == "lstm":
        i, f, g, o = gates.unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    activation = {"rnn_tanh": torch.tanh, "rnn_relu": torch.relu}[cell]
    return activation(gates[:, 0]), c


def recurrence(
    cell: str,
    gates: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """What `_ops.forward` returns that is differentiable: output, h_n, and for an LSTM c_n and cells."""
    dtype = w_hh.dtype
    if dtype in _HALF:
        gates, w_hh = gates.float(), w_hh.float()
        b_hh, w_hr, h_0, c_0 = (None if t is None else t.float() for t in (b_hh, w_hr, h_0, c_0))
    time_steps, batch, directions, gate_count, hidden_size = gates.shape
    if lengths is not None:  # there may be anything in the padding
        padding = torch.arange(time_steps, device=gates.device).unsqueeze(1) >= lengths
        gates = gates.masked_fill(padding[:, :, None, None, None], 0.0)
    h_0 = gates.new_zeros(directions, batch, w_hh.shape[2]) if h_0 is None else h_0
    c_0 = gates.new_zeros(directions, batch, hidden_size) if c_0 is None else c_0
    results = []
    for d in range(directions):
        h, c = h_0[d], c_0[d]
        steps = []
        for t in range(time_steps) if d == 0 else reversed(range(time_steps)):
            h_before, c_before = (zero_where(None if resets is None else resets[t], state) for state in (h, c))
            from_h = F.linear(h_before, w_hh[d], None if b_hh is None else b_hh[d])
            from_h = from_h.reshape(batch, gate_count, hidden_size)
            h_after, c_after = step(cell, gates[t, :, d], from_h, h_before, c_before)
            if w_hr is not None:
                h_after = F.linear(h_after, w_hr[d])
            inactive = None if lengths is None else t >= lengths
            steps.append((zero_where(inactive, h_after), zero_where(inactive, c_after)))
            if inactive is not None:  # the state passes through
                h_after, c_after = (torch.where(inactive.unsqueeze(1), *pair) for pair in ((h, h_after), (c, c_after)))
            h, c = h_after, c_after
        of_time = steps if d == 0 else steps[::-1]
        output, cells = (
            torch.stack(states) if states else last.new_zeros(0, *last.shape)
            for states, last in (([h for h, _ in of_time], h), ([c for _, c in of_time], c))
        )
        results.append((output, h, c, cells))
    outputs, h_n, c_n, all_cells = zip(*results, strict=True)
    stacked = torch.stack(outputs, 2), torch.stack(h_n), torch.stack(c_n), torch.stack(all_cells, 2)
    return tuple(each.to(dtype) for each in stacked[: 4 if cell == "lstm" else 2])


def gates_of(
    cell: str,
    output: Tensor,
    saved: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    h_0: Tensor | None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> Tensor:
    """The gate pre-activations [T, B, D, G, H] that a run of the operator started from, out of what it saved.

    They have the type that is computed in, float32 for half types.
    They repeat the saved activations up to rounding, which is all that derivatives depend on: where an activation is
    saturated, pre-activations far apart have the same one, and any of them does.
    """
    if output.dtype in _HALF:
        output, saved, w_hh = output.float(), saved.float(), w_hh.float()
        b_hh, h_0 = (None if t is None else t.float() for t in (b_hh, h_0))
    before = [
        _states_before(output[:, :, d], None if h_0 is None else h_0[d], d == 1, lengths, resets)
        for d in range(output.shape[2])
    ]
    from_h = torch.stack([h @ w.mT for h, w in zip(before, w_hh.unbind(), strict=True)], 2)
    if b_hh is not None:
        from_h = from_h + b_hh
    from_h = from_h.reshape(*from_h.shape[:3], from_h.shape[3] // saved.shape[4], saved.shape[4])
    if cell == "lstm":
        i, f, g, o = saved.unbind(3)
        total = torch.stack([_logit(i), _logit(f), _atanh(g), _logit(o)], 3)
    elif cell == "gru":
        r, z, n, h_n = saved.unbind(3)
        total = torch.stack([_logit(r), _logit(z), _atanh(n) - r * h_n + from_h[:, :, :, 2]], 3)
    elif cell == "rnn_tanh":
        total = _atanh(output).unsqueeze(3)
    else:
        total = torch.where(output > 0, output, -1.0).unsqueeze(3)
    return total - from_h


def _states_before(
    output: Tensor, h_0: Tensor | None, backwards: bool, lengths: Tensor | None, resets: Tensor | None
) -> Tensor:
    """The hidden state before each step of one direction, from that after each step: both [T, B, P]."""
    first = output.new_zeros(output.shape[1:]) if h_0 is None else h_0
    before = torch.cat([output[1:], first[None]] if backwards else [first[None], output[:-1]])[: len(output)]
    if backwards and lengths is not None:
        starts = torch.arange(len(output), device=output.device).unsqueeze(1) == lengths - 1
        before = torch.where(starts.unsqueeze(2), first, before)
    return zero_where(resets, before)


def zero_where(mask: Tensor | None, values: Tensor) -> Tensor:
    """The values [..., N], zero in the rows where a mask [...] is set."""
    return values if mask is None else values.masked_fill(mask.unsqueeze(-1), 0.0)


def pull(
    function: Callable[..., Tensors], arguments: Tensors, wanted: Sequence[bool], d_results: Tensors
) -> tuple[Tensor | None, ...]:
    """The gradients of the wanted arguments when d_results arrive at the results; None elsewhere, in and out."""
    chosen = [index for index, want in enumerate(wanted) if want]
    arriving = {index: d for index, d in enumerate(d_results) if d is not None}
    if not chosen or not arriving:
        return (None,) * len(arguments)

    def of_chosen(*values: Tensor) -> tuple[Tensor | None, ...]:
        given = dict(zip(chosen, values, strict=True))
        results = function(*(given.get(index, argument) for index, argument in enumerate(arguments)))
        return tuple(results[index] for index in arriving)

    gradients = _functional_gradients if torch._C._are_functorch_transforms_active() else _gradients
    found = gradients(of_chosen, [arguments[index] for index in chosen], list(arriving.values()))
    by_index = dict(zip(chosen, found, strict=True))
    return tuple(by_index.get(index) for index in range(len(arguments)))


def _gradients(function: Callable[..., Any], arguments: Sequence[Any], d_results: Sequence[Tensor]) -> Sequence[Tensor]:
    """By the usual autograd, which takes half the time of torch.func, but does not work inside it."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [a.view_as(a) if again and a.requires_grad else a.detach().requires_grad_() for a in arguments]
        pairs = [(r, d.to(r.dtype)) for r, d in zip(function(*inputs), d_results, strict=True) if r.requires_grad]
    if not pairs:
        return [torch.zeros_like(a) for a in arguments]
    results, arriving = zip(*pairs, strict=True)
    return torch.autograd.grad(results, inputs, arriving, create_graph=again, materialize_grads=True)


def _functional_gradients(
    function: Callable[..., Any], arguments: Sequence[Any], d_results: Sequence[Tensor]
) -> Sequence[Tensor]:
    computed: Any = torch.func.vjp(function, *arguments)
    results, pulled = computed
    found: Sequence[Tensor] = pulled(tuple(d.to(r.dtype) for d, r in zip(d_results, results, strict=True)))
    return found


def push(
    function: Callable[..., Tensors], arguments: Tensors, tangents: Tensors, results: Tensors
) -> tuple[Tensor | None, ...]:
    """The tangents of the results (whose shapes are given) for those of the arguments; None is zero.

    `pull` is linear in what arrives at the results, and the gradient of that is the tangent: so this works wherever
    gradients do, also inside another forward-mode derivative, which torch cannot nest everywhere.
    """
    moving = [tangent is not None for tangent in tangents]

    def pulled(*d_results: Tensor) -> tuple[Tensor | None, ...]:
        return pull(function, arguments, moving, d_results)

    zeros = [None if result is None else torch.zeros_like(result) for result in results]
    return pull(pulled, zeros, [zero is not None for zero in zeros], tangents)


def _logit(s: Tensor) -> Tensor:
    """The inverse of the sigmoid, finite where s was rounded to 0 or 1."""
    limits = torch.finfo(s.dtype)
    return torch.logit(s.clamp(limits.tiny, 1 - limits.eps / 2))


def _atanh(s: Tensor) -> Tensor:
    """The inverse of tanh, finite where s was rounded to -1 or 1."""
    largest = 1 - torch.finfo(s.dtype).eps / 2
    return torch.atanh(s.clamp(-largest, largest))
