"""Own cells against the packages that published them, where these are installed: xlstm's sLSTM, Keras' LSTM and GRU.

Neither package is part of an extra: `pip install --no-deps xlstm`, and `pip install keras`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn.cells import hard_sigmoid, tanh
from tests.tolerances import relative_error

# The packages warn of what is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


class HardLSTM(fused_rnn.Cell):
    """Keras' LSTM with recurrent_activation="hard_sigmoid"."""

    gates = ("i", "f", "g", "o")
    states = ("h", "c")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        c = hard_sigmoid(gate.f) * state.c + hard_sigmoid(gate.i) * tanh(gate.g)
        return {"h": hard_sigmoid(gate.o) * tanh(c), "c": c}


class HardGRU(fused_rnn.Cell):
    """Keras' GRU with reset_after=True and recurrent_activation="hard_sigmoid"."""

    gates = ("z", "r", "n")

    def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
        z = hard_sigmoid(gate.z)
        n = tanh(gate.x.n + hard_sigmoid(gate.r) * gate.h.n)
        return {"h": z * state.h + (1 - z) * n}


@pytest.mark.parametrize("time_steps", [1, 300])
@pytest.mark.parametrize("heads", [1, 4])
def test_slstm_is_that_of_xlstm(time_steps: int, heads: int) -> None:
    vanilla = pytest.importorskip("xlstm.blocks.slstm.src.vanilla", reason="pip install --no-deps xlstm")
    size, batch = 20, 3
    layer = fused_rnn.SLSTM(5, size, num_heads=heads, dtype=torch.float64)
    x = torch.randn(time_steps, batch, 5, dtype=torch.float64, requires_grad=True)
    weights = dict(layer.named_parameters())
    w_ih, w_hh, b_ih, b_hh = (weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    parameters = [x, w_ih, w_hh]
    output, last = layer(x)
    total = output.square().sum() + sum(state.sum() for state in last[1:3])
    found = torch.autograd.grad(total, parameters)

    gates = torch.nn.functional.linear(x, w_ih, b_ih)
    recurrent = w_hh.view(4, heads, size // heads, size // heads).transpose(0, 1).flatten(1, 2)
    states = torch.zeros(4, batch, size, dtype=torch.float64)
    run = vanilla.slstm_pointwise_function_registry["slstm"]
    every, final, _ = vanilla.slstm_forward(gates, states, recurrent, b_hh, run)
    expected = torch.autograd.grad(every[0, 1:].square().sum() + final[1:3].sum(), parameters)
    assert relative_error(output, every[0, 1:]) < 1e-10
    for state, wanted in zip(last, final, strict=True):
        assert relative_error(state[0], wanted) < 1e-10
    for actual, wanted in zip(found, expected, strict=True):
        assert relative_error(actual, wanted) < 1e-10


@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_weights_of_keras_give_its_results(name: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="pip install keras")
    theirs = getattr(keras.layers, name)(
        7, return_sequences=True, recurrent_activation=activation, dtype="float64", bias_initializer="random_normal"
    )
    x = torch.randn(3, 9, 5, dtype=torch.float64)  # Keras has the batch first
    expected = theirs(x).detach().cpu()
    kernel, recurrent, bias = (torch.tensor(weight, dtype=torch.float64) for weight in theirs.get_weights())
    own = {"LSTM": HardLSTM, "GRU": HardGRU}[name]
    options: dict[str, Any] = {"batch_first": True, "dtype": torch.float64}
    layer: Any = fused_rnn.Recurrent(own, 5, 7, **options)
    order = list(range(4 if name == "LSTM" else 3))
    if activation == "sigmoid":
        layer = getattr(fused_rnn, name)(5, 7, **options)
        order = order if name == "LSTM" else [1, 0, 2]  # Keras: z r n, torch.nn: r z n

    def rows(columns: Tensor) -> Tensor:
        """Keras' columns [N, G*H] as rows of gates in our order."""
        parts = columns.reshape(-1, len(order), 7).unbind(1)
        return torch.cat([parts[gate].T for gate in order])

    biases = bias if name == "GRU" else torch.stack([bias, torch.zeros_like(bias)])
    layer.load_state_dict({
        "weight_ih_l0": rows(kernel), "weight_hh_l0": rows(recurrent),
        "bias_ih_l0": rows(biases[:1])[:, 0], "bias_hh_l0": rows(biases[1:])[:, 0],
    })  # fmt: skip
    assert relative_error(layer(x)[0], expected) < 1e-12
