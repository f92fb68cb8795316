"""What the layers LSTM, GRU and RNN share: parameters by name, and the way from arguments to the stack of layers.

The class derives from torch.nn.RNNBase, which holds the parameters, and not from torch.nn.LSTM and the like, because
torch.compile recognises those and runs them outside of its graph.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - the same
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence  # noqa: TC002 - typing.get_type_hints looks the name up

from fused_rnn import _checks
from fused_rnn._calls import LayerCalls, state_like_input
from fused_rnn._flat_weights import FlatWeights, held
from fused_rnn._heads import ONE_HEAD, Heads
from fused_rnn._layers import LayerSpec, run_stack, run_unchecked
from fused_rnn._ops import CELLS
from fused_rnn._scripting import Unscriptable
from fused_rnn._tensors import DirectionWeights, joined_unchecked, separated
from fused_rnn._tracing import PROXY_ERRORS, Traceable, leaf
from fused_rnn._variants import NAMES, PLAIN, Variants, checked_variants, parameters_of

CELL_OF_MODE = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


class RecurrentLayer(Unscriptable, Traceable, LayerCalls, FlatWeights):
    """A stack of recurrent layers; the subclass says of which cell."""

    # The class has the defaults, for modules that were pickled before there were variants.
    layer_norm = peephole = recompute = False
    zoneout: float | tuple[float, float] = 0.0
    recurrent_dropout = weight_dropout = 0.0
    cell_clip: float | None = None
    _heads: Heads = ONE_HEAD  # of a direction
    _factors = 2  # x and h, each of which has a matrix
    _kernels = ""  # of a cell that is not built in, their name
    _state_count = 1  # h, and what the cell keeps beside it
    _keyword = "return_cells"  # of `forward`, for the states after each step
    _sizes_changed = False  # whether somebody has changed a size (or num_heads) since the layer was made

    def __init__(self, mode: str, variants: Variants, *arguments: Any) -> None:
        variants = checked_variants(type(self).__name__, variants, lstm=mode == "LSTM")
        super().__init__(mode, *arguments)
        if variants != PLAIN and self._take_options(variants):  # torch.nn's weights have been drawn without the others
            self.reset_parameters()

    def _take_options(self, variants: Variants) -> list[str]:
        """Have the checked options, and their parameters, of which the names are returned; gains are 1, others 0."""
        self._check_projection(variants)
        self.__dict__.update({name: getattr(variants, name) for name in NAMES})
        sizes = {name: size for name, (_, size) in self._variant_parameters().items()}
        weight = held(self, self._all_weights[0][:1])[0]
        names = {name + suffix: size for suffix in self._suffixes() for name, size in sizes.items()}
        for name, size in names.items():
            value = weight.detach().new_full((size,), 1.0 if name.startswith("gain_") else 0.0)
            self.register_parameter(name, torch.nn.Parameter(value))
        return list(names)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the attribute; calls compare sizes with the parameters only where somebody has changed them."""
        if name in NAMES:
            value = self._checked_option(name, value)
        elif name in {"input_size", "hidden_size", "num_heads"} and self.__dict__.get(name, value) != value:
            self.__dict__["_sizes_changed"] = True
        super().__setattr__(name, value)

    def _check_projection(self, variants: Variants) -> None:
        if any(variants.zoneouts) and self.proj_size:
            raise ValueError(f"{type(self).__name__}: zoneout and proj_size together are not supported")

    def _checked_option(self, name: str, value: Any) -> Any:
        """A new value of one of the variants, of which the parameters stay those that the constructor made."""
        owner, given = type(self).__name__, {**{each: getattr(self, each) for each in NAMES}, name: value}
        variants = checked_variants(owner, Variants(**given), lstm=self.mode == "LSTM")
        self._check_projection(variants)
        for parameter in self._parameters_of(variants):
            if not hasattr(self, parameter + self._suffixes()[0]):
                raise ValueError(
                    f"{owner}: {name}={value!r} needs parameters {parameter}, which this layer does not have: give "
                    f"{name} to the constructor"
                )
        return getattr(variants, name)

    def _prepare_kernels(self) -> None:
        """Have the kernels of the cell, where they are not built in."""

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
        return self._parameters_of(self._variants())

    def _parameters_of(self, variants: Variants) -> dict[str, tuple[str, int]]:
        """Those of variants, by name: see `parameters_of`."""
        gates = CELLS[self._plain_cell].gates
        return parameters_of(
            variants, gates=gates, hidden_size=self.hidden_size, lstm=self.mode == "LSTM", bias=self.bias
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
        return "lstm_peephole" if self._variants().unit_weights else self._plain_cell

    @property
    def _plain_cell(self) -> str:
        """The same without variants."""
        return self._kernels or CELL_OF_MODE[self.mode]

    def _direction(self, tensors: list[Any], names: Sequence[str]) -> DirectionWeights:  # noqa: ARG002 - own cells'
        """The parameters of one direction, of which torch.nn's have those names, without the variants'."""
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
        directions = [
            self._direction(tensors[index * number : (index + 1) * number], names)
            for index, names in enumerate(self._all_weights)
        ]
        if variants is not PLAIN:
            suffixes = self._suffixes()
            directions = [self._with_variants(variants, *each) for each in zip(directions, suffixes, strict=True)]
        step = 2 if self.bidirectional else 1
        return [directions[first : first + step] for first in range(0, len(directions), step)]

    def _with_variants(self, variants: Variants, weights: DirectionWeights, suffix: str) -> DirectionWeights:
        """The parameters of one direction with those of its variants, whose names have that end."""
        fields = {name + suffix: field for name, (field, _) in self._parameters_of(variants).items()}
        return weights._replace(**dict(zip(fields.values(), held(self, list(fields)), strict=True)))

    def _check_structure(self) -> None:
        """The parameters are those of the attributes, which somebody may have set since."""
        number = self.num_layers * (2 if self.bidirectional else 1)
        tensors = self._factors * (1 + bool(self.bias)) + bool(self.proj_size)
        if [len(names) for names in self._all_weights] != [tensors] * number:
            raise RuntimeError(
                f"{type(self).__name__}: got an incorrect number of RNN parameters: num_layers, bidirectional, bias "
                f"and proj_size ask for {tensors * number} tensors, but there are {len(self._flat_weights_names)}"
            )
        if not self._sizes_changed:
            return
        rows = CELLS[self._plain_cell].gates * self.hidden_size
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
            return leaf(error, self, (x, hx), {"lengths": lengths, "resets": resets, self._keyword: return_cells})
        final: Any = h_n
        others = self._state_count - 1
        if others > 0:
            final = (h_n, c_n) if others == 1 else (h_n, *separated(c_n, 1, others))
        return (output, final, self._after_steps(output, cells)) if return_cells else (output, final)

    def _after_steps(self, output: Any, cells: Any) -> Any:  # noqa: ARG002 - what own cells return
        """What `forward` returns of the states after each step, beside the output."""
        return cells

    def _run_checked(
        self, x: Tensor | PackedSequence, hx: Any, lengths: Any, resets: Any, return_cells: bool
    ) -> tuple[Any, Tensor, Tensor, Any]:
        """Output, h_n, c_n and cells ([0] where there are none) in the layout of the input."""
        if return_cells and CELLS[self._plain_cell].states == 1:
            raise TypeError(f"{type(self).__name__}: return_cells needs a cell state, which only the LSTM has")
        tensors = self._weights(self._flat_weights_names)  # once, since a parametrization computes them
        _checks.refuse_expanded_weights(type(self).__name__, tensors)
        sequence, h_0, c_0, ragged = self._prepare(tensors[0], x, hx, lengths, resets)
        dropout = self.dropout if self.training else 0.0
        variants = self._variants()
        layers = self._layers(variants, tensors)
        _checks.check_parameter_devices(sequence, zip(self._all_weights, chain.from_iterable(layers), strict=True))
        cell = (CELL_OF_MODE.get(self.mode) if variants is PLAIN else None) or self.cell
        spec = LayerSpec(cell, self.hidden_size, variants, ragged, self._heads)
        output, h_n, c_n, cells = run_stack(spec, sequence, layers, h_0, c_0, dropout=dropout, keep_cells=return_cells)
        output = self._like_input(x, output, ragged.places)
        if return_cells:
            cells = self._like_input(x, cells, ragged.places)
        return output, state_like_input(x, h_n), state_like_input(x, c_n), cells

    def _run_unchecked(self, x: Any, hx: Any) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """The same the short way, for single steps are short; None where it has to be the long one."""
        if self._sizes_changed or self.num_layers != 1 or self.bidirectional or type(x) is not Tensor or x.dim() != 3:
            return None
        tensors = self._factors * (2 if self.bias else 1) + (1 if self.proj_size else 0)
        names, count = self._all_weights, self._state_count
        variants = self._variants()
        if len(names) != 1 or len(names[0]) != tensors:
            return None
        if variants.layer_norm or variants.recompute:
            return None
        h_0, c_0 = hx, None
        if count > 1 and hx is not None:
            if type(hx) is not tuple or len(hx) != count:
                return None
            h_0, c_0 = hx if count == 2 else (hx[0], joined_unchecked(hx))
            if h_0 is None or c_0 is None:
                return None
        weights = self._direction(self._weights(names[0]), names[0])
        cell = self._kernels or CELL_OF_MODE[self.mode]
        if variants is not PLAIN and variants.unit_weights:
            cell, weights = "lstm_peephole", self._with_variants(variants, weights, self._suffixes()[0])
        steps = x.transpose(0, 1) if self.batch_first else x
        found = run_unchecked(cell, steps, weights, h_0, c_0, variants, self._heads)
        if found is None:
            return None
        output = found.output
        return output.transpose(0, 1) if self.batch_first else output, found.h_n, found.c_n, found.cells
