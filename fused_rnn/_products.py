"""Large matrix products on CPU by our own kernel where torch's library is slower.

torch multiplies float32 matrices by MKL, which keeps to slower code on AMD's processors: [1600, 256] times [256, 1024]
takes 8.9 ms (95 GFLOP/s) on one core of an EPYC (Zen 5) with AVX-512, and 4.3 ms (196 GFLOP/s) by the tiles of the
recurrent product. oneDNN, which torch.nn.LSTM uses and torch has too, is as fast but copies a transposed matrix first,
which for a weight gradient takes longer than the product (torch 2.13, 2026-11-21). Elsewhere torch's own choice stands.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from fused_rnn import _ops

_WORTH_IT = 1 << 18  # multiplications; below, the call costs more than it gains
_SMALL = 1 << 21  # multiplications; below, a library's call costs more than a better product gains
_LEAST = 16  # of each size: thinner matrices are not worth their packing
_TYPES = (torch.float32, torch.float64)
_PLAIN = (Tensor, torch.nn.Parameter)


_ENABLED = _ops.is_amd_processor()
MULTIPLIES_BFLOAT16 = "avx512_bf16" in _ops.instruction_sets()  # this processor, in torch's products


def _takes(columns: int, left: Tensor, *others: Tensor | None) -> bool:
    """Whether our kernel is to take a product with `left` that has so many columns.

    It is for large products of plain tensors on CPU, outside of compilers (which take a look at a size for a
    condition), transforms and autocast.
    """
    return (
        _ENABLED
        and not torch.compiler.is_compiling()
        and left.numel() * columns >= _WORTH_IT
        and min(columns, left.shape[-1], left.numel() // max(left.shape[-1], 1)) >= _LEAST
        and all(
            t is None or (t.device.type == "cpu" and t.dtype == left.dtype and type(t) in _PLAIN)
            for t in (left, *others)
        )
        and left.dtype in _TYPES
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def are_ours(rows: int, columns: int, depth: int) -> bool:
    """Whether our kernel is to take [rows, depth] times [depth, columns] and its like, all of them float."""
    size = rows * columns * depth
    return size < _WORTH_IT or (min(rows, columns, depth) >= _LEAST and (_ENABLED or size < _SMALL))


def product(left: Tensor, right: Tensor) -> Tensor:
    """Left [M, K] times right [K, N]; not differentiable where our kernel runs.

    float16 is widened on CPU, where torch takes 40 times as long for it as for float32 (2.13 on AVX-512).
    """
    if left.dtype == torch.float16 and left.device.type == "cpu":
        return product(left.float(), right.float()).to(left.dtype)
    return _ops.product(left, right) if _takes(right.shape[1], left, right) else left @ right


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """X [..., K] w [N, K]^T + b, differentiable."""
    if not _takes(w.shape[0], x, w, b):
        return F.linear(x, w, b)
    result: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), w, b)  # type: ignore[no-untyped-call]
    return result.view(*x.shape[:-1], w.shape[0])


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        return _ops.product(x, w.t(), b)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        multiply = torch.matmul if torch.is_grad_enabled() else product  # for second derivatives, and without
        need_x, need_w, need_b = ctx.needs_input_grad
        return (
            multiply(d, w) if need_x else None,
            multiply(d.t(), x) if need_w else None,
            d.sum(0) if need_b else None,
        )
