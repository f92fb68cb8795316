"""Weights stay packed from one call to the next, and no change of theirs goes unnoticed."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn import _ops
from fused_rnn._tensors import Arguments

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS = 40  # two blocks of AVX-512, the second partial
LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "lstm": lambda: fused_rnn.LSTM(UNITS, UNITS),
    "projected": lambda: fused_rnn.LSTM(UNITS, UNITS, proj_size=20),
    "gru": lambda: fused_rnn.GRU(UNITS, UNITS, bidirectional=True),
    "rnn": lambda: fused_rnn.RNN(UNITS, UNITS, num_layers=2),
    "layer_norm": lambda: fused_rnn.LSTM(UNITS, UNITS, layer_norm=True),
    "float64": lambda: fused_rnn.LSTM(UNITS, UNITS, dtype=torch.float64),
    "bfloat16": lambda: fused_rnn.GRU(UNITS, UNITS, dtype=torch.bfloat16),
    "odd": lambda: fused_rnn.LSTM(7, 19),  # rows that end within a vector
}


def outputs(layer: torch.nn.Module, time_steps: int = 5) -> Tensor:
    """Those on an input that depends on nothing."""
    parameter = next(layer.parameters())
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(time_steps, 2, int(layer.input_size), generator=generator).to(parameter.dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        result: Tensor = layer(x)[0]
        return result


def in_place(p: Tensor) -> None:
    with torch.no_grad():
        p.mul_(1.25)


def through_data(p: Tensor) -> None:
    p.data.copy_(p.data.flip(0))


def all_signs(p: Tensor) -> None:
    p.data.neg_()


def one_value(p: Tensor) -> None:
    p.data.view(-1)[-1] += 1


def two_signs(p: Tensor) -> None:  # of values that are as far apart as any period of the fingerprint
    p.data.view(-1)[3] *= -1
    p.data.view(-1)[3 + 16 * 16] *= -1


def by_numpy(p: Tensor) -> None:  # memory that torch does not know to have changed
    p.detach().view(torch.int16).numpy().reshape(-1)[::5] ^= 1


def other_memory(p: Tensor) -> None:
    p.data = (p.data * 0.5).clone()


def other_strides(p: Tensor) -> None:
    p.data = (p.data * 0.5).t().contiguous().t()


CHANGES = [in_place, through_data, all_signs, one_value, two_signs, by_numpy, other_memory, other_strides]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_change_of_weights_is_seen(name: str, change: Callable[[Tensor], None]) -> None:
    layer = LAYERS[name]().eval()
    before = outputs(layer)
    torch.testing.assert_close(outputs(layer), before, rtol=0, atol=0)
    for parameter in layer.parameters():
        if parameter.dim() != 2 or parameter.numel() < 300:
            continue
        change(parameter)
        after = outputs(layer)
        assert not torch.equal(after, before)
        # A copy lies in other memory, where nothing is packed.
        torch.testing.assert_close(after, outputs(copy.deepcopy(layer)), rtol=0, atol=0)
        before = after


@pytest.mark.parametrize("name", LAYERS)
def test_other_lengths_batches_and_threads_find_the_same_weights(name: str) -> None:
    layer = LAYERS[name]().eval()
    whole = outputs(layer, 9)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.testing.assert_close(outputs(layer, 9), whole, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(outputs(layer, 5), whole)


def test_an_optimizer_step_between_two_inferences_is_seen() -> None:
    layer = fused_rnn.GRU(UNITS, UNITS)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    x = torch.randn(6, 3, UNITS)
    for _ in range(3):
        before = outputs(layer)
        layer(x)[0].square().sum().backward()
        optimizer.step()
        assert not torch.equal(outputs(layer), before)
        torch.testing.assert_close(outputs(layer), outputs(copy.deepcopy(layer)), rtol=0, atol=0)


def test_functional_call_runs_the_weights_it_is_given() -> None:
    layer = fused_rnn.LSTM(UNITS, UNITS)
    x = torch.randn(5, 2, UNITS)

    def call(parameters: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            result: Tensor = torch.func.functional_call(layer, parameters, (x,))[0]
            return result

    own: dict[str, Tensor] = dict(layer.named_parameters())
    others = {name: torch.randn_like(p) for name, p in own.items()}
    first = call(own)
    assert not torch.equal(call(others), first)
    torch.testing.assert_close(call(own), first, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_variant_and_a_plain_pass_of_the_same_weights_take_turns(dtype: torch.dtype) -> None:
    gates, w_hh = torch.randn(4, 2, 1, 4, UNITS).to(dtype), torch.randn(1, 4 * UNITS, UNITS).to(dtype)
    mask = torch.ones(1, 2, UNITS, dtype=dtype)  # a variant that changes nothing

    def output(mask: Tensor | None) -> Tensor:
        return _ops.forward("lstm", Arguments(gates, w_hh, recurrent_mask=mask), save=False).output

    plain, masked = output(None), output(mask)
    torch.testing.assert_close(masked, plain)
    for _ in range(2):
        torch.testing.assert_close(output(None), plain, rtol=0, atol=0)
        torch.testing.assert_close(output(mask), masked, rtol=0, atol=0)


def test_threads_that_share_a_layer_get_their_own_results() -> None:
    layers = [fused_rnn.LSTM(UNITS, UNITS), fused_rnn.GRU(UNITS, UNITS)]
    xs = [torch.randn(20, 1 + i % 3, UNITS) for i in range(8)]

    def run(work: tuple[Any, Tensor]) -> Tensor:
        torch.set_num_threads(1)
        with torch.no_grad():
            result: Tensor = work[0](work[1])[0]
            return result

    work = [(layer, x) for x in xs for layer in layers]
    expected = [run(pair) for pair in work]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for actual, wanted in zip(pool.map(run, work), expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


def test_what_is_kept_is_bounded() -> None:
    with torch.no_grad():
        for _ in range(12):
            fused_rnn.LSTM(1024, 1024)(torch.randn(2, 1, 1024))  # packs 32 MB
            assert 32 << 20 <= _ops.kept_bytes() <= 128 << 20
