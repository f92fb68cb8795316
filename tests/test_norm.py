"""Layer norms from single operations: half types and what torch's own layer_norm gives."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

import fused_rnn
from fused_rnn._norm import normalize_gates

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@HALF
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_norms_of_equal_values_have_finite_derivatives_in_half_types(dtype: torch.dtype, level: float) -> None:
    values = torch.full((3, 1, 4), level, dtype=dtype)
    gain = torch.ones(1, 4, dtype=dtype)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return (normalize_gates("rnn_tanh", values, gain, None) * torch.arange(4)).sum()

    for found in (grad(loss)(values), vmap(grad(loss))(values)):
        # The slope is 1 / sqrt(1e-5) = 316, and the mean of 0 to 3 is 1.5.
        expected = (torch.arange(4) - 1.5).mul(1e-5**-0.5).expand(3, 1, 4)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_gradients_of_normalized_float16_layers_are_the_same_inside_of_transforms(name: str) -> None:
    layer = getattr(fused_rnn, name)(1, 5, num_layers=2, layer_norm=True, dtype=torch.float16)
    x = torch.randn(4, 3, 1, dtype=torch.float16)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return layer(x)[0].float().square().sum()  # type: ignore[no-any-return]

    expected = torch.autograd.grad(loss(x.requires_grad_()), x)[0]
    again = torch.autograd.grad(loss(x), x, create_graph=True)[0]
    largest = expected.abs().max().item()
    for found in (grad(loss)(x.detach()), again.detach()):
        assert found.dtype == torch.float16
        torch.testing.assert_close(found, expected, rtol=0, atol=0.1 * largest)
