"""Layers with the weights of Keras' against Keras' formulas in plain numpy, and against Keras where it is installed.

Keras is part of no extra: `pip install keras`.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

INPUTS, UNITS, STEPS, ROWS = 3, 5, 7, 2
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": np.exp,
}
# The kind, what its config says, and the layer that it becomes.
LAYERS: list[tuple[str, dict[str, Any], type]] = [
    ("LSTM", {}, fused_rnn.LSTM),
    ("LSTM", {"use_bias": False}, fused_rnn.LSTM),
    ("LSTM", {"recurrent_activation": "hard_sigmoid"}, fused_rnn.Recurrent),
    ("LSTM", {"activation": "softsign", "recurrent_activation": "linear"}, fused_rnn.Recurrent),
    ("GRU", {"reset_after": True}, fused_rnn.GRU),
    ("GRU", {"use_bias": False}, fused_rnn.GRU),
    ("GRU", {"activation": "relu", "recurrent_activation": "hard_sigmoid"}, fused_rnn.Recurrent),
    ("SimpleRNN", {}, fused_rnn.RNN),
    ("SimpleRNN", {"activation": "relu"}, fused_rnn.RNN),
    ("SimpleRNN", {"activation": "softplus"}, fused_rnn.Recurrent),
    ("SimpleRNN", {"activation": None}, fused_rnn.Recurrent),
]
each_layer = pytest.mark.parametrize(("kind", "options", "expected"), LAYERS, ids=str)
each_direction = pytest.mark.parametrize("directions", [1, 2])


@pytest.fixture(autouse=True)
def _in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile no cell: that its kernels equal plain torch is asked elsewhere."""
    monkeypatch.setattr(fused_rnn.Recurrent, "_prepare_kernels", lambda _: None)


def config(kind: str, directions: int = 1, **options: Any) -> dict[str, Any]:
    """What keras.layers.serialize says, as far as it matters."""
    said = {"class_name": kind, "config": {"units": UNITS, "return_sequences": True, "stateful": False, **options}}
    return said if directions == 1 else {"class_name": "Bidirectional", "config": {"layer": said}}


def arrays(kind: str, directions: int = 1, *, use_bias: bool = True, seed: int = 0) -> list[Array]:
    gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[kind] * UNITS
    shapes = [(INPUTS, gates), (UNITS, gates), (2, gates) if kind == "GRU" else (gates,)][: 2 + use_bias]
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 0.7, shape) for shape in shapes * directions]


def in_numpy(kind: str, options: dict[str, Any], weights: list[Array], x: Array) -> tuple[Array, Array]:
    """Keras' formulas: all outputs and the last h, with z, r, h for the gates of a GRU and i, f, c, o for an LSTM."""
    activation = FUNCTIONS[options.get("activation", "tanh") or "linear"]
    gate = FUNCTIONS[options.get("recurrent_activation", "sigmoid")]
    kernel, recurrent_kernel = weights[:2]
    bias = weights[2] if len(weights) > 2 else np.zeros((2, kernel.shape[1]) if kind == "GRU" else kernel.shape[1])
    h, c, outputs = np.zeros((ROWS, UNITS)), np.zeros((ROWS, UNITS)), []
    for step in range(STEPS):
        if kind == "GRU":
            x_z, x_r, x_h = np.split(x[:, step] @ kernel + bias[0], 3, axis=1)
            h_z, h_r, h_h = np.split(h @ recurrent_kernel + bias[1], 3, axis=1)
            z, r = gate(x_z + h_z), gate(x_r + h_r)
            h = z * h + (1 - z) * activation(x_h + r * h_h)
        else:
            total = x[:, step] @ kernel + h @ recurrent_kernel + bias
            if kind == "SimpleRNN":
                h = activation(total)
            else:
                i, f, new, o = np.split(total, 4, axis=1)
                c = gate(f) * c + gate(i) * activation(new)
                h = gate(o) * activation(c)
        outputs.append(h)
    return np.stack(outputs, 1), h


def inputs() -> Array:
    return np.random.default_rng(1).normal(size=(ROWS, STEPS, INPUTS))


@each_layer
@each_direction
def test_layers_equal_the_formulas_of_keras(
    kind: str, options: dict[str, Any], expected: type, directions: int
) -> None:
    weights = arrays(kind, directions, use_bias=options.get("use_bias", True))
    layer = fused_rnn.from_keras(config(kind, directions, **options), weights)
    assert type(layer) is expected
    x = inputs()
    output, last = layer(torch.from_numpy(x))
    number = len(weights) // directions
    wanted, final = in_numpy(kind, options, weights[:number], x)
    finals = [final]
    if directions == 2:
        backward, final = in_numpy(kind, options, weights[number:], x[:, ::-1])
        wanted, finals = np.concatenate([wanted, backward[:, ::-1]], 2), [*finals, final]
    np.testing.assert_allclose(output.detach().numpy(), wanted, rtol=0, atol=1e-12)
    h_n = last[0] if kind == "LSTM" else last
    np.testing.assert_allclose(h_n.detach().numpy(), np.stack(finals), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_hard_sigmoid_of_a_config_of_keras_2_is_the_one_of_then(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"recurrent_activation": "hard_sigmoid"}
    weights, x = arrays(kind), inputs()
    output, _ = fused_rnn.from_keras(config(kind, implementation=2, **options), weights)(torch.from_numpy(x))
    monkeypatch.setitem(FUNCTIONS, "hard_sigmoid", lambda x: np.clip(0.2 * x + 0.5, 0, 1))
    np.testing.assert_allclose(output.detach().numpy(), in_numpy(kind, options, weights, x)[0], rtol=0, atol=1e-12)


@each_layer
@each_direction
@pytest.mark.filterwarnings("ignore")  # Keras 3.15 warns of what is its own
def test_layers_of_keras_give_its_results(
    kind: str, options: dict[str, Any], expected: type, directions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="pip install keras")
    theirs = getattr(keras.layers, kind)(UNITS, return_sequences=True, dtype="float64", **options)
    theirs = theirs if directions == 1 else keras.layers.Bidirectional(theirs, dtype="float64")
    theirs.build((None, None, INPUTS))
    theirs.set_weights(arrays(kind, directions, use_bias=options.get("use_bias", True)))
    x = torch.from_numpy(inputs())
    wanted = theirs(x).detach().cpu()
    limit = 1e-5 if kind == "SimpleRNN" else 1e-12  # Keras computes it in float32 (3.15)
    for layer in (
        fused_rnn.from_keras(theirs),
        fused_rnn.from_keras(keras.layers.serialize(theirs), theirs.get_weights()),
    ):
        assert type(layer) is expected
        torch.testing.assert_close(layer(x)[0], wanted, rtol=0, atol=limit)


def test_a_layer_brings_its_weights_and_the_result_has_its_own() -> None:
    class GRU:  # as one of Keras
        given = arrays("GRU")

        def get_config(self) -> dict[str, Any]:
            return config("GRU")["config"]  # type: ignore[no-any-return]

        def get_weights(self) -> list[Array]:
            return self.given

    theirs, x = GRU(), torch.from_numpy(inputs())
    layer = fused_rnn.from_keras(theirs)
    before = layer(x)[0]
    for weight in theirs.given:
        weight[:] = 0
    assert torch.equal(layer(x)[0], before)
    floats = fused_rnn.from_keras(config("LSTM"), [each.astype(np.float32) for each in arrays("LSTM")])
    assert {parameter.dtype for parameter in floats.parameters()} == {torch.float32}


def test_a_layer_with_other_functions_is_pickled() -> None:
    layer = fused_rnn.from_keras(config("GRU", recurrent_activation="hard_sigmoid"), arrays("GRU"))
    x = torch.from_numpy(inputs())
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x)[0], layer(x)[0])


def test_both_directions_must_be_alike() -> None:
    other = config("GRU", go_backwards=True, activation="relu")
    both = {"class_name": "Bidirectional", "config": {"layer": config("GRU"), "backward_layer": other}}
    with pytest.raises(NotImplementedError, match="backward_layer must be as layer"):
        fused_rnn.from_keras(both, arrays("GRU", 2))
    other["config"]["activation"] = "tanh"
    assert fused_rnn.from_keras(both, arrays("GRU", 2)).bidirectional


@pytest.mark.parametrize(
    ("layer", "weights", "error", "message"),
    [
        (config("GRU", reset_after=False), arrays("GRU"), NotImplementedError, "reset_after=False"),
        (config("LSTM", stateful=True), arrays("LSTM"), NotImplementedError, "stateful=True"),
        (config("LSTM", go_backwards=True), arrays("LSTM"), NotImplementedError, "go_backwards=True"),
        (config("LSTM", 2, go_backwards=True), arrays("LSTM", 2), NotImplementedError, "go_backwards=True"),
        (config("LSTM", time_major=True), arrays("LSTM"), NotImplementedError, "time_major=True"),
        (config("LSTM", dropout=0.2), arrays("LSTM"), NotImplementedError, "dropout=0.2, of the input"),
        (config("GRU", recurrent_dropout=0.1), arrays("GRU"), NotImplementedError, "recurrent_dropout=0.1"),
        (config("LSTM", activation="mish"), arrays("LSTM"), NotImplementedError, "activation must be one of .*'mish'"),
        (config("LSTM", activation={}), arrays("LSTM"), NotImplementedError, "activation must be one of .*got {}"),
        (config("LSTM", recurrent_activation={"a": 1}), [], NotImplementedError, "recurrent_activation must be one of"),
        (config("ConvLSTM1D"), [], NotImplementedError, "LSTM, GRU, SimpleRNN, Bidirectional, got ConvLSTM1D"),
        (config("Dense", 2), [], NotImplementedError, "got Dense"),
        (
            {"class_name": "Bidirectional", "config": {**config("GRU", 2)["config"], "merge_mode": "sum"}},
            arrays("GRU", 2),
            NotImplementedError,
            "merge_mode='sum'",
        ),
        ({"class_name": "Bidirectional", "config": {}}, [], TypeError, "must be a layer of Keras, .* got NoneType"),
        (config("LSTM"), None, TypeError, "weights must be arrays"),
        (config("LSTM"), [], ValueError, r"weights must be 3 arrays, got 0: the layer of Keras is not built"),
        (config("LSTM", use_bias=False), arrays("LSTM"), ValueError, "weights must be 2 arrays, got 3"),
        (config("LSTM", 2), arrays("LSTM"), ValueError, "weights must be 6 arrays, got 3"),
        (config("LSTM"), arrays("GRU"), ValueError, r"weights\[0\] must have shape \[3, 20\] .* got \[3, 15\]"),
        (config("GRU"), [*arrays("GRU")[:2], np.zeros(15)], ValueError, r"weights\[2\] must have shape \[2, 15\]"),
        (config("LSTM"), [np.float64(0), 0, 0], ValueError, r"weights\[0\] must have shape"),
        (
            config("LSTM"),
            [each.astype(t) for each, t in zip(arrays("LSTM"), "ffd", strict=True)],
            ValueError,
            r"weights\[2\] must have .* type torch.float32, .* torch.float64",
        ),
        (config("LSTM", units=None), arrays("LSTM"), ValueError, "must have units, an integer, got None"),
        ({"units": 3}, arrays("LSTM"), ValueError, "must have class_name and config, got units"),
        (torch.nn.LSTM(3, 5), None, TypeError, "must be a layer of Keras, or a dict of one, got LSTM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_carried_over_is_named(layer: Any, weights: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fused_rnn.from_keras(layer, weights)
