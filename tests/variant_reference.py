"""The truth about the variants: one row's step after the other, in plain torch, from the formulas of the papers.

Layer norm: Ba, Kiros and Hinton 2016, eq. 20 to 22 (LSTM). Zoneout: Krueger et al. 2017. Recurrent dropout: Gal
and Ghahramani 2016, one mask a sequence. Weight dropout: Merity, Keskar and Socher 2018. Peepholes: Gers, Schraudolph
and Schmidhuber 2002. It shares nothing with the kernels and no code with the package: parameters come by their names in
a state dict, whose presence says what a layer has, and what was drawn at random is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tests.reference import Sequence

if TYPE_CHECKING:
    from collections.abc import Mapping

    Parameters = Mapping[str, Tensor]

EPSILON = 1e-5  # that of torch.nn.LayerNorm


class Draws(NamedTuple):
    """What is drawn at random for one layer; None: nothing is."""

    zoneout: Tensor | None = None  # [T, B, D, states, H], the part of each state before the step that stays
    recurrent: Tensor | None = None  # [D, B, P], factors of h where it enters W_hh
    weights: Tensor | None = None  # [D, G*H, P], factors of W_hh
    outputs: Tensor | None = None  # [T, B, D*P], factors of what the next layer reads

    def row(self, b: int, length: int) -> Draws:
        """Those of one row, cut to its length."""
        zoneout = None if self.zoneout is None else self.zoneout[:length, b : b + 1]
        return self._replace(
            zoneout=zoneout, recurrent=None if self.recurrent is None else self.recurrent[:, b : b + 1]
        )

    def double(self) -> Draws:
        """The same numbers in float64."""
        return Draws(*(None if each is None else each.double() for each in self))


def normalized(values: Tensor) -> Tensor:
    """Values [B, N] with mean 0 and variance 1 in each row."""
    centred = values - values.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + EPSILON).sqrt()


def pre_activations(cell: str, product: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    """The share [B, G*H] of the input or of h in the gates, from its matrix product."""
    if gain is not None:
        units = product.shape[1] // 3
        groups = [2 * units, units] if cell == "gru" else [product.shape[1]]  # a GRU's n is normalized alone
        product = gain * torch.cat([normalized(group) for group in torch.split(product, groups, 1)], 1)
    return product if bias is None else product + bias


def step(
    cell: str, p: Parameters, from_x: Tensor, from_h: Tensor, h: Tensor, c: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """New h (before its projection and zoneout) and c [B, H] of one step, from pre-activations [B, G*H]."""
    if cell == "gru":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.chunk(3, 1), from_h.chunk(3, 1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        return (1 - z) * torch.tanh(x_n + r * h_n) + z * h, c
    if cell != "lstm":
        return {"rnn_tanh": torch.tanh, "rnn_relu": torch.relu}[cell](from_x + from_h), c
    i, f, g, o = (from_x + from_h).chunk(4, 1)
    if "weight_peephole" in p:
        p_i, p_f, _ = p["weight_peephole"].chunk(3)
        i, f = i + p_i * c, f + p_f * c
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if clip is not None:
        c = torch.where(c > clip, clip, torch.where(c < -clip, -clip, c))
    if "weight_peephole" in p:
        o = o + p["weight_peephole"].chunk(3)[2] * c
    seen = c
    if "gain_c" in p:
        seen = p["gain_c"] * normalized(c)
        seen = seen + p["bias_c"] if "bias_c" in p else seen
    return torch.sigmoid(o) * torch.tanh(seen), c


def direction(
    cell: str, p: Parameters, x: Tensor, h: Tensor, c: Tensor, resets: Tensor | None, draws: Draws, d: int,
    clip: float | None,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:  # fmt: skip
    """h and c after each step of x [T, B, I], in the order of time, and the final ones."""
    w_hh = p["weight_hh"] if draws.weights is None else p["weight_hh"] * draws.weights[d]
    outputs: dict[int, Tensor] = {}
    cells: dict[int, Tensor] = {}
    for t in range(len(x)) if d == 0 else reversed(range(len(x))):
        if resets is not None:
            h, c = (torch.where(resets[t].unsqueeze(1), 0.0, state) for state in (h, c))
        from_x = pre_activations(cell, x[t] @ p["weight_ih"].T, p.get("gain_ih"), p.get("bias_ih"))
        vector = h if draws.recurrent is None else h * draws.recurrent[d]
        from_h = pre_activations(cell, vector @ w_hh.T, p.get("gain_hh"), p.get("bias_hh"))
        h_new, c_new = step(cell, p, from_x, from_h, h, c, clip)
        if "weight_hr" in p:
            h_new = h_new @ p["weight_hr"].T
        if draws.zoneout is not None:
            stays = draws.zoneout[t, :, d]
            h_new = stays[:, 0] * h + (1 - stays[:, 0]) * h_new
            if cell == "lstm":
                c_new = stays[:, 1] * c + (1 - stays[:, 1]) * c_new
        h, c = outputs[t], cells[t] = h_new, c_new
    return [outputs[t] for t in range(len(x))], [cells[t] for t in range(len(x))], h, c


def layer(
    cell: str, directions: list[dict[str, Tensor]], x: Tensor, h_0: Tensor, c_0: Tensor, lengths: Tensor | None,
    resets: Tensor | None, draws: Draws, clip: float | None,
) -> Sequence:  # fmt: skip
    """One layer on x [T, B, I] from h_0 [D, B, P] and c_0 [D, B, H]; each row of a length is run alone."""
    if lengths is not None:
        rows = [
            layer(
                cell, directions, x[:length, b : b + 1], h_0[:, b : b + 1], c_0[:, b : b + 1], None,
                None if resets is None else resets[:length, b : b + 1], draws.row(b, length), clip,
            )
            for b, length in enumerate(lengths.tolist())
        ]  # fmt: skip
        steps = [
            torch.cat([torch.cat([s, s.new_zeros(len(x) - len(s), *s.shape[1:])]) for s in each], 1)
            for each in ([row.output for row in rows], [row.cells for row in rows if row.cells is not None])
        ]
        h_n, c_n = (
            torch.cat([row.h_n for row in rows], 1),
            torch.cat([row.c_n for row in rows if row.c_n is not None], 1),
        )
        return Sequence(steps[0], h_n, c_n, steps[1])
    found = [direction(cell, p, x, h_0[d], c_0[d], resets, draws, d, clip) for d, p in enumerate(directions)]
    h_n, c_n = torch.stack([h for _, _, h, _ in found]), torch.stack([c for _, _, _, c in found])
    outputs = [torch.stack(steps) if steps else h.new_zeros(0, *h.shape) for steps, _, h, _ in found]
    cells = [torch.stack(steps) if steps else c.new_zeros(0, *c.shape) for _, steps, _, c in found]
    return Sequence(torch.stack(outputs, 2), h_n, c_n, torch.stack(cells, 2))


def stack(
    cell: str,
    x: Tensor,
    parameters: Parameters,
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    draws: list[Draws] | None = None,
    clip: float | None = None,
) -> Sequence:
    """Stacked layers on x [T, B, I]: output [T, B, D*P], final states [L*D, B, units], cells of the last layer."""
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in parameters else ("",)
    found, index = [], 0
    while f"weight_ih_l{index}" in parameters:
        directions = [
            {name.removesuffix(end): value for name, value in parameters.items() if name.endswith(end)}
            for end in (f"_l{index}{suffix}" for suffix in suffixes)
        ]
        rows = slice(index * len(suffixes), (index + 1) * len(suffixes))
        width = directions[0]["weight_hh"].shape[1]
        units = directions[0]["weight_hr"].shape[1] if "weight_hr" in directions[0] else width
        h, c = (
            x.new_zeros(len(suffixes), x.shape[1], size) if state is None else state[rows]
            for state, size in ((h_0, width), (c_0, units))
        )
        of_layer = Draws() if draws is None else draws[index]
        found.append(layer(cell, directions, x, h, c, lengths, resets, of_layer, clip))
        x = found[-1].output.flatten(2)
        if of_layer.outputs is not None:
            x = x * of_layer.outputs
        index += 1
    h_n = torch.cat([each.h_n for each in found])
    if cell != "lstm":
        return Sequence(x, h_n, None)
    c_n = torch.cat([each.c_n for each in found if each.c_n is not None])
    return Sequence(x, h_n, c_n, None if found[-1].cells is None else found[-1].cells.flatten(2))
