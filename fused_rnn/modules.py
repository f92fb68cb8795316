"""The layers and cells: torch.nn's parameters, arguments, errors and results, with fused kernels behind them.

The classes derive from torch.nn.RNNBase and RNNCellBase, which hold the parameters, and not from torch.nn.LSTM and the
like, because torch.compile recognises those and runs them outside of its graph.

The file is over 400 lines because it is the reference for users: most of it is documentation.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from itertools import chain
from typing import Any, Literal, TypeAlias, TypeVar, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fused_rnn import _checks
from fused_rnn._calls import CellCalls, LayerCalls, state_like_input, two_states
from fused_rnn._flat_weights import FlatWeights, held
from fused_rnn._layers import LayerSpec, run_cell, run_stack, run_unchecked, step_unchecked, step_without_units
from fused_rnn._ops import CELLS
from fused_rnn._scripting import Unscriptable
from fused_rnn._tensors import DirectionWeights
from fused_rnn._tracing import PROXY_ERRORS, Traceable, leaf
from fused_rnn._variants import NAMES, PLAIN, Variants, parameters_of, take_variants

Device: TypeAlias = torch.device | str | int | None
DType: TypeAlias = torch.dtype | None
State: TypeAlias = tuple[Tensor, Tensor]

Steps = TypeVar("Steps", Tensor, PackedSequence)  # the output is packed where the input is

CELL_OF_MODE = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}
CELL_OF_NONLINEARITY = {"tanh": "rnn_tanh", "relu": "rnn_relu"}
_CELL_WEIGHTS, _CELL_BIASES = ("weight_ih", "weight_hh"), ("bias_ih", "bias_hh")


class RecurrentLayer(Unscriptable, Traceable, LayerCalls, FlatWeights):
    """What LSTM, GRU and RNN share: parameters by name, and the way from arguments to the stack of layers."""

    # The class has the defaults, for modules that were pickled before there were variants.
    layer_norm = peephole = recompute = False
    zoneout: float | tuple[float, float] = 0.0
    recurrent_dropout = weight_dropout = 0.0
    cell_clip: float | None = None
    _sizes_changed = False  # whether somebody has changed input_size or hidden_size since the layer was made

    def __init__(self, mode: str, *args: Any, **kwargs: Any) -> None:
        variants = take_variants(type(self).__name__, kwargs, lstm=mode == "LSTM")
        super().__init__(mode, *args, **kwargs)
        if variants == PLAIN:
            return
        if any(variants.zoneouts) and self.proj_size:
            raise ValueError(f"{type(self).__name__}: zoneout and proj_size together are not supported")
        for name in NAMES:
            setattr(self, name, getattr(variants, name))
        sizes = {name: size for name, (_, size) in self._variant_parameters().items()}
        weight = held(self, self._all_weights[0][:1])[0]
        for suffix in self._suffixes():
            for name, size in sizes.items():
                self.register_parameter(name + suffix, torch.nn.Parameter(weight.new_empty(size)))
        if sizes:  # the others have been drawn, and the same seed is to give those of torch.nn
            self.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the attribute; calls compare sizes with the parameters only where somebody has changed them."""
        if name in {"input_size", "hidden_size"} and self.__dict__.get(name, value) != value:
            self.__dict__["_sizes_changed"] = True
        super().__setattr__(name, value)

    def _suffixes(self) -> list[str]:
        """What the names of the parameters of each direction of each layer end with."""
        return [names[0].removeprefix("weight_ih") for names in self._all_weights]

    def _variants(self) -> Variants:
        zoneout = self.zoneout if self.zoneout != (0.0, 0.0) else 0.0
        values = (
            self.layer_norm, zoneout, self.recurrent_dropout, self.weight_dropout, self.peephole, self.cell_clip,
            self.recompute,
        )  # fmt: skip
        return PLAIN if values == PLAIN[:-1] else Variants(*values, training=self.training)

    def _variant_parameters(self) -> dict[str, tuple[str, int]]:
        gates = CELLS[CELL_OF_MODE[self.mode]].gates
        return parameters_of(
            self._variants(), gates=gates, hidden_size=self.hidden_size, lstm=self.mode == "LSTM", bias=self.bias
        )

    def reset_parameters(self) -> None:
        """Draw weights and biases as torch.nn does; the gains of norms are 1, and the biases beside them 0."""
        super().reset_parameters()
        if not self.layer_norm:
            return
        for name, parameter in self.named_parameters():
            if name.startswith(("gain_", "bias_")):
                torch.nn.init.constant_(parameter, 1.0 if name.startswith("gain_") else 0.0)

    def extra_repr(self) -> str:
        """The arguments of the constructor that are not the defaults."""
        pairs = zip(NAMES, self._variants(), PLAIN, strict=False)
        return ", ".join((super().extra_repr(), *(f"{name}={value}" for name, value, plain in pairs if value != plain)))

    @property
    def cell(self) -> str:
        """The name of the cell in the compiled library: lstm, lstm_peephole, gru, rnn_tanh or rnn_relu."""
        return "lstm_peephole" if self._variants().unit_weights else CELL_OF_MODE[self.mode]

    def _direction(self, tensors: list[Any]) -> DirectionWeights:
        """The parameters of one direction, without the variants'."""
        if not self.bias:
            tensors[2:2] = (None, None)
        return DirectionWeights(*tensors)

    def _layers(
        self, variants: Variants | None = None, tensors: list[Any] | None = None
    ) -> list[list[DirectionWeights]]:
        """The parameters of every direction of every layer; `tensors` are torch.nn's, where they have been read."""
        variants = self._variants() if variants is None else variants
        self._check_structure()
        tensors = self._weights(self._flat_weights_names) if tensors is None else tensors
        number = len(self._all_weights[0])
        directions = [self._direction(tensors[at : at + number]) for at in range(0, len(tensors), number)]
        if variants is not PLAIN:
            fields = {name: field for name, (field, _) in self._variant_parameters().items()}
            for index, suffix in enumerate(self._suffixes()):
                values = held(self, [name + suffix for name in fields])
                directions[index] = directions[index]._replace(**dict(zip(fields.values(), values, strict=True)))
        step = 2 if self.bidirectional else 1
        return [directions[first : first + step] for first in range(0, len(directions), step)]

    def _check_structure(self) -> None:
        """The parameters are those of the attributes, which somebody may have set since."""
        number = self.num_layers * (2 if self.bidirectional else 1)
        tensors = 2 + 2 * bool(self.bias) + bool(self.proj_size)
        if [len(names) for names in self._all_weights] != [tensors] * number:
            raise RuntimeError(
                f"{type(self).__name__}: got an incorrect number of RNN parameters: num_layers, bidirectional, bias "
                f"and proj_size ask for {tensors * number} tensors, but there are {len(self._flat_weights_names)}"
            )
        if not self._sizes_changed:
            return
        rows = CELLS[CELL_OF_MODE[self.mode]].gates * self.hidden_size
        names, widths = self._all_weights[0], (self.input_size, self.proj_size or self.hidden_size)
        for name, weight, width in zip(names, self._weights(names[:2]), widths, strict=False):
            if weight.shape != (rows, width):
                raise RuntimeError(
                    f"{type(self).__name__}: input_size, hidden_size and proj_size ask for {name} of shape "
                    f"{[rows, width]}, but it has {list(weight.shape)}"
                )

    def _run(self, x: Any, hx: Any, lengths: Any, resets: Any, return_cells: bool) -> Any:
        """What `forward` returns; for torch.fx a leaf."""
        try:
            found = self._run_unchecked(x, hx) if lengths is None and resets is None and not return_cells else None
            output, h_n, c_n, cells = found or self._run_checked(x, hx, lengths, resets, return_cells)
        except PROXY_ERRORS as error:
            return leaf(error, self, (x, hx), {"lengths": lengths, "resets": resets, "return_cells": return_cells})
        if self.mode != "LSTM":
            return output, h_n
        return (output, (h_n, c_n), cells) if return_cells else (output, (h_n, c_n))

    def _run_checked(
        self, x: Tensor | PackedSequence, hx: Any, lengths: Any, resets: Any, return_cells: bool
    ) -> tuple[Any, Tensor, Tensor, Any]:
        """Output, h_n, c_n and cells ([0] where there are none) in the layout of the input."""
        if return_cells and self.mode != "LSTM":
            raise TypeError(f"{type(self).__name__}: return_cells needs a cell state, which only the LSTM has")
        tensors = self._weights(self._flat_weights_names)  # once, since a parametrization computes them
        _checks.refuse_expanded_weights(type(self).__name__, tensors)
        sequence, h_0, c_0, ragged = self._prepare(tensors[0], x, hx, lengths, resets)
        dropout = self.dropout if self.training else 0.0
        variants = self._variants()
        layers = self._layers(variants, tensors)
        _checks.check_parameter_devices(sequence, zip(self._all_weights, chain.from_iterable(layers), strict=True))
        cell = CELL_OF_MODE[self.mode] if variants is PLAIN else self.cell
        spec = LayerSpec(cell, self.hidden_size, variants, ragged)
        output, h_n, c_n, cells = run_stack(spec, sequence, layers, h_0, c_0, dropout=dropout, keep_cells=return_cells)
        output = self._like_input(x, output, ragged.places)
        if return_cells:
            cells = self._like_input(x, cells, ragged.places)
        return output, state_like_input(x, h_n), state_like_input(x, c_n), cells

    def _run_unchecked(self, x: Any, hx: Any) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """The same the short way, for single steps are short; None where it has to be the long one."""
        if self._sizes_changed or self.num_layers != 1 or self.bidirectional or type(x) is not Tensor or x.dim() != 3:
            return None
        tensors = (4 if self.bias else 2) + (1 if self.proj_size else 0)
        names = self._all_weights
        if len(names) != 1 or len(names[0]) != tensors or self._variants() is not PLAIN:
            return None
        h_0, c_0 = hx, None
        if self.mode == "LSTM" and hx is not None:
            if type(hx) is not tuple or len(hx) != 2:
                return None
            h_0, c_0 = hx
            if h_0 is None or c_0 is None:
                return None
        weights = self._direction(self._weights(names[0]))
        steps = x.transpose(0, 1) if self.batch_first else x
        found = run_unchecked(CELL_OF_MODE[self.mode], steps, weights, h_0, c_0)
        if found is None:
            return None
        output = found.output
        return output.transpose(0, 1) if self.batch_first else output, found.h_n, found.c_n, found.cells


class LSTM(RecurrentLayer):
    """A stack of long short-term memory layers over a whole sequence, as torch.nn.LSTM.

    Every layer computes, with the gates stacked in the order i, f, g, o in its parameters::

        i, f, o = sigmoid(W_i x + b_i + U_i h + d_i), ...      g = tanh(W_g x + b_g + U_g h + d_g)
        c' = f * c + i * g                                     h' = o * tanh(c')

    With `proj_size` > 0 the state is W_hr h' instead of h'. P is `proj_size` or else `hidden_size` (H), D is 2 when
    bidirectional and 1 otherwise, L is `num_layers`. The arguments from `layer_norm` on are keywords that torch.nn does
    not have; their formulas are in docs/design.md, their parameters are called as all others (`gain_ih_l0_reverse`).

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state.
        num_layers: layers on top of each other.
        bias: whether there are biases.
        batch_first: input and output are [B, T, features] instead of [T, B, features]; states are not affected.
        dropout: probability of dropping an output of any layer but the last, in training mode.
        bidirectional: a second direction reads the sequence from its end; outputs are concatenated.
        proj_size: width of the projected hidden state, smaller than `hidden_size`; 0 for none.
        device: where the parameters are.
        dtype: type of the parameters: float32, float64, bfloat16 or float16.
        layer_norm: norms of W_ih x, of W_hh h and of c' where h' is made of it (Ba et al., 2016), each over all units
            of a row and step, with parameters `gain_ih`, `gain_hh` [4*H] (the biases follow the norms), `gain_c` and
            `bias_c` [H]. Not beside `peephole` and `cell_clip`.
        zoneout: probability with which a unit of h and of c keeps its value at a step (Krueger et al., 2017), or one
            for h and one for c; in evaluation mode the state is the mean. Not beside `proj_size`.
        recurrent_dropout: probability of dropping a unit of h where it enters W_hh, the same ones at all steps of a
            sequence (Gal and Ghahramani, 2016); in training mode.
        weight_dropout: probability of dropping an entry of W_hh, for all steps and rows of a call (Merity et al.,
            2018); in training mode.
        peephole: i and f also see c, and o sees c' (Gers et al., 2002), each unit its own, with the parameter
            `weight_peephole` [3*H] in the order i, f, o.
        cell_clip: c' is clipped to [-cell_clip, cell_clip] before o and h' see it; None for no limit.
        recompute: keep little for the backward pass, which runs the sequence again, in segments of the square root of T
            (at least 32 steps) where there is one direction. Not under the gradients of torch.func. A compiled function
            must not change the weights between the call and its gradients, which torch's checkpoint does not notice.

    Called with:
        input: [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence.
        hx: (h_0 [L*D, B, P], c_0 [L*D, B, H]) or without B where the input has no batch; None is zero.
        lengths: [B] integers on any device, nothing where the input has no batch: row b ends before step lengths[b],
            where the reverse direction starts and whose state is final. Output beyond it is zero; the input there may
            be anything.
        resets: [T, B] bool ([B, T] with `batch_first`, [T] without a batch): the state of a row is zero before the
            step, in either direction, and no gradient goes further back. Padding is not reset.
        return_cells: the cell state after each step of the last layer is returned too.

    Returns:
        output [T, B, D*P], (h_n, c_n), in the layout of the arguments; with `return_cells` also cells [T, B, D*H].

    Raises:
        ValueError, TypeError: an argument of the constructor, or the type or number of dimensions of the input.
        RuntimeError: sizes, devices and states that do not fit.
        NotImplementedError: a device, layout or dtype without kernels.

    Differences from torch.nn.LSTM: T = 0 works (the output is empty, the final state is the initial one), it is not an
    instance of torch.nn.LSTM, and it is not scriptable by torch.jit.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997; the variant of torch.nn.LSTM's documentation;
    the projection is that of Sak et al., 2014.

    Example::

        layer = fused_rnn.LSTM(16, 32, num_layers=2)
        output, (h_n, c_n) = layer(torch.randn(5, 3, 16))  # [5, 3, 32], [2, 3, 32], [2, 3, 32]
    """

    @overload
    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Device = None,
        dtype: DType = None, *, layer_norm: bool = False, zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0, weight_dropout: float = 0.0, peephole: bool = False,
        cell_clip: float | None = None, recompute: bool = False,
    ) -> None: ...  # fmt: skip

    @overload
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    # What torch.nn.LSTM has of its own, for code that checks arguments or permutes states itself.
    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    check_forward_args = torch.nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = torch.nn.LSTM.permute_hidden  # type: ignore[assignment]

    _states = two_states

    @overload
    def forward(
        self, input: Steps, hx: State | None = None, *, lengths: Tensor | None = None, resets: Tensor | None = None,
        return_cells: Literal[False] = False,
    ) -> tuple[Steps, State]: ...  # fmt: skip

    @overload
    def forward(
        self, input: Steps, hx: State | None = None, *, lengths: Tensor | None = None, resets: Tensor | None = None,
        return_cells: Literal[True],
    ) -> tuple[Steps, State, Steps]: ...  # fmt: skip

    def forward(
        self, input: Any, hx: State | None = None, *, lengths: Tensor | None = None, resets: Tensor | None = None,  # noqa: A002
        return_cells: bool = False,
    ) -> Any:  # fmt: skip
        """Run the sequence; see the class for shapes."""
        return self._run(input, hx, lengths, resets, return_cells)


class GRU(RecurrentLayer):
    """A stack of gated recurrent unit layers over a whole sequence, as torch.nn.GRU.

    Every layer computes, with the gates stacked in the order r, z, n in its parameters::

        r, z = sigmoid(W_r x + b_r + U_r h + d_r), ...         n = tanh(W_n x + b_n + r * (U_n h + d_n))
        h' = (1 - z) * n + z * h

    D is 2 when bidirectional and 1 otherwise, L is `num_layers`, H is `hidden_size`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state.
        num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as of `LSTM`.
        layer_norm: as of `LSTM`, with `gain_ih` and `gain_hh` [3*H]; r and z are normalized together, n alone.
        zoneout: as of `LSTM`, one probability.
        recurrent_dropout, weight_dropout, recompute: as of `LSTM`; they are keywords, too.

    Called with:
        input: [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence.
        hx: h_0 [L*D, B, H], without B where the input has no batch; None is zero.
        lengths, resets: as of `LSTM`.

    Returns:
        output [T, B, D*H], h_n [L*D, B, H], in the layout of the arguments.

    Raises:
        As `LSTM`.

    Differences from torch.nn.GRU: as those of `LSTM` from torch.nn.LSTM.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, in the variant of cuDNN and
    of torch.nn.GRU's documentation, where the reset gate applies after the product.

    Example::

        layer = fused_rnn.GRU(16, 32, bidirectional=True)
        output, h_n = layer(torch.randn(5, 3, 16))  # [5, 3, 64], [2, 3, 32]
    """

    @overload
    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Device = None, dtype: DType = None, *,
        layer_norm: bool = False, zoneout: float = 0.0, recurrent_dropout: float = 0.0, weight_dropout: float = 0.0,
        recompute: bool = False,
    ) -> None: ...  # fmt: skip

    @overload
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        super().__init__("GRU", *args, **kwargs)

    def forward(
        self, input: Steps, hx: Tensor | None = None, *, lengths: Tensor | None = None, resets: Tensor | None = None,  # noqa: A002
        return_cells: bool = False,
    ) -> tuple[Steps, Tensor]:  # fmt: skip
        """Run the sequence; see the class for shapes."""
        found: tuple[Steps, Tensor] = self._run(input, hx, lengths, resets, return_cells)
        return found


class RNN(RecurrentLayer):
    """A stack of Elman layers over a whole sequence, as torch.nn.RNN.

    Every layer computes ``h' = tanh(W x + b + U h + d)``, or relu in place of tanh. D is 2 when bidirectional and 1
    otherwise, L is `num_layers`, H is `hidden_size`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state.
        nonlinearity: "tanh" or "relu".
        num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as of `LSTM`.
        layer_norm: as of `LSTM`, with `gain_ih` and `gain_hh` [H].
        zoneout: as of `LSTM`, one probability.
        recurrent_dropout, weight_dropout, recompute: as of `LSTM`; they are keywords, too.

    Called with:
        input: [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence.
        hx: h_0 [L*D, B, H], without B where the input has no batch; None is zero.
        lengths, resets: as of `LSTM`.

    Returns:
        output [T, B, D*H], h_n [L*D, B, H], in the layout of the arguments.

    Raises:
        As `LSTM`.

    Differences from torch.nn.RNN: as those of `LSTM` from torch.nn.LSTM.

    Source: Elman, "Finding structure in time", 1990; torch.nn.RNN's documentation.

    Example::

        layer = fused_rnn.RNN(16, 32, nonlinearity="relu", batch_first=True)
        output, h_n = layer(torch.randn(3, 5, 16))  # [3, 5, 32], [1, 3, 32]
    """

    @overload
    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Device = None,
        dtype: DType = None, *, layer_norm: bool = False, zoneout: float = 0.0, recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0, recompute: bool = False,
    ) -> None: ...  # fmt: skip

    @overload
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        if len(args) > 3:
            nonlinearity = args[3]
            args = (*args[:3], *args[4:])
        else:
            nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in CELL_OF_NONLINEARITY:
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)
        self.nonlinearity: str = nonlinearity  # not in the class: torch.jit reads annotations there, and stops at them

    def forward(
        self, input: Steps, hx: Tensor | None = None, *, lengths: Tensor | None = None, resets: Tensor | None = None,  # noqa: A002
        return_cells: bool = False,
    ) -> tuple[Steps, Tensor]:  # fmt: skip
        """Run the sequence; see the class for shapes."""
        found: tuple[Steps, Tensor] = self._run(input, hx, lengths, resets, return_cells)
        return found


def _refuse_projection(arguments: dict[str, Any]) -> None:
    if "proj_size" in arguments:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class RecurrentCell(Unscriptable, Traceable, CellCalls, torch.nn.RNNCellBase):
    """What the three cells share: one step of a recurrence of one layer."""

    def _step(self, cell: str, x: Tensor, hx: Any) -> Any:
        """What `forward` returns; for torch.fx a leaf."""
        try:
            states = () if hx is None else self._states(hx)
            weights = DirectionWeights(*held(self, _CELL_WEIGHTS), *held(self, _CELL_BIASES, needed=False))
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
        _checks.refuse_expanded_weights(type(self).__name__, weights)
        x, states, batched = self._prepare(weights.w_ih, x, states)
        _checks.check_parameter_devices(x, [(("weight_ih",), weights)])
        if self.hidden_size == 0:
            made = step_without_units(x, weights, states, states_made=2 if cell == "lstm" else 1)
        else:
            made = run_cell(cell, x, weights, self.hidden_size, states)
        return made if batched else tuple(state.squeeze(0) for state in made)


class LSTMCell(RecurrentCell):
    """One step of a long short-term memory, as torch.nn.LSTMCell; the formulas are in `LSTM`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state; 0 gives empty states.
        bias: whether there are biases.
        device: where the parameters are.
        dtype: type of the parameters: float32, float64, bfloat16 or float16.

    Called with:
        input: [B, I], or [I] without a batch.
        hx: (h_0 [B, H], c_0 [B, H]), or each [H] without a batch; None is zero.

    Returns:
        (h_1, c_1), each [B, H], or [H] without a batch. One node of autograd's graph makes both, so that h_1 does not
        depend on the returned c_1, as in torch.nn's cell on a GPU; on a CPU torch's h_1 does.

    Raises:
        ValueError, TypeError: wrong numbers of dimensions, or a state that is not a pair of tensors.
        RuntimeError: sizes, types, devices and states that do not fit.
        NotImplementedError: a device, layout or dtype without kernels.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997; torch.nn.LSTMCell's documentation.

    Example::

        cell = fused_rnn.LSTMCell(16, 32)
        h, c = cell(torch.randn(3, 16))
        h, c = cell(torch.randn(3, 16), (h, c))  # [3, 32], [3, 32]
    """

    _names = _labels = ("hx[0]", "hx[1]")
    _states = two_states

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Device = None, dtype: DType = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: State | None = None) -> State:  # noqa: A002
        """Make one step; see the class for shapes."""
        found: State = self._step("lstm", input, hx)  # h and c, in a tuple
        return found


class GRUCell(RecurrentCell):
    """One step of a gated recurrent unit, as torch.nn.GRUCell; the formulas are in `GRU`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state; 0 gives empty states.
        bias, device, dtype: as of `LSTMCell`.

    Called with:
        input: [B, I], or [I] without a batch.
        hx: h_0 [B, H], or [H] without a batch; None is zero.

    Returns:
        h_1 [B, H], or [H] without a batch.

    Raises:
        As `LSTMCell`.

    Source: Cho et al., 2014, in the variant of cuDNN and of torch.nn.GRUCell's documentation.

    Example::

        cell = fused_rnn.GRUCell(16, 32)
        h = cell(torch.randn(3, 16))
        h = cell(torch.randn(3, 16), h)  # [3, 32]
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Device = None, dtype: DType = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """Make one step; see the class for shapes."""
        found: Tensor = self._step("gru", input, hx)
        return found


class RNNCell(RecurrentCell):
    """One step of an Elman recurrence, as torch.nn.RNNCell: ``h' = tanh(W x + b + U h + d)``, or relu.

    Args:
        input_size: features I of the input.
        hidden_size: units H of the hidden state; 0 gives empty states.
        nonlinearity: "tanh" or "relu".
        bias, device, dtype: as of `LSTMCell`.

    Called with:
        input: [B, I], or [I] without a batch.
        hx: h_0 [B, H], or [H] without a batch; None is zero.

    Returns:
        h_1 [B, H], or [H] without a batch.

    Raises:
        As `LSTMCell`; RuntimeError for an unknown nonlinearity, too.

    Source: Elman, "Finding structure in time", 1990; torch.nn.RNNCell's documentation.

    Example::

        cell = fused_rnn.RNNCell(16, 32, nonlinearity="relu")
        h = cell(torch.randn(3, 16))
        h = cell(torch.randn(3, 16), h)  # [3, 32]
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Device = None,
        dtype: DType = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity: str = nonlinearity  # not in the class: torch.jit reads annotations there, and stops at them

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """Make one step; see the class for shapes."""
        if self.nonlinearity not in CELL_OF_NONLINEARITY:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        found: Tensor = self._step(CELL_OF_NONLINEARITY[self.nonlinearity], input, hx)
        return found
