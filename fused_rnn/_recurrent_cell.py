"""What the cells LSTMCell, GRUCell and RNNCell share: one step of a recurrence of one layer."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from typing import Any

import torch
from torch import Tensor

from fused_rnn import _checks
from fused_rnn._calls import CellCalls
from fused_rnn._flat_weights import held
from fused_rnn._layers import run_cell, step_unchecked, step_without_units
from fused_rnn._scripting import Unscriptable
from fused_rnn._tensors import DirectionWeights
from fused_rnn._tracing import PROXY_ERRORS, Traceable, leaf

_WEIGHTS, _BIASES = ("weight_ih", "weight_hh"), ("bias_ih", "bias_hh")


class RecurrentCell(Unscriptable, Traceable, CellCalls, torch.nn.RNNCellBase):
    """One step; the subclass says of which cell."""

    def _step(self, cell: str, x: Tensor, hx: Any) -> Any:
        """What `forward` returns; for torch.fx a leaf."""
        try:
            states = () if hx is None else self._states(hx)
            weights = DirectionWeights(*held(self, _WEIGHTS), *held(self, _BIASES, needed=False))
            if not states and weights.w_hh.shape[1] != self.hidden_size:
                raise RuntimeError(
                    f"hidden0 has inconsistent hidden_size: got {self.hidden_size}, expected "
                    f"{weights.w_hh.shape[1]}: the attribute hidden_size is not that of the parameters"
                )
            found = step_unchecked(cell, x, weights, states)
            if found is None:
                found = self._step_checked(cell, x, weights, states)
        except PROXY_ERRORS as error:
            return leaf(error, self, (x, hx), {})
        return found if cell == "lstm" else found[0]

    def _step_checked(
        self, cell: str, x: Tensor, weights: DirectionWeights, states: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The next hidden state, and cell state where there is one."""
        owner = type(self).__name__
        _checks.refuse_expanded_weights(owner, weights)
        x, states, batched = self._prepare(weights.w_ih, x, states)
        _checks.check_parameter_devices(x, [(("weight_ih",), weights)])
        if self.hidden_size == 0:
            made = step_without_units(x, weights, states, states_made=2 if cell == "lstm" else 1)
        else:
            made = run_cell(cell, x, weights, self.hidden_size, states)
        return made if batched else tuple(state.squeeze(0) for state in made)
