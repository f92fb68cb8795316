"""One step at a time with packed weights: for streams, control loops and inference at the edge."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor

from fused_rnn import _ops
from fused_rnn._checks import check_batch_size, title_of
from fused_rnn._modes import increment_version
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._signatures import advised
from fused_rnn._swap import make_weights, warn_of_own_code
from fused_rnn._variants import unit_weights
from fused_rnn.convert import convert
from fused_rnn.quantized import QuantizedLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

Step = TypeVar("Step", Tensor, "np.ndarray[Any, Any]")

_STORAGES = {None: "exact", torch.bfloat16: "bfloat16", torch.int8: "int8"}
_NOT_STEPPED = ("layer_norm", "zoneout")  # what the steps of a layer in evaluation mode would need


def _check_parameters(layer: RecurrentLayer, parameters: Sequence[Sequence[Tensor | None]], dtype: torch.dtype) -> None:
    """Native code takes their addresses, and what it finds there has the type and shape that it assumes."""
    spec, width = _ops.CELLS[layer.cell], layer.proj_size or layer.hidden_size
    rows, recurrent_rows = spec.gates * layer.hidden_size, spec.recurrent_gates * layer.hidden_size
    heads = layer._heads.number
    for index, tensors in enumerate(parameters):
        shapes = {
            "weight_ih": (rows, width if index else layer.input_size),
            "weight_hh": (recurrent_rows, width // heads),
            "bias_ih": (rows,),
            "bias_hh": (recurrent_rows,),
            "weight_hr": (width, layer.hidden_size),
            "the unit weights": (heads, spec.unit_weights, layer.hidden_size // heads),
        }
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            if tensor is not None and (tensor.dtype != dtype or tensor.shape != shape):
                given = f"{tensor.dtype} {tuple(tensor.shape)}"
                raise ValueError(f"{name} of layer {index} must be {dtype} of shape {shape}, got {given}")


class SteppedLayer(NamedTuple):
    """A layer that can make single steps, as native code takes it."""

    layer: RecurrentLayer
    # w_ih, w_hh, b_ih, b_hh, w_hr and the unit weights of each layer, head by head
    parameters: Sequence[tuple[Tensor | None, ...]]
    dtype: torch.dtype
    weights: torch.dtype | None  # how matrices are kept; None: exactly


def _layers_in(model: object) -> str:
    """For a model in the place of a layer: which of its modules are layers."""
    if not isinstance(model, torch.nn.Module):
        return ""
    recurrent = (torch.nn.RNNBase, QuantizedLayer)
    names = [name for name, module in model.named_modules() if name and isinstance(module, recurrent)]
    return f": give one of its layers, {' or '.join(map(repr, names))}" if names else ""


def stepped_layer(layer: torch.nn.Module, weights: torch.dtype | None, name: str = "layer") -> SteppedLayer:
    """The parameters of a layer, which messages call `name`, checked; raises what `Stepper` says of its arguments.

    There need be no kernels for its cell.
    """
    layer = convert(layer) if isinstance(layer, torch.nn.RNNBase) else layer
    if isinstance(layer, QuantizedLayer):
        if weights not in {None, torch.int8}:
            raise TypeError(f"weights must be None or torch.int8 for an int8 layer, got {weights!r}")
        layer, weights = layer.dequantized(), torch.int8
    if not isinstance(layer, RecurrentLayer):
        raise TypeError(f"{name} must be an LSTM, GRU or RNN, got {type(layer).__name__}{_layers_in(layer)}")
    if layer.bidirectional:
        raise ValueError(f"{name} must have one direction: the other one would need the end of the sequence first")
    if weights not in _STORAGES:
        raise TypeError(f"weights must be None, torch.bfloat16 or torch.int8, got {weights!r}")
    make_weights(layer)
    refused = [option for option in _NOT_STEPPED if getattr(layer, option)]
    if refused:
        raise NotImplementedError(f"{name} has {' and '.join(refused)}, which a Stepper does not compute")
    variants, heads = layer._variants(), layer._heads
    directions = [w if heads.number == 1 else heads.of_weights(w) for (w,) in layer._layers()]
    weight = directions[0].w_ih
    for each in (tensor for tensors in directions for tensor in tensors if tensor is not None):
        if not each.is_cpu:
            raise NotImplementedError(f"{name} must be on the CPU, got {each.device}")
    if weight.dtype != torch.float32 and (weight.dtype != torch.float64 or weights is not None):
        wanted = "float32 or float64" if weights is None else f"float32 to keep its weights as {weights}"
        raise ValueError(f"{name} must be of type {wanted}, got {weight.dtype}")
    with torch.no_grad():
        of_units = [unit_weights(variants, [w], layer.hidden_size, heads.number) for w in directions]
    parameters = [(*w[:5], own) for w, own in zip(directions, of_units, strict=True)]
    if layer.cell in _ops.LOADED and weights is not None:
        raise NotImplementedError(f"a Stepper of the cell {title_of(layer.cell)} needs exact weights, weights=None")
    _check_parameters(layer, parameters, weight.dtype)
    return SteppedLayer(layer, parameters, weight.dtype, weights)


class Stepper:
    """A recurrent layer, or a stack of them, that takes one time step per call and keeps its state.

    The weights are packed when the stepper is made and the state stays in packed buffers, so that a step is little more
    than its arithmetic. The stepper computes what the layer would in evaluation mode: no dropout. It has no gradients,
    and a copy of the weights: make another one after the layer has changed. Steps of several threads take turns.

    A copy (`copy.copy`, `copy.deepcopy`) is another stream: it goes on from the same state, which is its own from then
    on, and has the same packed weights. A stepper has no pickle, since its weights are packed for this processor.

    Args:
        layer: an LSTM, GRU or RNN of fused_rnn or torch.nn, in one direction, on CPU, of float32 or float64; a
            `Recurrent` likewise, with exact weights; or one of `fused_rnn.quantized`.
        batch_size: rows B that are stepped together.
        weights: how the matrices of a float32 layer are kept. None: exactly, but where torch's switch
            `torch.backends.mkldnn.rnn.fp32_precision` says "bf16" as the stepper is made, products take factors that
            are rounded to bfloat16, on processors that multiply it. torch.bfloat16: in half of the memory, which is for
            layers that do not fit the caches; what they multiply stays float32. torch.int8: in a quarter, with products
            of int8, as in `fused_rnn.quantize`.

    Raises:
        TypeError: `layer` is not a recurrent layer, or `weights` not one of the above.
        ValueError: a layer in two directions, a batch size below 1, or a layer of another type than float32 (or, with
            exact weights, float64).
        NotImplementedError: a layer with layer_norm or zoneout, or not on CPU.

    Warns:
        UserWarning: the layer has forward hooks, or its class a forward of its own, which steps do not run.

    Example::

        stepper = fused_rnn.Stepper(fused_rnn.GRU(16, 32))
        y = stepper.step(torch.randn(1, 16))  # [1, 32], as is the output of the layer at this step
        stepper.reset()
    """

    @advised
    def __init__(self, layer: torch.nn.Module, batch_size: int = 1, *, weights: torch.dtype | None = None) -> None:
        given = layer
        layer, parameters, self._dtype, weights = stepped_layer(layer, weights)
        warn_of_own_code("Stepper", [given], 3)
        layer._prepare_kernels()
        if layer.cell in _ops.LOADED and self._dtype not in _ops.LOADED[layer.cell]:
            raise NotImplementedError(f"a Stepper of the cell {title_of(layer.cell)} needs kernels for {self._dtype}")
        check_batch_size(batch_size)
        width = layer.proj_size or layer.hidden_size
        self._x_shape, self._y_shape = (batch_size, layer.input_size), (batch_size, width)
        self._h_shape = (layer.num_layers, batch_size, width)
        self._states = _ops.CELLS[layer.cell].states
        self._units = layer.hidden_size
        others = (self._states - 1) * layer.hidden_size
        self._c_shape = (layer.num_layers, batch_size, others) if others else None
        self._description = f"{layer}, batch_size={batch_size}, weights={weights}"
        heads = layer._heads.number
        sizes = {"hidden_size": layer.hidden_size // heads, "heads": heads}
        sizes |= {name: getattr(layer, name) for name in ("input_size", "proj_size")}
        storage = _STORAGES[weights]
        self._hold(_ops.make_stepper(layer.cell, parameters, storage=storage, batch=batch_size, **sizes))

    def _hold(self, native: Any) -> None:
        self._native, self._step_plain = native, native.plain_step()

    def __repr__(self) -> str:
        return f"Stepper({self._description})"

    def __copy__(self) -> Stepper:
        made = self.__class__.__new__(self.__class__)
        made.__dict__.update(self.__dict__)
        made._hold(self._native.clone())
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Stepper:
        made = memo[id(self)] = self.__copy__()
        native = made.__dict__.pop("_native"), made.__dict__.pop("_step_plain")
        made.__dict__.update(copy.deepcopy(made.__dict__, memo))
        made._native, made._step_plain = native
        return made

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a Stepper cannot be pickled, since its weights are packed for this processor: pickle the layer and the "
            "stepper's state, and make another Stepper of them"
        )

    def step(self, x: Step, out: Any = None) -> Step:
        """Make one step.

        Args:
            x: [B, I], a Tensor or a numpy array of the layer's type; [I] where the batch size is 1.
            out: where to write the result, contiguous, of the kind, type and shape of what is returned otherwise; then
                nothing is allocated.

        Returns:
            The output of the last layer, [B, P] or [P], of the kind of `x`; `out` where it was given.

        Raises:
            TypeError: x or out is neither a Tensor nor an array, or has another type than the layer.
            ValueError: wrong shape, or an out that is not contiguous or read-only.
            RuntimeError: a gradient is wanted for x or out.
        """
        if type(x) is Tensor and not x.requires_grad and not x.is_neg():  # native code sees to the rest
            if out is None:
                made: Any = torch.empty(self._y_shape[2 - x.dim() :], dtype=self._dtype, device="cpu")
                if self._step_plain(x, made):
                    return made  # type: ignore[no-any-return]
            elif type(out) is Tensor and not (out.requires_grad or out.is_neg()) and self._step_plain(x, out):
                increment_version((out,))
                return out
        if not isinstance(x, Tensor):
            result: Step = self._with_arrays(self.step, x, out)
            return result
        y_shape: tuple[int, ...] = self._y_shape
        if x.shape != self._x_shape:
            if x.shape != self._x_shape[1:] or self._x_shape[0] != 1:
                raise ValueError(f"x must have shape (B, input_size) = {self._x_shape}, got {tuple(x.shape)}")
            y_shape = y_shape[1:]
        y: Step = self._run(x, out, y_shape, 1)
        return y

    def steps(self, x: Step, out: Any = None) -> Step:
        """Make the steps of a block, such as a buffer of audio, in one call: the same values as `step` for each.

        Args:
            x: [T, B, I], a Tensor or a numpy array of the layer's type; [T, I] where the batch size is 1. T may be 0.
            out: as for `step`; what was there before may be `x` only where P = I.

        Returns:
            The outputs of the last layer, [T, B, P] or [T, P], of the kind of `x`; `out` where it was given.

        Raises the errors of `step`.

        Example::

            stepper = fused_rnn.Stepper(fused_rnn.GRU(1, 32))
            y = stepper.steps(torch.randn(64, 1))  # [64, 32]: 64 samples of one channel
        """
        if not isinstance(x, Tensor):
            result: Step = self._with_arrays(self.steps, x, out)
            return result
        y_shape: tuple[int, ...] = (*x.shape[:1], *self._y_shape)
        if x.shape[1:] != self._x_shape:
            if x.shape[1:] != self._x_shape[1:] or self._x_shape[0] != 1:
                wanted = ", ".join(("T", *map(str, self._x_shape)))
                raise ValueError(f"x must have shape (T, B, input_size) = ({wanted}), got {tuple(x.shape)}")
            y_shape = (*x.shape[:1], *self._y_shape[1:])
        y: Step = self._run(x, out, y_shape, x.shape[0])
        return y

    def _run(self, x: Tensor, out: Any, y_shape: tuple[int, ...], count: int) -> Any:
        """`count` steps from x to a result of shape `y_shape`, which `out` is if it is given."""
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("x requires grad, but a Stepper has no gradients: call it under torch.no_grad()")
        if x.dtype != self._dtype or not x.is_cpu:
            raise TypeError(f"x must be a {self._dtype} tensor on the CPU, got {x.dtype} on {x.device}")
        if out is None:
            out = torch.empty(y_shape, dtype=self._dtype, device="cpu")
        elif not isinstance(out, Tensor) or out.dtype != self._dtype or not out.is_cpu:
            raise TypeError(f"out must be a {self._dtype} tensor on the CPU")
        elif out.shape != y_shape or not out.is_contiguous() or out.is_neg():
            raise ValueError(f"out must be contiguous, of shape {y_shape}, got {tuple(out.shape)}")
        else:
            if out.requires_grad and torch.is_grad_enabled():
                raise RuntimeError("out requires grad, but a Stepper has no gradients: call it under torch.no_grad()")
            increment_version((out,))
        x = x.contiguous().resolve_neg()
        self._native.steps(x.data_ptr(), out.data_ptr(), count)
        return out

    def _with_arrays(self, call: Any, x: Any, out: Any) -> Any:
        """The same call on tensors in the memory of numpy arrays."""
        for name, value in (("x", x), ("out", out)):
            if not (hasattr(value, "__array_interface__") or (name == "out" and value is None)):
                kind = "a numpy array, as x is" if name == "out" else "a Tensor or a numpy array"
                raise TypeError(f"{name} must be {kind}, got {type(value).__name__}")
        if out is not None and not out.flags.writeable:
            raise ValueError("out must be writeable")
        # torch warns of read-only memory, such as numpy.frombuffer makes, and has no negative strides.
        if not x.flags.writeable or min(x.strides, default=0) < 0:
            x = x.copy()
        y = call(torch.from_numpy(x), None if out is None else torch.from_numpy(out))
        return y.numpy() if out is None else out

    def reset(self, rows: Any = None) -> None:
        """Make the state zero, of all rows or of those where `rows` [B] bool is true."""
        if rows is None:
            self._native.reset(0)
            return
        if not isinstance(rows, Tensor) or rows.dtype != torch.bool or rows.shape != self._x_shape[:1]:
            raise ValueError(f"rows must be a bool tensor of shape (B,) = {self._x_shape[:1]}")
        if rows.is_meta:
            raise ValueError("rows must have memory, got a tensor on meta")
        rows = rows.cpu().contiguous()
        self._native.reset(rows.data_ptr())

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed matrices, padded to whole vectors of units."""
        size: int = self._native.weight_bytes
        return size

    @property
    def state(self) -> Any:
        """A copy of the state, as the layer takes and returns it: (h [L, B, P], c [L, B, H]), or h alone.

        It can be set to such a state, or to None, which is zero.
        """
        h = torch.empty(self._h_shape, dtype=self._dtype, device="cpu")
        if self._c_shape is None:
            self._native.get_state(h.data_ptr(), h.data_ptr())
            return h
        c = torch.empty(self._c_shape, dtype=self._dtype, device="cpu")
        self._native.get_state(h.data_ptr(), c.data_ptr())
        return (h, *(part.clone() for part in c.chunk(self._states - 1, 2))) if self._states > 2 else (h, c)

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self.reset()
            return
        several, count = self._c_shape is not None, self._states
        shapes = [self._h_shape] if count == 1 else [self._h_shape, *[(*self._h_shape[:2], self._units)] * (count - 1)]
        names = [f"state[{k}]" for k in range(count)] if several else ["state"]
        states = value if several else (value,)
        if several and (not isinstance(value, (tuple, list)) or len(value) != count):
            wanted = "(h, c) of two tensors" if count == 2 else f"of {count} tensors"
            raise TypeError(f"state must be a tuple {wanted}, or None")
        held = []
        for name, shape, each in zip(names, shapes, states, strict=True):
            if not isinstance(each, Tensor) or each.dtype != self._dtype or each.shape != shape or not each.is_cpu:
                given = f"{each.dtype} {tuple(each.shape)}" if isinstance(each, Tensor) else type(each).__name__
                raise ValueError(f"{name} must be a {self._dtype} tensor on the CPU of shape {shape}, got {given}")
            held.append(each.detach().contiguous().resolve_neg())
        others = torch.cat(held[1:], 2) if count > 2 else held[-1]
        self._native.set_state(held[0].data_ptr(), others.data_ptr())
