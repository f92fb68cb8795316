"""Weights stay packed from one call to the next, and no change of theirs goes unnoticed."""

from __future__ import annotations

import copy
import random
import threading
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
    "variants": lambda: fused_rnn.GRU(UNITS, UNITS, zoneout=0.1, recurrent_dropout=0.1),
    "float64": lambda: fused_rnn.LSTM(UNITS, UNITS, dtype=torch.float64),
    "bfloat16": lambda: fused_rnn.GRU(UNITS, UNITS, dtype=torch.bfloat16),
    "float16": lambda: fused_rnn.RNN(UNITS, UNITS, dtype=torch.float16),
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


def fresh_outputs(layer: torch.nn.Module) -> Tensor:
    """Those of a copy, whose weights lie where none are packed."""
    return outputs(copy.deepcopy(layer))


def keep(layer: torch.nn.Module) -> Tensor:
    """Lets the layer's weights be packed in memory that is kept, which they are from the second call on."""
    for _ in range(2):
        outputs(layer)
    return outputs(layer)


def matrices(layer: torch.nn.Module) -> list[Tensor]:
    return [p.data for p in layer.parameters() if p.dim() == 2]


def in_place(p: Tensor) -> None:
    with torch.no_grad():
        p.mul_(1.25)


def through_data(p: Tensor) -> None:
    p.data.copy_(p.data.flip(0))


def all_signs(p: Tensor) -> None:
    p.data.neg_()


def one_value(p: Tensor) -> None:
    p.data.view(-1)[-1] += 1


def two_signs(p: Tensor) -> None:
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
    before = keep(layer)
    torch.testing.assert_close(before, fresh_outputs(layer), rtol=0, atol=0)
    for parameter in layer.parameters():
        if parameter.dim() != 2 or parameter.numel() < 300:
            continue
        change(parameter)
        after = outputs(layer)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, fresh_outputs(layer), rtol=0, atol=0)
        before = after


@pytest.mark.parametrize("name", LAYERS)
def test_writes_to_any_two_elements_are_seen(name: str) -> None:
    layer = LAYERS[name]().eval()
    keep(layer)
    for distance in range(1, 100):
        for weights in matrices(layer)[distance % 2 :: 2]:
            flat = weights.view(-1)
            for first, second in ((1.0, 1.0), (-1.0, 1.5)):
                flat[1], flat[1 + distance] = first, second
                after = outputs(layer)
        torch.testing.assert_close(after, fresh_outputs(layer), rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_writes_to_any_elements_are_seen(name: str) -> None:
    layer = LAYERS[name]().eval()
    keep(layer)
    chosen = random.Random(5)
    for trial in range(60):
        flat = chosen.choice(matrices(layer)).view(-1)
        count = trial % 4 + 1 if trial % 8 else chosen.randint(1, len(flat))
        at = torch.tensor([chosen.randrange(len(flat)) for _ in range(count)])
        flat[at] = torch.tensor([chosen.choice([-1.5, -1.0, -0.0, 0.0, 0.25, 1.0]) for _ in range(count)]).to(flat)
        torch.testing.assert_close(outputs(layer), fresh_outputs(layer), rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_zeros_are_found_in_new_memory(name: str) -> None:
    layer = LAYERS[name]().eval()
    drawn = copy.deepcopy(layer.state_dict())
    for value in (0.0, -0.0):
        for weights in matrices(layer):
            weights.fill_(value)
        torch.testing.assert_close(keep(layer), fresh_outputs(layer), rtol=0, atol=0)
    layer.load_state_dict(drawn)
    torch.testing.assert_close(outputs(layer), fresh_outputs(layer), rtol=0, atol=0)


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
        layer(x)[0].square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert not torch.equal(outputs(layer), before)
        torch.testing.assert_close(outputs(layer), fresh_outputs(layer), rtol=0, atol=0)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [fused_rnn.LSTM, fused_rnn.GRU])
def test_weights_swapped_while_a_thread_infers_are_right_when_they_rest(
    make: Callable[..., torch.nn.Module], dtype: torch.dtype
) -> None:
    layer = make(256, 256, dtype=dtype).eval()
    own = {name: p.detach().clone() for name, p in layer.named_parameters()}
    averaged = {name: -p for name, p in own.items()}
    right = fresh_outputs(layer)
    for _ in range(40):
        layer.load_state_dict(averaged)
        keep(layer)
        layer.load_state_dict(own)
        thread = threading.Thread(target=outputs, args=(layer,))
        thread.start()
        layer.load_state_dict(averaged)
        layer.load_state_dict(own)
        thread.join()
        for _ in range(2):
            torch.testing.assert_close(outputs(layer), right, rtol=0, atol=0)


def test_a_set_of_weights_takes_memory_from_the_second_call_on() -> None:
    # Each packs 8 MB and copies 8 MB. No other test has the sizes, so none left its weights' addresses behind.
    first, *layers = (fused_rnn.LSTM(515, 513) for _ in range(4))
    outputs(first)  # leaves the memory that calls share
    before = _ops.kept_bytes()
    for layer in layers:
        outputs(layer)
        assert _ops.kept_bytes() <= before
    before = _ops.kept_bytes()
    outputs(layers[2])
    assert 16 << 20 <= _ops.kept_bytes() - before <= 17 << 20


def test_weights_whose_columns_are_apart_are_never_kept() -> None:
    layer = fused_rnn.LSTM(UNITS, UNITS)
    keep(layer)
    other_strides(layer.get_parameter("weight_hh_l0"))
    before = _ops.kept_bytes()
    torch.testing.assert_close(keep(layer), fresh_outputs(layer), rtol=0, atol=0)
    assert _ops.kept_bytes() <= before


def test_what_is_kept_is_bounded() -> None:
    for _ in range(6):
        keep(fused_rnn.LSTM(1024, 1024))  # packs 32 MB and copies 32 MB
        assert 64 << 20 <= _ops.kept_bytes() <= 256 << 20
