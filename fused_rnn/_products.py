"""Large matrix products of float32 on CPU through whichever of torch's two libraries is the faster one.

torch multiplies float32 matrices by MKL, which keeps to slower code on AMD's processors: [1600, 256] times [256, 1024]
takes 8.9 ms (95 GFLOP/s) on one core of an EPYC with AVX-512, and 4.4 ms (191 GFLOP/s) by oneDNN, which torch has
beside it (torch 2.13, 2026-11-21). torch.nn.LSTM uses oneDNN too. Elsewhere torch's own choice stands.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from fused_rnn import _ops

_WORTH_IT = 1 << 20  # multiplications; below, oneDNN's call costs more than it gains
_PLAIN = (Tensor, torch.nn.Parameter)


def _onednn_is_faster() -> bool:
    available = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and _ops.is_amd_processor()


_ENABLED = _onednn_is_faster()


def _takes(columns: int, left: Tensor, *others: Tensor | None) -> bool:
    """Whether oneDNN is to take a product with `left` that has so many columns.

    It is for large products of plain float32 tensors on CPU, outside of compilers (which take a look at a size for a
    condition), transforms and autocast.
    """
    return (
        _ENABLED
        and not torch.compiler.is_compiling()
        and left.numel() * columns >= _WORTH_IT
        and all(
            t is None or (t.device.type == "cpu" and t.dtype == torch.float32 and type(t) in _PLAIN)
            for t in (left, *others)
        )
        and torch._C._get_mkldnn_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _multiply(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """X [M, K] w [N, K]^T + b by oneDNN."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
    return result


def product(left: Tensor, right: Tensor) -> Tensor:
    """Left [M, K] times right [K, N]; not differentiable where oneDNN runs."""
    return _multiply(left, right.t()) if _takes(right.shape[1], left, right) else left @ right


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
        return _multiply(x, w, b)

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
