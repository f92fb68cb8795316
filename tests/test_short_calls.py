"""Training with a small layer goes past torch's dispatcher: the same bits, and modes of torch still see the ops."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fused_rnn
from fused_rnn import _route, _short_calls

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS = [
    ("RNN", {}),
    ("GRU", {"bidirectional": True, "bias": False}),
    ("LSTM", {"proj_size": 3, "batch_first": True}),
    ("LSTM", {"peephole": True}),
    ("GRU", {"zoneout": 0.3}),
    ("LSTM", {"num_layers": 2, "recurrent_dropout": 0.2}),
]
CELLS = ["RNNCell", "GRUCell", "LSTMCell"]
WATCHED = {"layer", "layer_backward", "layer_backward_in_place"}


class Ops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The ops of the package that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fused_rnn":
            self.seen.add(func._opname)
        return func(*args, **(kwargs or {}))


def tensors(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else [t for each in found for t in tensors(each)]


def pass_of(module: torch.nn.Module, x: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """The results of a call, and all gradients."""
    torch.manual_seed(1)
    x = x.detach().requires_grad_()
    results = tensors(module(x, **options))
    torch.autograd.backward(results, [torch.cos(torch.arange(t.numel(), dtype=t.dtype)).view(t.shape) for t in results])
    gradients = [p.grad for p in module.parameters()]
    module.zero_grad()
    assert x.grad is not None
    return [*(t.detach() for t in results), x.grad, *(g for g in gradients if g is not None)]


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[bool]:
    """For each call of a function of `_short_calls` from now on, whether it did its work."""
    run: Callable[..., Any] = getattr(_short_calls, name)
    done: list[bool] = []

    def call(*args: Any, **keywords: Any) -> Any:
        found = run(*args, **keywords)
        done.append(found is not None)
        return found

    monkeypatch.setattr(_short_calls, name, call)
    return done


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), [*LAYERS, *((name, {}) for name in CELLS)])
def test_has_the_bits_of_the_ops(
    name: str, options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = getattr(fused_rnn, name)(5, 7, **options, dtype=dtype)
    x = torch.randn(4, 5, dtype=dtype) if name in CELLS else torch.randn(3, 4, 5, dtype=dtype)
    runs = [{}] if name in CELLS else [{}, {"lengths": torch.full((x.shape[options.get("batch_first") is None],), 2)}]
    forward = counted(monkeypatch, "run")
    for keywords in runs:
        short = pass_of(module, x, **keywords)
        with monkeypatch.context() as by_ops:
            by_ops.setattr(_route, "may_be_short", lambda: False)
            expected = pass_of(module, x, **keywords)
        assert [torch.equal(a, b) for a, b in zip(short, expected, strict=True)] == [True] * len(expected)
    assert forward
    assert all(forward)


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_a_dispatch_mode_and_the_profiler_see_the_ops(name: str) -> None:
    module = getattr(fused_rnn, name)(5, 7)
    x = torch.randn(4, 5) if name == "LSTMCell" else torch.randn(3, 4, 5)
    with Ops() as mode:
        pass_of(module, x)
    assert len(mode.seen & WATCHED) == 2
    with torch.autograd.profiler.profile() as profile:
        pass_of(module, x)
    names = {event.name.removeprefix("fused_rnn::") for event in profile.function_events or ()}
    assert len(names & WATCHED) == 2


def test_a_large_layer_takes_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    done = counted(monkeypatch, "run")
    x = torch.randn(3, 1024 // 3 + 1, 32)  # times [32, 32]: as many multiplications as a short call may not have
    fused_rnn.RNN(32, 32)(x)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert done == [False]


def test_tensors_that_are_not_plain_take_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = counted(monkeypatch, "run"), counted(monkeypatch, "gradients")
    module, x = fused_rnn.RNN(5, 7), torch.randn(3, 4, 5)
    negative = torch.complex(torch.zeros_like(x), -x).conj().imag  # x, with the bit
    assert negative.is_neg()
    assert torch.equal(module(negative)[0], module(x)[0])
    output = module(x)[0]
    d = torch.complex(torch.zeros_like(output), -torch.ones_like(output)).conj().imag
    by_bit, plain = (
        torch.autograd.grad(output, list(module.parameters()), each, retain_graph=True) for each in (d, d + 0)
    )
    assert [torch.equal(a, b) for a, b in zip(by_bit, plain, strict=True)] == [True] * len(plain)
    torch.autograd.grad(output, list(module.parameters()), torch.stack([d + 0, d + 0]), is_grads_batched=True)
    assert forward == [False, True, True]
    assert backward == [False, True, False]


def test_leaves_no_references_behind() -> None:
    module, x = fused_rnn.LSTMCell(5, 7), torch.randn(4, 5, requires_grad=True)

    def count() -> int:
        for _ in range(3):
            h, c = module(x)
            (h.sum() + c.sum()).backward()  # type: ignore[no-untyped-call]
        assert sys.getrefcount(h) == 2
        del h, c
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    assert count() == count()
