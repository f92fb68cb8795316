"""Own cells against the packages that published them, where these are installed: xlstm's sLSTM, and flashrnn's cells.

The packages are part of no extra: `pip install --no-deps xlstm flashrnn`. Keras has tests/test_keras.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from fused_rnn._published_cells import SLSTMCell
from tests.own_cells import OwnElman, OwnGRU, OwnLSTM
from tests.tolerances import relative_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# The packages warn of what is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


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


# By flashrnn's name: our cell, and the built-in layer of it.
CELLS: dict[str, tuple[type[fused_rnn.Cell], type | None]] = {
    "lstm": (OwnLSTM, fused_rnn.LSTM),
    "gru": (OwnGRU, fused_rnn.GRU),
    "elman": (OwnElman, fused_rnn.RNN),
    "slstm": (SLSTMCell, None),
}


def in_flashrnn(name: str, x: Tensor, weights: Sequence[Tensor], heads: int) -> tuple[Tensor, Tensor]:
    """Its layer in plain torch, [T, B, states, heads, units] and the final states, from a layer's parameters."""
    vanilla = pytest.importorskip("flashrnn.flashrnn.vanilla", reason="pip install --no-deps flashrnn")
    w_ih, w_hh, b_ih, b_hh = weights
    size = w_hh.shape[1]
    gates = torch.nn.functional.linear(x, w_ih, b_ih).view(*x.shape[:2], -1, heads, size)
    recurrent = w_hh.view(-1, heads, size, size).permute(1, 3, 0, 2)
    bias = b_hh.view(-1, heads, size)
    if name == "gru":  # n comes first where h is read, and has a bias more where x is
        recurrent, bias = recurrent.roll(1, 2), torch.cat([bias[2:], bias[:2], torch.zeros_like(bias[:1])])
    number = {"lstm": 2, "slstm": 4}.get(name, 1)
    states = torch.zeros(1, x.shape[1], number, heads, size, dtype=x.dtype)
    run = vanilla.flashrnn_pointwise_function_registry[name]
    found: tuple[Tensor, Tensor] = vanilla.flashrnn_forward(gates, states, recurrent, bias, run)
    return found


@pytest.mark.parametrize("time_steps", [1, 100])
@pytest.mark.parametrize("heads", [0, 1, 4])
@pytest.mark.parametrize("name", CELLS)
def test_layers_are_those_of_flashrnn(name: str, heads: int, time_steps: int) -> None:
    cell, built_in = CELLS[name]
    if heads == 0 and built_in is None:
        pytest.skip("there is no built-in layer of this cell")
    options: dict[str, Any] = {"dtype": torch.float64, **({"num_heads": heads} if heads else {})}
    layer: Any = fused_rnn.Recurrent(cell, 5, 20, **options) if heads else built_in(5, 20, **options)  # type: ignore[misc]
    weights = [getattr(layer, f"{each}_l0") for each in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    x = torch.randn(time_steps, 3, 5, dtype=torch.float64, requires_grad=True)
    every, final = in_flashrnn(name, x, weights, max(heads, 1))
    with fused_rnn.strict():
        output, last = layer(x)
        last = last if isinstance(last, tuple) else (last,)
        found = torch.autograd.grad(output.square().sum() + last[0].sum(), [x, *weights])
    expected = torch.autograd.grad(every[:, :, 0].square().sum() + final[:, :, 0].sum(), [x, *weights])
    assert relative_error(output, every[:, :, 0].flatten(2)) < 1e-10
    for state, wanted in zip(last, final[0].flatten(2).unbind(1), strict=True):
        assert relative_error(state[0], wanted) < 1e-10
    for actual, wanted in zip(found, expected, strict=True):
        assert relative_error(actual, wanted) < 1e-10
