"""What a call of a layer or cell is given and returns: torch.nn's arguments, checked, and results in their layout.

The classes of modules.py and of quantized.py derive from these, which have no parameters and no state.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from typing import TYPE_CHECKING, Any

from torch import Tensor  # noqa: TC002 - the same
from torch.nn.utils.rnn import PackedSequence

from fused_rnn import _checks
from fused_rnn._checks import one_state
from fused_rnn._layers import Ragged
from fused_rnn._packed import gather_steps, pad, permuted
from fused_rnn._ragged import check_lengths, check_resets


class LayerCalls:
    """The calls of a stack of layers."""

    if TYPE_CHECKING:  # torch.jit reads the annotations of classes
        input_size: int
        hidden_size: int
        proj_size: int
        num_layers: int
        batch_first: bool
        bidirectional: bool

    _states = one_state

    def _prepare(
        self, weight: Tensor, x: Tensor | PackedSequence, hx: Any, lengths: Any = None, resets: Any = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Ragged]:
        """X as [T, B, I], h_0 as [L*D, B, P], c_0 as [L*D, B, H] and where rows end, from checked arguments.

        `weight` is the one that meets the input.
        """
        if isinstance(x, PackedSequence):
            _checks.check_packed(x, lengths, resets)
            return self._prepare_packed(weight, x, hx)
        forms = _checks.BATCH_FIRST_FORMS if self.batch_first else _checks.LAYER_FORMS
        _checks.check_dimensions(type(self).__name__, x, forms)
        batched = x.dim() == 3
        states = () if hx is None else self._states(hx)
        if states:
            _checks.check_layer_state_dimensions(states, x)
        _checks.check_layer_input(x, weight, self.input_size, forms[int(batched)])  # dynamo of torch 2.11 takes no bool
        if not batched:
            x = x.unsqueeze(1)
            states = tuple(state.unsqueeze(1) for state in states)
        elif self.batch_first:
            x = x.transpose(0, 1)
        h_0, c_0 = self._checked(x, states, batch_first=self.batch_first) if states else (None, None)
        if lengths is not None:
            lengths = check_lengths(lengths, x, batched=batched, batch_first=self.batch_first)
        if resets is not None:
            resets = check_resets(resets, x, batched=batched, batch_first=self.batch_first)
        return x, h_0, c_0, Ragged(lengths, resets)

    def _prepare_packed(
        self, weight: Tensor, packed: PackedSequence, hx: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Ragged]:
        """The same for a packed sequence, with its order of rows."""
        states = () if hx is None else self._states(hx)
        _checks.check_layer_input(packed.data, weight, self.input_size, _checks.PACKED_FORM)
        x, lengths, places = pad(packed)
        h_0, c_0 = self._checked(x, states, batch_first=None) if states else (None, None)
        h_0, c_0 = (None if state is None else permuted(state, packed.sorted_indices) for state in (h_0, c_0))
        return x, h_0, c_0, Ragged(lengths, places=places)

    def _checked(
        self, x: Tensor, states: Sequence[Tensor], *, batch_first: bool | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """h_0 and c_0 from one or two states, which fit x [T, B, I]."""
        rows = self.num_layers * (2 if self.bidirectional else 1)
        names = ("hx",) if len(states) == 1 else ("hx[0]", "hx[1]")
        units = ("proj_size", self.proj_size) if self.proj_size else ("hidden_size", self.hidden_size)
        for state, name, (word, width) in zip(states, names, (units, ("hidden_size", self.hidden_size)), strict=False):
            _checks.check_layer_state(state, name, (rows, x.shape[1], width), word, x, batch_first=batch_first)
        return states[0], states[1] if len(states) == 2 else None

    def _like_input(self, x: Tensor | PackedSequence, steps: Tensor, places: Any) -> Any:
        """Steps [T, B, N] in the layout of the input, whose elements have `places` if it is packed."""
        if isinstance(x, PackedSequence):
            return PackedSequence(gather_steps(steps, places), x.batch_sizes, x.sorted_indices, x.unsorted_indices)
        if x.dim() == 2:
            return steps.squeeze(1)
        return steps.transpose(0, 1) if self.batch_first else steps


class CellCalls:
    """The calls of a cell."""

    if TYPE_CHECKING:
        input_size: int
        hidden_size: int

    _names: tuple[str, ...] = ("hx",)  # what errors call the states
    _labels: tuple[str, ...] = ("hidden",)  # what torch.nn calls them
    _states = one_state

    def _prepare(self, weight: Tensor, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor], bool]:
        """X as [B, I] and states as [B, H], checked, and whether they had a batch; `weight` meets the input."""
        owner = type(self).__name__
        _checks.check_dimensions(owner, x, _checks.CELL_FORMS)
        _checks.check_cell_state_dimensions(owner, states, self._names, self._labels, x)
        batched = x.dim() == 2
        if not batched:
            x = x.unsqueeze(0)
            states = [state.unsqueeze(0) for state in states]
        _checks.check_cell_sizes(x, states, self._names, self.input_size, self.hidden_size)
        _checks.check_cell_kinds(x, weight, states, self._names)
        return x, states, batched


def state_like_input(x: Tensor | PackedSequence, state: Tensor) -> Tensor:
    """A final state [L*D, B, units] in the layout of the input; [0] stays."""
    if state.dim() == 1:
        return state
    if isinstance(x, PackedSequence):
        return permuted(state, x.unsorted_indices)
    return state.squeeze(1) if x.dim() == 2 else state
