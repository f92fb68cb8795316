"""Products by oneDNN: the numbers and derivatives of torch's own, and torch's own wherever oneDNN does not belong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fused_rnn
from fused_rnn import _products

SIZES = 96, 128, 96  # above _WORTH_IT


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """oneDNN is on, whatever the processor; the arguments of its products."""
    found: list[tuple[Any, ...]] = []
    multiply = _products._multiply

    def recorded(*arguments: Any) -> Tensor:
        found.append(arguments)
        return multiply(*arguments)

    monkeypatch.setattr(_products, "_ENABLED", True)
    monkeypatch.setattr(_products, "_multiply", recorded)
    return found


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(96,), (4, 24)])
def test_values_and_gradients_are_those_of_torch(
    calls: list[tuple[Any, ...]], shape: tuple[int, ...], bias: bool
) -> None:  # fmt: skip
    x, w, b = draw(*shape, SIZES[1]), draw(SIZES[2], SIZES[1]), draw(SIZES[2]) if bias else None
    given = [t for t in (x, w, b) if t is not None]
    actual, expected = _products.linear(x, w, b), F.linear(x, w, b)
    d = torch.randn_like(expected)
    pairs = zip(torch.autograd.grad(actual, given, d), torch.autograd.grad(expected, given, d), strict=True)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    assert len(calls) == 3


def test_products_of_strided_matrices_are_right(calls: list[tuple[Any, ...]]) -> None:
    left, right = torch.randn(128, 96).t(), torch.randn(96, 256)[:, ::2].t()
    torch.testing.assert_close(_products.product(left, right), left @ right, rtol=1e-5, atol=1e-4)
    assert len(calls) == 1


def test_second_derivatives_are_those_of_torch(calls: list[tuple[Any, ...]]) -> None:
    x, w = draw(*SIZES[:2]), draw(SIZES[2], SIZES[1])
    found = []
    for linear in (_products.linear, F.linear):
        (d_x,) = torch.autograd.grad(linear(x, w, None).sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(d_x.square().mean(), (x, w)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert calls


@pytest.mark.filterwarnings("ignore:.*jit.script.*is deprecated", "ignore:TF32 acceleration")  # torch's own
@pytest.mark.parametrize("context", ["small", "double", "vmap", "autocast", "tangents", "switched_off", "subclass"])
def test_everything_else_is_left_to_torch(calls: list[tuple[Any, ...]], context: str) -> None:
    x, w = torch.randn(*SIZES[:2]), torch.randn(SIZES[2], SIZES[1])
    if context == "small":
        result, expected = _products.linear(x[:2], w, None), F.linear(x[:2], w)
    elif context == "double":
        result, expected = _products.linear(x.double(), w.double(), None), F.linear(x.double(), w.double())
    elif context == "vmap":
        many = torch.stack([x, 2 * x])
        result, expected = torch.func.vmap(lambda one: _products.linear(one, w, None))(many), F.linear(many, w)
    elif context == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            result, expected = _products.linear(x, w, None), F.linear(x, w)
    elif context == "tangents":
        result = torch.func.jvp(lambda one: _products.linear(one, w, None), (x,), (x,))[1]
        expected = F.linear(x, w)
    elif context == "switched_off":
        with torch.backends.mkldnn.flags(enabled=False):
            result, expected = _products.linear(x, w, None), F.linear(x, w)
    else:
        result, expected = _products.linear(x.as_subclass(_Subclass), w, None), F.linear(x, w)
    torch.testing.assert_close(result, expected, check_dtype=True)
    assert not calls


class _Subclass(Tensor):
    pass


def test_a_layer_multiplies_by_it_in_both_passes(calls: list[tuple[Any, ...]]) -> None:
    layer, x = fused_rnn.GRU(64, 64), torch.randn(32, 16, 64, requires_grad=True)
    expected = torch.nn.GRU(64, 64)
    expected.load_state_dict(layer.state_dict())
    for module in (layer, expected):
        module(x)[0].sum().backward()
    torch.testing.assert_close(layer.weight_ih_l0.grad, expected.weight_ih_l0.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.weight_hh_l0.grad, expected.weight_hh_l0.grad, rtol=1e-4, atol=1e-4)
    assert len(calls) == 4  # the projection, its two gradients, and that of W_hh
