"""Recurrent layers and cells with int8 weights for inference on CPU, and `quantize`, which makes them in a model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fused_rnn import _checks, modules
from fused_rnn._calls import CellCalls, LayerCalls, state_like_input
from fused_rnn._checks import Lengths, Resets, two_states
from fused_rnn._int8_layers import Int8Matrix, dequantize_rows, quantize_rows, run_stack
from fused_rnn._layers import REGULAR
from fused_rnn._modes import has_tangent, has_tangents
from fused_rnn._quantizable import float_weights, suffixes_of, why_not_quantized
from fused_rnn._recurrent_layer import CELL_OF_MODE
from fused_rnn._scripting import Unscriptable
from fused_rnn._signatures import advised, refuse_keywords, without_unknown
from fused_rnn._swap import Swap, carry_attributes, described, swap
from fused_rnn._tensors import QuantizedWeights
from fused_rnn._tracing import PROXY_ERRORS, Traceable, leaf

_Model = TypeVar("_Model", bound=torch.nn.Module)
_Bases = tuple[type[torch.nn.Module], ...]

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
_OF_FLOAT_LAYERS = ("_all_weights", "_flat_weights_names", "_sizes_changed")  # attributes that have no meaning here


@advised
def quantize(model: _Model, *, inplace: bool = False) -> _Model:
    """Swap every LSTM, GRU, RNN and cell of this package and of torch.nn in `model` for one with int8 weights.

    The new layers (`fused_rnn.quantized`) keep their matrices in int8, a quarter of the memory, and round what enters
    a product, rows of x and of h, to int8 at run time; states and results are float32. Nothing is calibrated. They are
    for inference on CPU: they have no gradients and no dropout, in training mode neither. Attributes and hooks move
    along; a parametrization is computed once and is gone.

    Left, with a warning, are layers of another type than float32, not on CPU, with layer_norm, zoneout, peephole or
    cell_clip, of no features or units or more than 65536, whose weights a hook makes (as old weight norm and pruning
    do), and subclasses with a behaviour of their own.

    Args:
        model: any module; a recurrent layer itself, too.
        inplace: whether `model` itself is changed; otherwise a copy of it is, which holds all else of the model again.

    Returns:
        The model with int8 layers, or the int8 layer where `model` itself is a layer.

    Raises:
        TypeError: `model` is not a torch.nn.Module.

    Warns:
        UserWarning: layers were left, by name and reason; or there was no layer to quantize.

    Example::

        model = torch.nn.ModuleDict({"encoder": fused_rnn.LSTM(16, 32)})
        small = fused_rnn.quantize(model)
        output, _ = small["encoder"](torch.randn(5, 3, 16))
    """
    classes: dict[type[torch.nn.Module], type[QuantizedModule]] = {
        base: kind for kind in (LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell) for base in kind._bases
    }
    rule = Swap("quantize", list(classes), why_not_quantized, lambda module, base: classes[base](module))
    swapped = swap(model if inplace or not isinstance(model, torch.nn.Module) else copy.deepcopy(model), rule)
    if swapped.found == 0:
        warnings.warn(
            f"fused_rnn.quantize found no LSTM, GRU, RNN or cell of float weights in {described(model)}",
            stacklevel=3,
        )
    return cast("_Model", swapped.model)


class QuantizedModule(Unscriptable, Traceable):
    """What all int8 layers and cells share: their parameters, in buffers that keep their types.

    A matrix `weight_ih_l0` is int8, and row r of it stands for `weight_ih_l0_scale[r]` times its integers. Biases are
    float32, under their names in torch.nn.
    """

    _bases: ClassVar[_Bases]  # the classes of torch.nn and of this package that it takes the place of

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        base = next((each for each in self._bases if isinstance(layer, each)), None)
        if base is None:
            wanted = " or ".join(f"{each.__module__.partition('.')[0]}'s {each.__name__}" for each in self._bases)
            raise TypeError(f"layer must be {wanted}, got {type(layer).__name__}")
        reasons = why_not_quantized(layer, base)
        if reasons:
            raise ValueError(f"layer cannot be quantized: {type(layer).__name__} {' and '.join(reasons)}")
        weights, suffixes = float_weights(layer), suffixes_of(layer)
        carry_attributes(layer, self)
        for name in _OF_FLOAT_LAYERS:
            self.__dict__.pop(name, None)
        for name in weights:
            self._parameters.pop(name, None)
        self._modules.pop("parametrizations", None)
        self._suffixes = suffixes
        for name, tensor in weights.items():
            value = tensor.detach()
            if name.startswith("bias"):
                self.register_buffer(name, value.clone())
                continue
            matrix = quantize_rows(value)
            self.register_buffer(name, matrix.rows)
            self.register_buffer(f"{name}_scale", matrix.scale)

    def _matrix(self, name: str) -> Int8Matrix:
        return Int8Matrix(self._buffers[name], self._buffers[f"{name}_scale"])  # type: ignore[arg-type]

    def _own_buffers(self) -> list[str]:
        """The names of the buffers that are the parameters."""
        found = [f"{name}{suffix}" for layer in self._suffixes for suffix in layer for name in _NAMES]
        return [each for name in found for each in (name, f"{name}_scale") if each in self._buffers]

    def _layers(self) -> list[list[QuantizedWeights]]:
        """The parameters of every direction of every layer."""
        get = self._buffers.get
        return [
            [
                QuantizedWeights(
                    *self._matrix(f"weight_ih{suffix}"),
                    get(f"bias_ih{suffix}"),
                    *self._matrix(f"weight_hh{suffix}"),
                    get(f"bias_hh{suffix}"),
                    get(f"weight_hr{suffix}"),
                    get(f"weight_hr{suffix}_scale"),
                )
                for suffix in layer
            ]
            for layer in self._suffixes
        ]

    def _check_kind(self, x: Any, mismatch: type[Exception]) -> None:
        """The input, if it is a tensor, is float32 on CPU, or of any type under autocast, which has none for int8."""
        if not isinstance(x, Tensor):
            return  # which later checks see
        owner = type(self).__name__
        if x.dtype != torch.float32 and not torch.is_autocast_enabled(x.device.type):
            raise mismatch(
                f"{owner}: input must have dtype torch.float32, got {x.dtype}: int8 layers take and return float32"
            )
        if not (x.is_cpu or x.is_meta):
            raise NotImplementedError(f"{owner}: input is on {x.device}; int8 layers run on cpu alone")

    def _in_float32(self, x: Tensor, states: Sequence[Tensor | None]) -> tuple[Any, ...]:
        """X and states, which want no gradient and are where the parameters are, in float32."""
        owner, names = type(self).__name__, ("input", *(("hx",) if len(states) == 1 else ("hx[0]", "hx[1]")))
        for name, tensor in zip(names, (x, *states), strict=True):
            if tensor is not None and has_tangents() and (torch.compiler.is_compiling() or has_tangent(tensor)):
                raise RuntimeError(f"{owner}: {name} has a tangent, but int8 layers have no derivatives")
            if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(
                    f"{owner}: {name} requires grad, but int8 layers have no gradients: call the model under "
                    f"torch.no_grad() or torch.inference_mode(), or give {name}.detach()"
                )
        for name in self._own_buffers():
            buffer = self._buffers[name]
            if buffer is not None and buffer.device != x.device:
                _checks.check_device(x, "parameter", name, buffer)
        return tuple(None if tensor is None else tensor.to(torch.float32) for tensor in (x, *states))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the parameters, whose types stay: .half(), .double() and .to(dtype) are errors."""
        for dtype in (torch.int8, torch.float32):
            made = fn(torch.empty(0, dtype=dtype, device="cpu"))
            if made.dtype != dtype:
                raise TypeError(
                    f"{type(self).__name__} has int8 weights with float32 scales, which cannot be {made.dtype}: give "
                    "the other modules their type before fused_rnn.quantize"
                )
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Load, but no float matrix, which would be cut to integers without a word."""
        for name in self._own_buffers():
            given, own = state_dict.get(prefix + name), self._buffers[name]
            if isinstance(given, Tensor) and own is not None and given.dtype != own.dtype:
                others[-1].append(
                    f"{prefix}{name} must have dtype {own.dtype}, got {given.dtype}: load weights of another type into "
                    "the float model, and quantize it again"
                )
                return
        super()._load_from_state_dict(state_dict, prefix, *others)

    def dequantized(self) -> Any:
        """A float layer or cell of this package, with the weights that the int8 ones stand for."""
        layer: Any = self._bases[1](*self._sizes(), device="cpu", dtype=torch.float32)
        tensors = {
            name: dequantize_rows(self._matrix(name)) if name.startswith("weight") else self._buffers[name]
            for name in self._own_buffers()
            if not name.endswith("_scale")
        }
        layer.load_state_dict(tensors)
        return layer.train(self.training)

    def _sizes(self) -> Sequence[Any]:
        """The arguments of the float class, up to device."""
        raise NotImplementedError


class QuantizedLayer(LayerCalls, QuantizedModule):
    """What int8 LSTM, GRU and RNN share: the call."""

    if TYPE_CHECKING:  # torch.jit reads the annotations of classes
        mode: str
        bias: bool
        dropout: float

    @property
    def cell(self) -> str:
        """The name of the cell in the compiled library: lstm, gru, rnn_tanh or rnn_relu."""
        return CELL_OF_MODE[self.mode]

    @without_unknown
    def forward(
        self, input: Any, hx: Any = None, *, lengths: Lengths | None = None, resets: Resets | None = None,  # noqa: A002
        return_cells: bool = False, **unknown: NoReturn,
    ) -> Any:  # fmt: skip
        """Run the sequence; shapes are those of the float layer."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        try:
            return self._run(input, hx, lengths, resets, return_cells)
        except PROXY_ERRORS as error:
            keywords = {"lengths": lengths, "resets": resets, "return_cells": return_cells}
            return leaf(error, self, (input, hx), keywords)

    def _run(self, x: Any, hx: Any, lengths: Any, resets: Any, return_cells: bool) -> Any:
        """What `forward` returns."""
        if return_cells and self.mode != "LSTM":
            raise TypeError(f"{type(self).__name__}: return_cells needs a cell state, which only the LSTM has")
        if return_cells:
            raise NotImplementedError(f"{type(self).__name__}: int8 layers return no cells, only the last ones")
        self._check_kind(x.data if isinstance(x, PackedSequence) else x, ValueError)
        # The check of types compares with a scale, whose type is that of the input.
        scale = cast("Tensor", self._buffers["weight_ih_l0_scale"])
        sequence, h_0, c_0, ragged = self._prepare(scale, x, hx, lengths, resets)
        states = (h_0, c_0) if self.mode == "LSTM" else (h_0,)
        sequence, h_0, c_0 = (*self._in_float32(sequence, states), None)[:3]
        output, h_n, c_n = run_stack(self.cell, sequence, self._layers(), h_0, c_0, ragged)
        output, h_n = self._like_input(x, output, ragged.places), state_like_input(x, h_n)
        return (output, (h_n, state_like_input(x, c_n))) if self.mode == "LSTM" else (output, h_n)

    def _sizes(self) -> Sequence[Any]:
        options: list[Any] = [self.num_layers, self.bias, self.batch_first, self.dropout, self.bidirectional]
        if isinstance(self, RNN):
            options.insert(1, self.nonlinearity)
        return (self.input_size, self.hidden_size, *options, *((self.proj_size,) if self.mode == "LSTM" else ()))

    def extra_repr(self) -> str:
        """The arguments of the float layer that are not the defaults."""
        return f"{torch.nn.RNNBase.extra_repr(cast('torch.nn.RNNBase', self))}, weights=int8"


class LSTM(QuantizedLayer):
    """An LSTM with int8 weights, made of one of torch.nn or of this package.

    Args:
        layer: the float layer, float32 on CPU, without layer_norm, zoneout, peephole and cell_clip.

    Called as `fused_rnn.LSTM`, with the same results but for the int8 rounding, float32 on CPU and without gradients;
    `return_cells` is refused. Under autocast, input and states of other types are taken as float32.

    Raises:
        TypeError, ValueError: `layer` is none, or one that `quantize` would leave.
        RuntimeError: a gradient is wanted; and as `fused_rnn.LSTM`.

    Example::

        layer = fused_rnn.quantized.LSTM(fused_rnn.LSTM(16, 32))
        output, (h_n, c_n) = layer(torch.randn(5, 3, 16))  # [5, 3, 32], [1, 3, 32], [1, 3, 32]
    """

    _bases = (torch.nn.LSTM, modules.LSTM)
    _states = two_states


class GRU(QuantizedLayer):
    """A GRU with int8 weights, as `LSTM`.

    Example::

        layer = fused_rnn.quantized.GRU(fused_rnn.GRU(16, 32))
        output, h_n = layer(torch.randn(5, 3, 16))  # [5, 3, 32], [1, 3, 32]
    """

    _bases = (torch.nn.GRU, modules.GRU)


class RNN(QuantizedLayer):
    """An Elman layer with int8 weights, as `LSTM`.

    Example::

        layer = fused_rnn.quantized.RNN(fused_rnn.RNN(16, 32))
        output, h_n = layer(torch.randn(5, 3, 16))  # [5, 3, 32], [1, 3, 32]
    """

    _bases = (torch.nn.RNN, modules.RNN)
    if TYPE_CHECKING:
        nonlinearity: str


class QuantizedCell(CellCalls, QuantizedModule):
    """What int8 LSTMCell, GRUCell and RNNCell share: one step."""

    if TYPE_CHECKING:
        bias: bool

    def _cell(self) -> str:
        """The name of the cell in the compiled library."""
        raise NotImplementedError

    @without_unknown
    def forward(self, input: Any, hx: Any = None, **unknown: NoReturn) -> Any:  # noqa: A002
        """Make one step; shapes are those of the float cell."""
        if type(unknown) is dict and unknown:
            refuse_keywords(self, unknown)
        try:
            return self._step(input, hx)
        except PROXY_ERRORS as error:
            return leaf(error, self, (input, hx), {})

    def _step(self, x: Any, hx: Any) -> Any:
        """What `forward` returns."""
        self._check_kind(x, RuntimeError)
        scale = cast("Tensor", self._buffers["weight_ih_scale"])
        given = () if hx is None else self._states(hx)
        x, states, batched = self._prepare(scale, x, given)
        padded = (*states, *[None] * (len(self._names) - len(states)))
        x, *states = self._in_float32(x, padded)
        h_0, c_0 = [*(None if state is None else state.unsqueeze(0) for state in states), None][:2]
        _, *made = run_stack(self._cell(), x.unsqueeze(0), self._layers(), h_0, c_0, REGULAR)
        results = [state[0] if batched else state[0, 0] for state in made[: len(self._names)]]
        return tuple(results) if len(results) == 2 else results[0]

    def _sizes(self) -> Sequence[Any]:
        nonlinearity = (self.nonlinearity,) if isinstance(self, RNNCell) else ()
        return (self.input_size, self.hidden_size, self.bias, *nonlinearity)

    def extra_repr(self) -> str:
        """The arguments of the float cell that are not the defaults."""
        return f"{torch.nn.RNNCellBase.extra_repr(cast('torch.nn.RNNCellBase', self))}, weights=int8"


class LSTMCell(QuantizedCell):
    """An LSTMCell with int8 weights, as `LSTM`.

    Example::

        cell = fused_rnn.quantized.LSTMCell(fused_rnn.LSTMCell(16, 32))
        h, c = cell(torch.randn(3, 16))  # [3, 32], [3, 32]
    """

    _bases = (torch.nn.LSTMCell, modules.LSTMCell)
    _names = _labels = ("hx[0]", "hx[1]")
    _states = two_states

    def _cell(self) -> str:
        return "lstm"


class GRUCell(QuantizedCell):
    """A GRUCell with int8 weights, as `LSTM`.

    Example::

        cell = fused_rnn.quantized.GRUCell(fused_rnn.GRUCell(16, 32))
        h = cell(torch.randn(3, 16))  # [3, 32]
    """

    _bases = (torch.nn.GRUCell, modules.GRUCell)

    def _cell(self) -> str:
        return "gru"


class RNNCell(QuantizedCell):
    """An RNNCell with int8 weights, as `LSTM`.

    Example::

        cell = fused_rnn.quantized.RNNCell(fused_rnn.RNNCell(16, 32))
        h = cell(torch.randn(3, 16))  # [3, 32]
    """

    _bases = (torch.nn.RNNCell, modules.RNNCell)
    if TYPE_CHECKING:
        nonlinearity: str

    def _cell(self) -> str:
        return modules.CELL_OF_NONLINEARITY[self.nonlinearity]
