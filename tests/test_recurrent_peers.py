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
from tests.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# The packages warn of what is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
# Of values and of gradients, against the packages in float64.
LIMITS = {torch.float64: (1e-10, 1e-10), torch.float32: TOLERANCES[torch.float32]}
each_type = pytest.mark.parametrize("dtype", LIMITS, ids=str)
each_length = pytest.mark.parametrize(("time_steps", "batch"), [(1, 3), (300, 1), (300, 17)])


def input_of(time_steps: int, batch: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(time_steps, batch, 5, dtype=dtype).requires_grad_()


def in_float64(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], limit: float) -> None:
    for actual, wanted in zip(found, expected, strict=True):
        assert relative_error(actual, wanted) < limit


@each_type
@each_length
@pytest.mark.parametrize("heads", [1, 4])
def test_slstm_is_that_of_xlstm(heads: int, time_steps: int, batch: int, dtype: torch.dtype) -> None:
    vanilla = pytest.importorskip("xlstm.blocks.slstm.src.vanilla", reason="pip install --no-deps xlstm")
    size = 20
    layer = fused_rnn.SLSTM(5, size, num_heads=heads, dtype=dtype)
    given = [input_of(time_steps, batch, dtype), *(getattr(layer, f"{name}_l0") for name in PARAMETERS)]
    with fused_rnn.strict():
        output, last = layer(given[0])
        found = torch.autograd.grad(output.square().sum() + sum(state.sum() for state in last[1:3]), given)

    x, w_ih, w_hh, b_ih, b_hh = exact = in_float64(given)
    gates = torch.nn.functional.linear(x, w_ih, b_ih)
    recurrent = w_hh.view(4, heads, size // heads, size // heads).transpose(0, 1).flatten(1, 2)
    states = torch.zeros(4, batch, size, dtype=torch.float64)
    run = vanilla.slstm_pointwise_function_registry["slstm"]
    every, final, _ = vanilla.slstm_forward(gates, states, recurrent, b_hh, run)
    expected = torch.autograd.grad(every[0, 1:].square().sum() + final[1:3].sum(), exact)
    assert_close([output, *(state[0] for state in last)], [every[0, 1:], *final], LIMITS[dtype][0])
    assert_close(found, expected, LIMITS[dtype][1])


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


@each_type
@each_length
@pytest.mark.parametrize("heads", [0, 1, 4])
@pytest.mark.parametrize("name", CELLS)
def test_layers_are_those_of_flashrnn(name: str, heads: int, time_steps: int, batch: int, dtype: torch.dtype) -> None:
    cell, built_in = CELLS[name]
    if heads == 0 and built_in is None:
        pytest.skip("there is no built-in layer of this cell")
    options: dict[str, Any] = {"dtype": dtype, **({"num_heads": heads} if heads else {})}
    layer: Any = fused_rnn.Recurrent(cell, 5, 20, **options) if heads else built_in(5, 20, **options)  # type: ignore[misc]
    given = [input_of(time_steps, batch, dtype), *(getattr(layer, f"{each}_l0") for each in PARAMETERS)]
    x, *weights = exact = in_float64(given)
    every, final = in_flashrnn(name, x, weights, max(heads, 1))
    with fused_rnn.strict():
        output, last = layer(given[0])
        last = last if isinstance(last, tuple) else (last,)
        found = torch.autograd.grad(output.square().sum() + last[0].sum(), given)
    expected = torch.autograd.grad(every[:, :, 0].square().sum() + final[:, :, 0].sum(), exact)
    wanted = [every[:, :, 0].flatten(2), *final[0].flatten(2).unbind(1)]
    assert_close([output, *(state[0] for state in last)], wanted, LIMITS[dtype][0])
    assert_close(found, expected, LIMITS[dtype][1])
