"""The truth: every cell, one step at a time, in plain float64 torch, with gradients from autograd.

It shares nothing with the kernels and no code with the package. Read it beside the formulas in torch.nn's
documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class Sequence(NamedTuple):
    """Results of one layer [T, B, D, units], or of a stack [T, B, D * units]; states are [L * D, B, units].

    The cells of a stack are those of its last layer.
    """

    output: Tensor
    h_n: Tensor
    c_n: Tensor | None
    cells: Tensor | None = None


def step(cell: str, from_x: Tensor, from_h: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """New h and c from the two pre-activations [B, G, H]; h is the unprojected state, needed by the GRU only."""
    if cell == "lstm":
        assert c is not None
        i, f, g, o = (from_x + from_h).unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if cell == "gru":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.unbind(1), from_h.unbind(1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        return (1 - z) * n + z * h, None
    activation = {"rnn_tanh": torch.tanh, "rnn_relu": torch.relu}[cell]
    return activation((from_x + from_h)[:, 0]), None


def recurrence(
    cell: str,
    gates: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> Sequence:
    """The recurrence of one layer: gates [T, B, D, G, H], w_hh [D, G*H, P], b_hh [D, G*H], w_hr [D, P, H].

    The state is zero before the steps that resets [T, B] says; lengths [B] are those of the rows.
    """
    if lengths is not None:
        return _rows_of_lengths(cell, gates, (w_hh, b_hh, w_hr), h_0, c_0, lengths, resets)
    time_steps, batch, directions, gate_count, hidden_size = gates.shape
    h_0 = gates.new_zeros(directions, batch, w_hh.shape[2]) if h_0 is None else h_0
    c_0 = gates.new_zeros(directions, batch, hidden_size) if c_0 is None else c_0
    outputs, all_cells, h_last, c_last = [], [], [], []
    for d in range(directions):
        h, c = h_0[d], c_0[d] if cell == "lstm" else None
        of_step: dict[int, tuple[Tensor, Tensor | None]] = {}
        for t in range(time_steps) if d == 0 else reversed(range(time_steps)):
            if resets is not None:
                kept = ~resets[t].unsqueeze(1)
                h, c = h * kept, None if c is None else c * kept
            from_h = h @ w_hh[d].T
            if b_hh is not None:
                from_h = from_h + b_hh[d]
            h, c = step(cell, gates[t, :, d], from_h.view(batch, gate_count, hidden_size), h, c)
            if w_hr is not None:
                h = h @ w_hr[d].T
            of_step[t] = h, c
        h_last.append(h)
        outputs.append(_stacked([of_step[t][0] for t in range(time_steps)], h))
        if c is not None:
            c_last.append(c)
            all_cells.append(_stacked([state for t in range(time_steps) if (state := of_step[t][1]) is not None], c))
    output, h_n = torch.stack(outputs, 2), torch.stack(h_last)
    if cell != "lstm":
        return Sequence(output, h_n, None)
    return Sequence(output, h_n, torch.stack(c_last), torch.stack(all_cells, 2))


def _rows_of_lengths(
    cell: str,
    gates: Tensor,
    weights: tuple[Tensor, Tensor | None, Tensor | None],
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor,
    resets: Tensor | None,
) -> Sequence:
    """Each row alone, cut to its length, with zeros after it."""
    time_steps, results = gates.shape[0], []
    for b, length in enumerate(lengths.clamp(0, time_steps).tolist()):
        row = slice(b, b + 1)
        h, c = (None if state is None else state[:, row] for state in (h_0, c_0))
        reset = None if resets is None else resets[:length, row]
        results.append(recurrence(cell, gates[:length, row], *weights, h, c, resets=reset))

    def padded(steps: Tensor) -> Tensor:
        return torch.cat([steps, steps.new_zeros(time_steps - len(steps), *steps.shape[1:])])

    return Sequence(
        torch.cat([padded(each.output) for each in results], 1),
        torch.cat([each.h_n for each in results], 1),
        torch.cat([each.c_n for each in results if each.c_n is not None], 1) if cell == "lstm" else None,
        torch.cat([padded(each.cells) for each in results if each.cells is not None], 1) if cell == "lstm" else None,
    )


def stack(
    cell: str,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> Sequence:
    """Stacked layers on x [T, B, I] with torch.nn's parameter names; their presence says how many there are."""
    h_last, c_last = [], []
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in parameters else ("",)
    directions, layer = len(suffixes), 0
    while f"weight_ih_l{layer}" in parameters:
        rows = slice(layer * directions, (layer + 1) * directions)

        def of_layer(name: str, index: int = layer) -> list[Tensor]:
            names = [f"{name}_l{index}{suffix}" for suffix in suffixes]
            return [parameters[each] for each in names if each in parameters]

        gates = torch.stack([x @ w.T for w in of_layer("weight_ih")], 2)
        if of_layer("bias_ih"):
            gates = gates + torch.stack(of_layer("bias_ih"))
        gates = gates.view(*gates.shape[:3], GATES[cell], gates.shape[3] // GATES[cell])
        result = recurrence(
            cell,
            gates,
            torch.stack(of_layer("weight_hh")),
            torch.stack(of_layer("bias_hh")) if of_layer("bias_hh") else None,
            torch.stack(of_layer("weight_hr")) if of_layer("weight_hr") else None,
            None if h_0 is None else h_0[rows],
            None if c_0 is None else c_0[rows],
            lengths,
            resets,
        )
        x = result.output.flatten(2)
        h_last.append(result.h_n)
        if result.c_n is not None:
            c_last.append(result.c_n)
        layer += 1
    cells = None if result.cells is None else result.cells.flatten(2)
    return Sequence(x, torch.cat(h_last), torch.cat(c_last) if c_last else None, cells)


def gradients(outputs: list[Tensor], inputs: list[Tensor], d_outputs: list[Tensor]) -> list[Tensor]:
    """Gradients of the inputs, zeros where nothing depends on one (an empty sequence, for example)."""
    connected = [
        (output, d.to(output.dtype)) for output, d in zip(outputs, d_outputs, strict=True) if output.requires_grad
    ]
    if not connected:
        return [torch.zeros_like(each) for each in inputs]
    found = torch.autograd.grad(
        [output for output, _ in connected], inputs, [d for _, d in connected], materialize_grads=True
    )
    return list(found)


def _stacked(steps: list[Tensor], like: Tensor) -> Tensor:
    """Steps [B, units] as [T, B, units], for no steps, too."""
    return torch.stack(steps) if steps else like.new_zeros(0, *like.shape)
