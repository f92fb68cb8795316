"""Heads: groups of equal size of the units of a layer, between which W_hh has no entries.

The operators take each head for a direction of its own: their D counts the heads of all directions, and their H is the
size of one. So all that units have lies head by head, and in each head gate by gate or state by state. Users have the
gates and states first, and the heads in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from fused_rnn._tensors import DirectionWeights
    from fused_rnn._variants import Masks


class Heads(NamedTuple):
    """How many heads a direction has, and how many units each of them."""

    number: int
    size: int

    def of_weights(self, w: DirectionWeights) -> DirectionWeights:
        """The parameters of one direction, [N*H, ...] each, head by head; W_hh [R*H, H / heads] keeps its columns."""
        given = {"w_ih": w.w_ih, "w_hh": w.w_hh, "b_ih": w.b_ih, "b_hh": w.b_hh, "unit": w.unit}
        return w._replace(**{name: self._of_rows(t) for name, t in given.items() if t is not None})

    def _of_rows(self, rows: Tensor) -> Tensor:
        apart = rows.reshape(-1, self.number, self.size, *rows.shape[1:])
        return apart.transpose(0, 1).reshape(rows.shape)

    def can_split(self, states: Tensor | None) -> bool:
        """Whether `of_states` can take states that nobody has checked."""
        return states is None or (states.dim() == 3 and states.shape[2] % (self.number * self.size) == 0)

    def of_states(self, states: Tensor | None) -> Tensor | None:
        """States [D, B, E*H] as those of each head, [D*heads, B, E*H/heads]."""
        if states is None:
            return None
        others = states.shape[2] // (self.number * self.size)
        apart = states.reshape(*states.shape[:2], others, self.number, self.size)
        return apart.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)

    def of_masks(self, masks: Masks) -> Masks:
        """The masks of all units as those of each head."""
        zoneout = masks.zoneout
        if zoneout is not None:
            apart = zoneout.reshape(*zoneout.shape[:4], self.number, self.size)
            zoneout = apart.transpose(3, 4).flatten(2, 3)
        return masks._replace(zoneout=zoneout, recurrent=self.of_states(masks.recurrent))

    def joined(self, states: Tensor) -> Tensor:
        """States of each head, [D*heads, .., E*H/heads], as those of all units, [D, .., E*H], and no view."""
        directions, others = states.shape[0] // self.number, states.shape[-1] // self.size
        shape = states.shape[1:] if others == 1 else (*states.shape[1:-1], others, self.size)
        joined = torch.cat(states.reshape(directions, self.number, *shape).unbind(1), -1)
        return joined if others == 1 else joined.flatten(-2)

    def all_of(self, result: Any, *, keep_cells: bool = False) -> Any:
        """A RecurrenceResult with the states of all units; the output [T, B, D*heads, H/heads] is already of all."""
        _, h_n, c_n, cells = result
        if keep_cells and cells.dim() > 1:
            cells = self.joined(cells.movedim(2, 0)).movedim(0, 2)
        return result._replace(h_n=self.joined(h_n), c_n=self.joined(c_n) if c_n.dim() > 1 else c_n, cells=cells)


ONE_HEAD = Heads(1, 0)
"""Of all units, however many: nothing is in another order."""
