"""Own cells against the packages that published them, where these are installed: xlstm's sLSTM.

The package is part of no extra: `pip install --no-deps xlstm`. Keras has tests/test_keras.py.
"""

from __future__ import annotations

import pytest
import torch

import fused_rnn
from tests.tolerances import relative_error

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
