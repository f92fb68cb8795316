"""Large GEMMs on CPU by our own kernel where torch's library is slower.

torch multiplies float32 matrices by MKL, which keeps to slower code on AMD's processors: [1600, 256] times [256, 1024]
takes 8.9 ms (95 GFLOP/s) on one core of an EPYC (Zen 5) with AVX-512, and 4.3 ms (196 GFLOP/s) by the tiles of the
recurrent GEMM. oneDNN, which torch.nn.LSTM uses and torch has too, is as fast but copies a transposed matrix first,
which for a weight gradient takes longer than the GEMM (torch 2.13, 2026-11-21). Elsewhere torch's own choice stands.

For half types it is slower everywhere but where the processor multiplies bfloat16 (torch 2.13 on AVX-512,
[3200, 1024]^T [3200, 256]: float32 17 ms, bfloat16 68 ms, float16 758 ms), and widened copies take longer than our
kernel, which widens what it packs (two cores of an EPYC, Zen 4: 10.3 and 9.0 ms).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fused_rnn import _modes, _ops
from fused_rnn._tensors import HALF_TYPES

_WORTH_IT = 1 << 18  # multiplications; below, the call costs more than it gains
# Multiplications from which on torch's GEMMs make up for a call of their own, where they are faster. Float32 on one
# thread of a Xeon (Granite Rapids, MKL, 2026-11-30): training an LSTM by own GEMMs takes 0.90 to 1.05 of the time
# below, and up to 1.18 above (H >= 512, B >= 16). bfloat16 there: torch multiplies by AMX.
_LARGE, _LARGE_BFLOAT16 = 1 << 30, 1 << 21
_LEAST = 16  # of each size: thinner matrices are not worth their packing
_PLAIN = (Tensor, torch.nn.Parameter)


_ENABLED = _ops.is_amd_processor()
_MULTIPLIES_BFLOAT16 = _ops.MULTIPLIES_BFLOAT16  # in torch's GEMMs, too


def _torch_is_slow(dtype: torch.dtype) -> bool:
    """Whether torch's large GEMMs on CPU are slower than ours."""
    if dtype in HALF_TYPES:
        return dtype == torch.float16 or not _MULTIPLIES_BFLOAT16
    return _ENABLED


def _takes(columns: int, left: Tensor, *others: Tensor | None) -> bool:
    """Whether our kernel is to take a GEMM with `left` that has so many columns.

    It is for large GEMMs of plain tensors on CPU, outside of compilers (which take a look at a size for a
    condition), transforms and autocast.
    """
    return (
        _torch_is_slow(left.dtype)
        and not torch.compiler.is_compiling()
        and left.numel() * columns >= (0 if left.dtype in HALF_TYPES else _WORTH_IT)
        and min(columns, left.shape[-1], left.numel() // max(left.shape[-1], 1)) >= _LEAST
        and all(
            t is None or (t.device.type == "cpu" and t.dtype == left.dtype and type(t) in _PLAIN)
            for t in (left, *others)
        )
        and not torch.is_autocast_enabled("cpu")
        and not _modes.is_transformed()
        and not _modes.has_tangents()
    )


def use_own_gemm(dtype: torch.dtype, rows: int, columns: int, depth: int) -> bool:
    """Whether our kernel multiplies [rows, depth] by [depth, columns] (and each transposed), all of them plain.

    On AMD also bfloat16 that torch multiplies as fast: here the factors are still in the caches.
    """
    size = rows * columns * depth
    if size < _WORTH_IT:
        return True
    large = _LARGE_BFLOAT16 if dtype == torch.bfloat16 else _LARGE
    return _ENABLED or size < large or _torch_is_slow(dtype)


def _library_widens(*factors: Tensor) -> bool:
    """Whether torch's GEMM of half types writes float32 by itself: on a GPU, where nothing differentiates or maps it.

    Copies in float32 would be multiplied without the units for half types (45 TFLOP/s on an H200, docs/gpu.md).
    """
    return not (torch.is_grad_enabled() or _modes.is_transformed() or _modes.has_tangents()) and all(
        t.device.type == "cuda"
        and (torch.compiler.is_compiling() or (type(t) in _PLAIN and not _modes.are_batched((t,))))
        for t in factors
    )


def product(left: Tensor, right: Tensor, *, wide: bool = False) -> Tensor:
    """Left [M, K] times right [K, N]; not differentiable where our kernel runs.

    A `wide` GEMM of half types is float32, but where bfloat16 is left to torch on CPU.
    """
    if _takes(right.shape[1], left, right):
        return _ops.product(left, right, wide=wide)
    if wide and left.dtype in HALF_TYPES and _library_widens(left, right):
        return torch.mm(left, right, out_dtype=torch.float32)
    if left.dtype in HALF_TYPES and (_torch_is_slow(left.dtype) if left.device.type == "cpu" else wide):
        result = product(left.float(), right.float())
        return result if wide else result.to(left.dtype)
    return left @ right


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
