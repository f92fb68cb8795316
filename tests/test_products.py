"""Our matrix product: the numbers and derivatives of torch's own, and torch's own wherever ours does not belong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import fused_rnn
from fused_rnn import _ops, _products, _route
from fused_rnn._tensors import HALF_TYPES

SIZES = 96, 128, 96  # above _WORTH_IT
ROUNDING = {torch.float32: 0.0, torch.float64: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of a sum at its end


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Ours is on, whatever the processor; the arguments of its products."""
    found: list[tuple[Any, ...]] = []
    multiply = _ops.product

    def recorded(*arguments: Any, **options: Any) -> Tensor:
        found.append(arguments)
        return multiply(*arguments, **options)

    monkeypatch.setattr(_products, "_ENABLED", True)
    monkeypatch.setattr(_ops, "product", recorded)
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


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (7, 5, 3), (64, 33, 256), (300, 70, 257), (5, 1100, 600), (40, 31, 0), (0, 3, 4), (3, 0, 4)]
)
def test_every_size_and_stride(sizes: tuple[int, int, int], threads: int, dtype: torch.dtype) -> None:
    m, n, k = sizes
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for left in (torch.randn(m, k, dtype=dtype), torch.randn(k, m, dtype=dtype).t(), draw_sparse(m, k, dtype)):
            for right in (torch.randn(k, n, dtype=dtype), torch.randn(n, k, dtype=dtype).t(), draw_sparse(k, n, dtype)):
                for bias in (None, torch.randn(2 * n, dtype=dtype)[::2]):
                    expected = left.double() @ right.double() + (0 if bias is None else bias.double())
                    for wide in (False, True):
                        result = _ops.product(left, right, bias, wide=wide)
                        assert result.dtype == (torch.float32 if wide and dtype in HALF_TYPES else dtype)
                        rtol, atol = tolerance + (0 if wide else ROUNDING[dtype]), tolerance * max(k, 1) ** 0.5
                        torch.testing.assert_close(result.double(), expected, rtol=rtol, atol=atol)
    finally:
        torch.set_num_threads(before)


def draw_sparse(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """A matrix neither side of which is contiguous."""
    return torch.randn(rows, 2, columns, 3, dtype=dtype)[:, 1, :, 2]


def test_wrong_operands_are_named() -> None:
    x = torch.randn(3, 4)
    for arguments, message in [
        ((x[0], x), r"left must have shape \[M, K\]"),
        ((x, x), r"right must have shape \[K, N\] = \[4, 4\], got \[3, 4\]"),
        ((x, x.t(), x[0]), r"bias must have shape \[N\] = \[3\], got \[4\]"),
        ((x, x.t().double()), "right must have the type of left"),
        ((x.int(), x.t()), "left must be float32, float64, bfloat16 or float16"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            _ops.product(*arguments)


def test_the_operator_is_registered_well() -> None:
    for dtype in ROUNDING:
        arguments = [torch.randn(*shape).to(dtype) for shape in ((3, 4), (4, 5), (5,))]
        for wide in (False, True):
            torch.library.opcheck(torch.ops.fused_rnn.product.default, (*arguments, wide, False))


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
@pytest.mark.parametrize("context", ["small", "bfloat16", "vmap", "autocast", "tangents", "subclass"])
def test_everything_else_is_left_to_torch(
    calls: list[tuple[Any, ...]], context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = torch.randn(*SIZES[:2]), torch.randn(SIZES[2], SIZES[1])
    if context == "small":
        result, expected = _products.linear(x[:2], w, None), F.linear(x[:2], w)
    elif context == "bfloat16":
        monkeypatch.setattr(_products, "_MULTIPLIES_BFLOAT16", True)
        result, expected = _products.linear(x.bfloat16(), w.bfloat16(), None), F.linear(x.bfloat16(), w.bfloat16())
    elif context == "vmap":
        many = torch.stack([x, 2 * x])
        result, expected = torch.func.vmap(lambda one: _products.linear(one, w, None))(many), F.linear(many, w)
    elif context == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            result, expected = _products.linear(x, w, None), F.linear(x, w)
    elif context == "tangents":
        result = torch.func.jvp(lambda one: _products.linear(one, w, None), (x,), (x,))[1]
        expected = F.linear(x, w)
    else:
        result, expected = _products.linear(x.as_subclass(_Subclass), w, None), F.linear(x, w)
    torch.testing.assert_close(result, expected, check_dtype=True)
    assert not calls


class _Subclass(Tensor):
    pass


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_half_types_that_torch_is_slow_with_are_ours(
    calls: list[tuple[Any, ...]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_products, "_ENABLED", False)
    monkeypatch.setattr(_products, "_MULTIPLIES_BFLOAT16", False)
    x, w = torch.randn(32, 40).to(dtype), torch.randn(50, 40).to(dtype)
    expected = x.double() @ w.double().t()
    for result in (_products.linear(x, w, None), _products.product(x, w.t())):
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, rtol=ROUNDING[dtype] + 1e-5, atol=1e-5)
    assert len(calls) == 2
    for few in (x[:, :3], x[:1]):  # thin: torch's own, of widened copies
        result = _products.product(few.t(), few)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), few.double().t() @ few.double(), rtol=ROUNDING[dtype], atol=1e-5)
    assert len(calls) == 2
    wide = _products.product(x, w.t(), wide=True)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("context", ["compiler", "eager", "gradients", "subclass"])
def test_a_gpu_multiplies_half_types_without_widened_copies(context: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype | None] = []

    def recorded(left: Tensor, right: Tensor, *, out_dtype: torch.dtype) -> Tensor:
        asked.append(out_dtype)
        return torch.empty(left.shape[0], right.shape[1], dtype=out_dtype, device="cuda")

    monkeypatch.setattr(torch, "mm", recorded)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: context == "compiler")
    if context in {"eager", "gradients"}:  # what has no values is a subclass, which stands for a tensor here
        monkeypatch.setattr(_products, "_PLAIN", (FakeTensor,))
    with FakeTensorMode(), torch.set_grad_enabled(context == "gradients"):
        left = torch.empty(20, 8, dtype=torch.bfloat16, device="cuda")
        result = _products.product(left.t(), torch.empty(20, 5, dtype=torch.bfloat16, device="cuda"), wide=True)
    assert (result.dtype, result.shape, result.device.type) == (torch.float32, (8, 5), "cuda")
    assert asked == ([torch.float32] if context in {"compiler", "eager"} else [])


def test_gradients_by_several_calls_are_made_by_it(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_route, "uses_own_gemms", lambda _: False)
    layer, x = fused_rnn.GRU(64, 64), torch.randn(32, 16, 64, requires_grad=True)
    expected = torch.nn.GRU(64, 64)
    expected.load_state_dict(layer.state_dict())
    layer(x, lengths=torch.full((16,), 32))[0].sum().backward()  # type: ignore[no-untyped-call]
    expected(x)[0].sum().backward()
    torch.testing.assert_close(layer.weight_ih_l0.grad, expected.weight_ih_l0.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.weight_hh_l0.grad, expected.weight_hh_l0.grad, rtol=1e-4, atol=1e-4)
    assert len(calls) == 3  # the gradients of x, W_ih and W_hh
