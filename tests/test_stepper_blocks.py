"""Stepper.steps: a block of steps in one call has the bits of as many calls of step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS: dict[str, Any] = {
    "lstm": lambda **options: fused_rnn.LSTM(7, 21, **options),
    "lstm_projected": lambda **options: fused_rnn.LSTM(7, 21, proj_size=5, **options),
    "lstm_peephole": lambda **options: fused_rnn.LSTM(7, 21, peephole=True, **options),
    "gru": lambda **options: fused_rnn.GRU(7, 21, **options),
    "rnn_relu": lambda **options: fused_rnn.RNN(7, 21, nonlinearity="relu", **options),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def one_by_one(stepper: fused_rnn.Stepper, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([stepper.step(x_t) for x_t in x])


@pytest.mark.parametrize("weights", [None, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_block_has_the_bits_of_its_steps(name: str, batch: int, weights: torch.dtype | None) -> None:
    layer, x = LAYERS[name](num_layers=2), torch.randn(9, batch, 7)
    stepper, other = (fused_rnn.Stepper(layer, batch, weights=weights) for _ in range(2))
    for block in (x[:1], x[1:4], x[4:4], x[4:]):  # blocks of 1, 3, 0 and 5 steps go on from each other
        found = stepper.steps(block)
        assert found.shape == (len(block), batch, layer.proj_size or 21)
        assert not len(block) or torch.equal(found, one_by_one(other, block))
    torch.testing.assert_close(stepper.state, other.state, rtol=0, atol=0)


def test_threads_share_the_units_of_a_block() -> None:
    layer, x = fused_rnn.LSTM(40, 300, num_layers=2, proj_size=70), torch.randn(11, 3, 40)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(fused_rnn.Stepper(layer, 3).steps(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], layer(x)[0], rtol=2e-6, atol=2e-6)


def test_one_row_needs_no_batch() -> None:
    layer, x = fused_rnn.GRU(7, 21), torch.randn(4, 7)
    y = fused_rnn.Stepper(layer).steps(x)
    assert y.shape == (4, 21)
    assert torch.equal(y, fused_rnn.Stepper(layer).steps(x[:, None])[:, 0])


def test_arrays_come_back_as_arrays() -> None:
    layer, x = fused_rnn.GRU(7, 21), np.random.default_rng(0).normal(size=(4, 2, 7)).astype(np.float32)
    y = fused_rnn.Stepper(layer, 2).steps(x)
    assert isinstance(y, np.ndarray)
    out = np.empty((4, 2, 21), dtype=np.float32)
    x.flags.writeable = False
    assert fused_rnn.Stepper(layer, 2).steps(x, out) is out
    assert np.array_equal(y, out)
    assert np.array_equal(y, fused_rnn.Stepper(layer, 2).steps(torch.tensor(x)).numpy())


def test_a_block_writes_to_out_and_nothing_else() -> None:
    layer, x = fused_rnn.RNN(7, 7), torch.randn(4, 2, 7)
    expected, kept = fused_rnn.Stepper(layer, 2).steps(x), x.clone()
    memory = torch.full((6, 2, 7), 5.0)
    version = memory._version
    out = memory[1:5]
    assert fused_rnn.Stepper(layer, 2).steps(x, out=out) is out
    assert torch.equal(out, expected)
    assert (memory[[0, 5]] == 5.0).all()
    assert torch.equal(x, kept)
    assert memory._version > version
    assert torch.equal(fused_rnn.Stepper(layer, 2).steps(x, out=x), expected)  # in place


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.steps(torch.zeros(3, 2, 6)), ValueError, r"x must have shape \(T, B, input_size\) = \(T, 2, 7\)"),
        (lambda s: s.steps(torch.zeros(2, 7)), ValueError, r"x must have shape .*, got \(2, 7\)"),
        (lambda s: s.steps(torch.tensor(1.0)), ValueError, r"x must have shape .*, got \(\)"),
        (lambda s: s.steps(torch.zeros(3, 2, 7).double()), TypeError, "x must be a torch.float32 tensor on the CPU"),
        (lambda s: s.steps([[0.0]]), TypeError, "x must be a Tensor or a numpy array, got list"),
        (
            lambda s: s.steps(torch.zeros(3, 2, 7), torch.zeros(2, 2, 5)),
            ValueError,
            r"out must be contiguous, of shape",
        ),
        (lambda s: s.steps(torch.zeros(3, 2, 7, device="meta")), TypeError, "x must be .* on meta"),
    ],
)
def test_wrong_arguments_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(fused_rnn.Stepper(fused_rnn.GRU(7, 5), 2))


def test_gradients_are_refused() -> None:
    stepper = fused_rnn.Stepper(fused_rnn.GRU(7, 5), 2)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="x requires grad"):
        stepper.steps(torch.zeros(3, 2, 7, requires_grad=True))
