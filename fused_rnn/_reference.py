"""The recurrence in plain torch, step by step, for what is differentiated more than once or in forward mode.

It is slow, and differentiable as often as one likes, in every mode and under torch.func. Half types are computed in
float32. Shapes are those of `Arguments`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_rnn import _modes, _ops
from fused_rnn._norm import normalize_cell_state, normalize_recurrent
from fused_rnn._tensors import HALF_TYPES, Arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Tensors = Sequence[Tensor | None]


STEPS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {}
"""`step` of each cell that is not built in, without its name and the norm; other states than h lie in c, [B, E*H]."""


def step(
    cell: str,
    from_x: Tensor,
    from_h: Tensor,
    h: Tensor,
    c: Tensor,
    unit_weights: Tensor | None = None,
    norm: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """New h (not yet projected) and c from the pre-activations [B, G, H] of x and [B, R, H] of h.

    Without a cell state c passes through.

    `unit_weights` [K, H] are those of a cell that has them; the last rows of `norm` [N, H] normalize c.
    """
    if cell in STEPS:
        return STEPS[cell](from_x, from_h, h, c, unit_weights)
    if cell == "gru":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.unbind(1), from_h.unbind(1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        return n + z * (h - n), c
    gates = from_x + from_h
    if cell == "lstm":
        i, f, g, o = gates.unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c if norm is None else normalize_cell_state(c, norm)), c
    if cell == "lstm_peephole":
        i, f, g, o = gates.unbind(1)
        p_i, p_f, p_o, limit = unit_weights  # type: ignore[misc]
        c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        c = torch.clamp(c, -limit.detach(), limit.detach())  # the limit is given, not trained
        return torch.sigmoid(o + p_o * c) * torch.tanh(c), c
    activation = {"rnn_tanh": torch.tanh, "rnn_relu": torch.relu}[cell]
    return activation(gates[:, 0]), c


def recurrence(cell: str, *tensors: Any, heads: int = 1) -> tuple[Tensor, ...]:
    """What `_ops.forward` returns that is differentiable, from `Arguments`: output, h_n, for an LSTM c_n and cells.

    D counts the `heads` of each direction, those of the first direction first.
    """
    gates, w_hh, b_hh, w_hr, h_0, c_0, unit_weights, norm, lengths, resets, zoneout, recurrent_mask = Arguments(
        *tensors
    )
    dtype = w_hh.dtype
    if dtype in HALF_TYPES:
        gates, w_hh = gates.float(), w_hh.float()
        b_hh, w_hr, h_0, c_0 = (None if t is None else t.float() for t in (b_hh, w_hr, h_0, c_0))
        unit_weights, norm = (None if t is None else t.float() for t in (unit_weights, norm))
    time_steps, batch, directions, _, hidden_size = gates.shape
    if lengths is not None:  # there may be anything in the padding
        padding = torch.arange(time_steps, device=gates.device).unsqueeze(1) >= lengths
        gates = gates.masked_fill(padding[:, :, None, None, None], 0.0)
    h_0 = gates.new_zeros(directions, batch, w_hh.shape[2]) if h_0 is None else h_0
    states = _ops.CELLS[cell].states
    if c_0 is None:
        c_0 = gates.new_zeros(directions, batch, max(1, states - 1) * hidden_size)
    results = []
    for d in range(directions):
        h, c = h_0[d], c_0[d]
        steps = []
        for t in range(time_steps) if d < heads else reversed(range(time_steps)):
            h_before, c_before = (zero_where(None if resets is None else resets[t], state) for state in (h, c))
            vector = h_before if recurrent_mask is None else h_before * recurrent_mask[d]
            from_h = F.linear(vector, w_hh[d], None if b_hh is None else b_hh[d])
            from_h = from_h.reshape(batch, _ops.CELLS[cell].recurrent_gates, hidden_size)
            if norm is not None:
                from_h = normalize_recurrent(cell, from_h, norm[d])
            of_direction = (None if parameters is None else parameters[d] for parameters in (unit_weights, norm))
            h_after, c_after = step(cell, gates[t, :, d], from_h, h_before, c_before, *of_direction)
            if w_hr is not None:
                h_after = F.linear(h_after, w_hr[d])
            if zoneout is not None:
                h_after = torch.lerp(h_after, h_before, zoneout[t, :, d, 0].to(h_after.dtype))
                if states > 1:
                    c_after = torch.lerp(c_after, c_before, zoneout[t, :, d, 1:].flatten(1).to(c_after.dtype))
            inactive = None if lengths is None else t >= lengths
            steps.append((zero_where(inactive, h_after), zero_where(inactive, c_after)))
            if inactive is not None:  # the state passes through
                h_after, c_after = (torch.where(inactive.unsqueeze(1), *pair) for pair in ((h, h_after), (c, c_after)))
            h, c = h_after, c_after
        of_time = steps if d < heads else steps[::-1]
        output, cells = (
            torch.stack(states) if states else last.new_zeros(0, *last.shape)
            for states, last in (([h for h, _ in of_time], h), ([c for _, c in of_time], c))
        )
        results.append((output, h, c, cells))
    outputs, h_n, c_n, all_cells = zip(*results, strict=True)
    stacked = torch.stack(outputs, 2), torch.stack(h_n), torch.stack(c_n), torch.stack(all_cells, 2)
    return tuple(each.to(dtype) for each in stacked[: 4 if states > 1 else 2])


def gates_of(cell: str, arguments: Arguments, output: Tensor, cells: Tensor, saved: Tensor, heads: int = 1) -> Tensor:
    """The gate pre-activations [T, B, D, G, H] that a run of the operator started from, out of what it left.

    They have the type that is computed in, float32 for half types; the gates among the arguments are not looked at.
    They repeat the saved activations up to rounding, which is all that derivatives depend on: where an activation is
    saturated, pre-activations far apart have the same one, and any of them does. Of a cell that is not built in they
    are kept (see `anchor_of`), and this is 0.
    """
    if cell in STEPS:
        return output.new_zeros(())
    if output.dtype in HALF_TYPES:
        output, cells, saved = output.float(), cells.float(), saved.float()
        arguments = Arguments._make(t.float() if t is not None and t.is_floating_point() else t for t in arguments)
    spec = _ops.CELLS[cell]
    made = None if arguments.zoneout is None else saved[:, :, :, spec.saved]  # the last state before zoneout
    from_h = _from_h(cell, arguments, output, heads)
    if cell in ("lstm", "lstm_peephole"):
        i, f, g, o = saved[:, :, :, :4].unbind(3)
        total = torch.stack([_logit(i), _logit(f), _atanh(g), _logit(o)], 3)
    elif cell == "gru":
        r, z, n, h_n = saved[:, :, :, :4].unbind(3)
        total = torch.stack([_logit(r), _logit(z), _atanh(n) - r * h_n + from_h[:, :, :, 2]], 3)
    elif cell == "rnn_tanh":
        total = _atanh(output if made is None else made).unsqueeze(3)
    else:
        h = output if made is None else made
        total = torch.where(h > 0, h, -1.0).unsqueeze(3)
    if arguments.unit_weights is not None:
        p_i, p_f, p_o, _ = arguments.unit_weights.unbind(1)
        before = _states_before(cells, arguments.c_0, arguments, heads)
        current = cells if made is None else made
        total = total - torch.stack([p_i * before, p_f * before, torch.zeros_like(before), p_o * current], 3)
    return total - from_h


def anchor_of(cell: str, gates: Tensor, *, dense: bool) -> Tensor:
    """What stands for the gates in a graph that does not keep them: zeros, with `dense` in memory of their own.

    What a cell that is not built in has saved may not tell its gates: they are kept.
    """
    if cell in STEPS:
        return gates.clone()
    return torch.zeros_like(gates) if dense else gates.new_zeros(()).expand(gates.shape)


def _from_h(cell: str, arguments: Arguments, output: Tensor, heads: int) -> Tensor:
    """The recurrent pre-activations [T, B, D, G, H]."""
    before = _states_before(output, arguments.h_0, arguments, heads)
    if arguments.recurrent_mask is not None:
        before = before * arguments.recurrent_mask.transpose(0, 1)
    from_h = torch.stack([h @ w.mT for h, w in zip(before.unbind(2), arguments.w_hh.unbind(), strict=True)], 2)
    if arguments.b_hh is not None:
        from_h = from_h + arguments.b_hh
    gate_count = _ops.CELLS[cell].gates
    from_h = from_h.reshape(*from_h.shape[:3], gate_count, from_h.shape[3] // gate_count)
    if arguments.norm is None:
        return from_h
    directions = zip(from_h.unbind(2), arguments.norm.unbind(), strict=True)
    return torch.stack([normalize_recurrent(cell, gates, norm) for gates, norm in directions], 2)


def _states_before(states: Tensor, initial: Tensor | None, arguments: Arguments, heads: int) -> Tensor:
    """The state before each step, from that after each step: both [T, B, D, units]; initial [D, B, units]."""
    found = [
        _states_before_of(states[:, :, d], None if initial is None else initial[d], d >= heads, arguments)
        for d in range(states.shape[2])
    ]
    return torch.stack(found, 2)


def _states_before_of(states: Tensor, initial: Tensor | None, backwards: bool, arguments: Arguments) -> Tensor:
    """The same for one direction: [T, B, units]."""
    first = states.new_zeros(states.shape[1:]) if initial is None else initial
    before = torch.cat([states[1:], first[None]] if backwards else [first[None], states[:-1]])[: len(states)]
    if backwards and arguments.lengths is not None:
        starts = torch.arange(len(states), device=states.device).unsqueeze(1) == arguments.lengths - 1
        before = torch.where(starts.unsqueeze(2), first, before)
    return zero_where(arguments.resets, before)


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

    gradients = _functional_gradients if _modes.is_transformed() else _gradients
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
