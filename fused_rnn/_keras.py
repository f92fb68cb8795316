"""Recurrent layers of Keras as ones of this package: what their configuration says, and their weights.

Keras has matrices as [inputs, G*H], the gates z, r, n where torch.nn has r, z, n, and one bias but for a GRU. A layer
with other functions than torch.nn's becomes a `Recurrent` of a cell that has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fused_rnn import modules
from fused_rnn._recurrent import Recurrent
from fused_rnn._recurrent_layer import RecurrentLayer  # noqa: TC001 - typing.get_type_hints looks the name up
from fused_rnn.cells import Cell, clip, exp, hard_sigmoid, relu, sigmoid, softplus, tanh
from fused_rnn.cells import abs as absolute

if TYPE_CHECKING:
    from collections.abc import Callable

_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exponential": exp,
    "hard_sigmoid": hard_sigmoid,
    "hard_sigmoid of Keras 2": lambda x: clip(0.2 * x + 0.5, 0, 1),
    "linear": lambda x: x,
    "relu": relu,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "softsign": lambda x: x / (1 + absolute(x)),
    "tanh": tanh,
}


class _KerasCell(Cell):
    """A cell with the functions that a layer of Keras names."""

    def __init__(self, activation: str = "tanh", recurrent_activation: str = "sigmoid") -> None:
        self.activation, self.recurrent_activation = activation, recurrent_activation

    def _functions(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        return _FUNCTIONS[self.activation], _FUNCTIONS[self.recurrent_activation]


class KerasLSTMCell(_KerasCell):
    """The LSTM of Keras."""

    gates = ("i", "f", "g", "o")
    states = ("h", "c")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        of_state, of_gate = self._functions()
        c = of_gate(gate.f) * state.c + of_gate(gate.i) * of_state(gate.g)
        return {"h": of_gate(gate.o) * of_state(c), "c": c}


class KerasGRUCell(_KerasCell):
    """The GRU of Keras with reset_after=True."""

    gates = ("r", "z", "n")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step."""
        of_state, of_gate = self._functions()
        z = of_gate(gate.z)
        return {"h": z * state.h + (1 - z) * of_state(gate.x.n + of_gate(gate.r) * gate.h.n)}


class KerasRNNCell(_KerasCell):
    """The SimpleRNN of Keras."""

    gates = ("a",)

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override] # noqa: ARG002
        """One step."""
        return {"h": self._functions()[0](gate.a)}


class _Kind(NamedTuple):
    order: tuple[int, ...]  # the places that torch.nn's gates have in Keras
    cell: type[_KerasCell]
    built_in: dict[tuple[str, str], Callable[..., RecurrentLayer]]  # layers by their two functions


_KINDS = {
    "LSTM": _Kind((0, 1, 2, 3), KerasLSTMCell, {("tanh", "sigmoid"): modules.LSTM}),
    "GRU": _Kind((1, 0, 2), KerasGRUCell, {("tanh", "sigmoid"): modules.GRU}),
    "SimpleRNN": _Kind(
        (0,),
        KerasRNNCell,
        {("tanh", "sigmoid"): modules.RNN, ("relu", "sigmoid"): partial(modules.RNN, nonlinearity="relu")},
    ),
}

# Options that change the results, the values that a layer here can have, and what to do instead.
_CARRIED: dict[str, tuple[Any, str]] = {
    "reset_after": (True, "whose reset gate acts before the product with h: train it with reset_after=True"),
    "go_backwards": (False, "which Bidirectional has alone: give the layer input.flip(1), and the config of False"),
    "stateful": (False, "which hands its state on: do so with hx, or by a Stepper, and give the config of False"),
    "time_major": (False, "give the config of False, and the layer the batch first"),
    "dropout": (0, "of the input, one mask for all steps: give the config of 0, and the layer such an input"),
    "recurrent_dropout": (0, "whose masks are drawn otherwise: give the config of 0, and set that of the layer"),
}


def keras_parameters(kind: str, arrays: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters of a direction by their names in torch.nn, from those of a layer of Keras."""
    order = _KINDS[kind].order

    def rows(columns: Tensor) -> Tensor:
        """[N, G*H] as [G*H, N], or [G*H] as it is, with torch.nn's order of gates."""
        parts = columns.t().chunk(len(order))
        return torch.cat([parts[gate] for gate in order])

    found = {"weight_ih": rows(arrays[0]), "weight_hh": rows(arrays[1])}
    if len(arrays) > 2:
        b_ih, b_hh = arrays[2] if kind == "GRU" else (arrays[2], torch.zeros_like(arrays[2]))
        found.update(bias_ih=rows(b_ih), bias_hh=rows(b_hh))
    return found


def from_keras(layer: Any, weights: Sequence[Any] | None = None) -> RecurrentLayer:
    """A layer with the weights of a keras.layers.LSTM, GRU, SimpleRNN, or of a Bidirectional of one.

    It has the batch first, and returns the output of all steps and the final state: what Keras returns with
    `return_sequences` and `return_state`. With the functions of torch.nn (tanh and sigmoid) it is an `LSTM`, `GRU` or
    `RNN`, with exponential, hard_sigmoid, linear, relu, softplus or softsign a `Recurrent`. Initializers, regularizers,
    constraints and `trainable` are left out. Keras is not imported.

    Args:
        layer: a layer of Keras that is built; or a dict with class_name and config, as keras.layers.serialize returns
            and the files of models have. The hard_sigmoid of a config with `implementation`, which Keras 2 writes, is
            that of Keras 2.
        weights: arrays in the order of the layer's get_weights(), for a dict; None: those of the layer.

    Returns:
        `LSTM`, `GRU`, `RNN` or `Recurrent`, of the type of the weights.

    Raises:
        NotImplementedError: another kind of layer or function, or an option that a layer here cannot have:
            reset_after=False, go_backwards, stateful, time_major, dropout, recurrent_dropout, another merge_mode than
            concat, two directions that differ.
        ValueError, TypeError: a dict or weights that do not fit.

    Example::

        ours = fused_rnn.from_keras(model.layers[0])
        output, h_n = ours(torch.from_numpy(batch))  # [B, T, I] -> [B, T, H]
    """
    name, config = _described(layer)
    if weights is None:
        if isinstance(layer, Mapping):
            raise TypeError(
                "from_keras: weights must be arrays, as get_weights() returns them, beside a dict, got None"
            )
        weights = layer.get_weights()
    directions = [(name, config)]
    if name == "Bidirectional":
        if config.get("merge_mode", "concat") != "concat":
            raise NotImplementedError(
                f"from_keras: layer has merge_mode={config['merge_mode']!r}: give the config of 'concat', and merge "
                "the two halves of the output"
            )
        inner = config.get("layer")
        backward, said = _described(config.get("backward_layer") or inner)
        directions = [_described(inner), (backward, {**said, "go_backwards": False})]
    kinds = [_checked(*direction) for direction in directions]
    if kinds[0] != kinds[-1]:
        raise NotImplementedError(f"from_keras: backward_layer must be as layer, got {kinds[-1]} and {kinds[0]}")
    arrays = [each if isinstance(each, Tensor) else torch.tensor(each, device="cpu") for each in weights]
    return _filled(*kinds[0], arrays, len(kinds))


def _described(layer: Any) -> tuple[str, Mapping[str, Any]]:
    """The name of a layer's class, and its configuration."""
    if isinstance(layer, Mapping):
        if not {"class_name", "config"} <= layer.keys():
            raise ValueError(f"from_keras: layer must have class_name and config, got {', '.join(map(str, layer))}")
        return layer["class_name"], layer["config"]
    if not hasattr(layer, "get_config"):
        raise TypeError(f"from_keras: layer must be a layer of Keras, or a dict of one, got {type(layer).__name__}")
    return type(layer).__name__, layer.get_config()


def _checked(name: str, config: Mapping[str, Any]) -> tuple[str, int, bool, tuple[str, str]]:
    """Of a layer of one direction the class, H, whether there are biases, and the names of the functions."""
    if name not in _KINDS:
        raise NotImplementedError(f"from_keras: layer must be one of {', '.join(_KINDS)}, Bidirectional, got {name}")
    for option, (carried, instead) in _CARRIED.items():
        if (value := config.get(option, carried)) != carried:
            raise NotImplementedError(f"from_keras: layer has {option}={value!r}, {instead}")
    units, functions = config.get("units"), []
    if not isinstance(units, int):
        raise ValueError(f"from_keras: layer must have units, an integer, got {units!r}")
    for option, usual in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        function = config.get(option, usual)
        if function is None:
            function = "linear"
        if function == "hard_sigmoid" and "implementation" in config:
            function = "hard_sigmoid of Keras 2"
        if not isinstance(function, str) or function not in _FUNCTIONS:
            raise NotImplementedError(f"from_keras: {option} must be one of {', '.join(_FUNCTIONS)}, got {function!r}")
        functions.append(function)
    return name, units, bool(config.get("use_bias", True)), (functions[0], functions[1])


def _filled(
    name: str, units: int, bias: bool, functions: tuple[str, str], arrays: list[Tensor], directions: int
) -> RecurrentLayer:
    """A layer of those functions with the parameters."""
    kind, number = _KINDS[name], 3 if bias else 2
    if len(arrays) != directions * number:
        hint = ": the layer of Keras is not built" if not arrays else ""
        raise ValueError(f"from_keras: weights must be {directions * number} arrays, got {len(arrays)}{hint}")
    columns, inputs = len(kind.order) * units, (*arrays[0].shape, 0)[0]
    shapes = [(inputs, columns), (units, columns), (2, columns) if name == "GRU" else (columns,)][:number] * directions
    for index, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if array.shape != shape or array.dtype != arrays[0].dtype:
            raise ValueError(
                f"from_keras: weights[{index}] must have shape {list(shape)} and type {arrays[0].dtype}, got "
                f"{list(array.shape)} and {array.dtype}"
            )
    options: dict[str, Any] = {
        "bias": bias,
        "batch_first": True,
        "bidirectional": directions == 2,
        "dtype": arrays[0].dtype,
    }
    if functions in kind.built_in:
        layer = kind.built_in[functions](inputs, units, **options)
    else:
        layer = Recurrent(kind.cell(*functions), inputs, units, **options)
    for suffix, first in (("_l0", 0), ("_l0_reverse", number))[:directions]:
        for each, tensor in keras_parameters(name, arrays[first : first + number]).items():
            getattr(layer, each + suffix).data.copy_(tensor)
    return layer
