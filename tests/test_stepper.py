"""Tests fused_rnn.Stepper against the layers it steps through."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS: dict[str, Any] = {
    "lstm": lambda **options: fused_rnn.LSTM(7, 21, **options),
    "lstm_projected": lambda **options: fused_rnn.LSTM(7, 21, proj_size=5, **options),
    "lstm_peephole": lambda **options: fused_rnn.LSTM(7, 21, peephole=True, cell_clip=0.4, **options),
    "gru": lambda **options: fused_rnn.GRU(7, 21, **options),
    "rnn_tanh": lambda **options: fused_rnn.RNN(7, 21, **options),
    "rnn_relu": lambda **options: fused_rnn.RNN(7, 21, nonlinearity="relu", **options),
    "torch_gru": lambda **options: torch.nn.GRU(7, 21, **options),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def state_of(layer: Any, batch: int) -> Any:
    """A random state as the layer takes it."""
    dtype = next(layer.parameters()).dtype
    h = 0.5 * torch.randn(layer.num_layers, batch, layer.proj_size or layer.hidden_size, dtype=dtype)
    return (h, torch.randn(layer.num_layers, batch, layer.hidden_size, dtype=dtype)) if layer.mode == "LSTM" else h


def assert_same(given: Any, expected: Any, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch", [1, 2, 5, 19])
@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "dropout": 0.5}, {"bias": False}])
def test_steps_are_those_of_the_layer(name: str, batch: int, options: dict[str, Any]) -> None:
    layer = LAYERS[name](**options).eval()
    stepper, x, start = fused_rnn.Stepper(layer, batch), torch.randn(6, batch, 7), state_of(layer, batch)
    for state in (None, start):
        expected, final = layer(x, state)
        stepper.state = state
        assert_same(torch.stack([stepper.step(x_t) for x_t in x]), expected)
        assert_same(stepper.state, final)


@pytest.mark.parametrize("name", LAYERS)
def test_steps_in_float64_are_exact_to_rounding(name: str) -> None:
    layer = LAYERS[name](num_layers=2, dtype=torch.float64).eval()
    x = torch.randn(6, 3, 7, dtype=torch.float64)
    stepper = fused_rnn.Stepper(layer, 3)
    assert_same(torch.stack([stepper.step(x_t) for x_t in x]), layer(x)[0], 1e-13)


# Error over the largest output after 50 steps of this layer: bfloat16 keeps 8 bits of a weight, int8 7 of the largest
# one in its row.
@pytest.mark.parametrize(("weights", "error"), [(torch.bfloat16, 1e-2), (torch.int8, 2e-2)])
@pytest.mark.parametrize("name", LAYERS)
def test_smaller_weights_are_about_the_same(name: str, weights: torch.dtype, error: float) -> None:
    layer = LAYERS[name](num_layers=2).eval()
    x = torch.randn(50, 2, 7)
    expected = layer(x)[0]
    stepper = fused_rnn.Stepper(layer, 2, weights=weights)
    difference = (torch.stack([stepper.step(x_t) for x_t in x]) - expected).abs().max() / expected.abs().max()
    assert 1e-6 < difference < error


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"num_layers": 2}, {"proj_size": 5}])
def test_int8_steps_are_those_of_the_int8_layer(name: str, options: dict[str, Any]) -> None:
    if "proj_size" in options and name != "LSTM":
        pytest.skip("torch projects an LSTM's state alone")
    layer = getattr(fused_rnn, name)(7, 21, **options)
    quantized, x = fused_rnn.quantize(layer), torch.randn(6, 3, 7)
    expected = quantized(x)[0]
    for stepper in (
        fused_rnn.Stepper(layer, 3, weights=torch.int8),
        fused_rnn.Stepper(quantized, 3),
        fused_rnn.Stepper(quantized, 3, weights=torch.int8),
    ):
        assert torch.equal(stepper.steps(x), expected)


def test_threads_share_the_units_of_a_large_layer() -> None:
    layer = fused_rnn.LSTM(40, 300, num_layers=2, proj_size=70)
    x, threads = torch.randn(5, 3, 40), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            stepper = fused_rnn.Stepper(layer, 3)
            results.append(torch.stack([stepper.step(x_t) for x_t in x]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    assert_same(results[0], layer(x)[0])


def test_arrays_come_back_as_arrays() -> None:
    layer = fused_rnn.GRU(7, 21)
    stepper, x = fused_rnn.Stepper(layer), np.random.default_rng(0).normal(size=(4, 1, 7)).astype(np.float32)
    outputs = [stepper.step(x_t) for x_t in x]
    assert all(isinstance(y, np.ndarray) and y.shape == (1, 21) for y in outputs)
    assert_same(torch.from_numpy(np.stack(outputs)), layer(torch.from_numpy(x))[0])
    out = np.empty((1, 21), dtype=np.float32)
    stepper.reset()
    assert stepper.step(x[0], out) is out
    assert np.array_equal(out, outputs[0])
    x.flags.writeable = False
    assert np.array_equal(stepper.step(x[1, 0]), outputs[1][0])


def test_a_step_writes_to_out_and_nothing_else() -> None:
    stepper, x = fused_rnn.Stepper(fused_rnn.RNN(7, 21), 2), torch.randn(2, 7)
    kept = x.clone()
    expected = stepper.step(x)
    memory = torch.full((4, 21), 5.0)
    stepper.reset()
    assert stepper.step(x, out=memory[1:3]).data_ptr() == memory[1:3].data_ptr()
    assert torch.equal(memory[1:3], expected)
    assert (memory[[0, 3]] == 5.0).all()
    assert torch.equal(x, kept)


def test_one_row_needs_no_batch_and_x_no_order() -> None:
    stepper, x = fused_rnn.Stepper(fused_rnn.GRU(7, 21), 1), torch.randn(7, 2)
    expected = stepper.step(x[:, 0].reshape(1, 7).contiguous())
    stepper.reset()
    assert torch.equal(stepper.step(x[:, 0]), expected[0])


def test_reset_of_some_rows() -> None:
    layer = fused_rnn.LSTM(7, 21, num_layers=2)
    stepper, x, start = fused_rnn.Stepper(layer, 3), torch.randn(3, 7), state_of(layer, 3)
    stepper.state = start
    stepper.reset(torch.tensor([True, False, True]))
    assert_same(stepper.state, tuple(s * torch.tensor([0.0, 1.0, 0.0])[:, None] for s in start))
    resets = torch.tensor([[True, False, True]])
    assert_same(stepper.step(x), layer(x[None], start, resets=resets)[0][0])


def test_the_state_is_a_copy() -> None:
    stepper = fused_rnn.Stepper(fused_rnn.GRU(7, 21))
    stepper.step(torch.randn(1, 7))
    state = stepper.state
    kept = state.clone()
    state.zero_()
    assert torch.equal(stepper.state, kept)
    stepper.state = state
    state.fill_(1.0)
    assert not stepper.state.any()


def test_the_weights_are_a_copy() -> None:
    layer, x = fused_rnn.GRU(7, 21), torch.randn(1, 7)
    stepper = fused_rnn.Stepper(layer)
    expected = stepper.step(x)
    for parameter in layer.parameters():
        parameter.zero_()
    stepper.reset()
    assert torch.equal(stepper.step(x), expected)


def test_steps_of_two_threads_take_turns() -> None:
    layer = fused_rnn.RNN(7, 21)
    stepper, x = fused_rnn.Stepper(layer), torch.randn(1, 7)

    def run() -> None:
        for _ in range(500):
            stepper.step(x)

    workers = [threading.Thread(target=run) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert_same(stepper.state, layer(x.expand(1000, 1, 7))[1])


def test_repr_names_the_layer() -> None:
    text = repr(fused_rnn.Stepper(fused_rnn.GRU(7, 21), 2, weights=torch.int8))
    assert text == "Stepper(GRU(7, 21), batch_size=2, weights=torch.int8)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fused_rnn.Stepper(torch.nn.Linear(3, 4)), TypeError, "layer must be an LSTM, GRU or RNN, got Linear"),
        (
            lambda: fused_rnn.Stepper(fused_rnn.Chain(fused_rnn.GRU(3, 4), torch.nn.Linear(4, 1))),
            TypeError,
            "got Chain: give one of its layers, '0'$",
        ),
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4, bidirectional=True)), ValueError, "must have one direction"),
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4), 0), ValueError, "batch_size must be an integer above 0, got 0"),
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4), 1.0), ValueError, "batch_size must be an integer"),  # type: ignore[arg-type]
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4), weights=torch.float16), TypeError, "weights must be None"),
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4, layer_norm=True)), NotImplementedError, "layer has layer_norm"),
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4, zoneout=0.1)), NotImplementedError, "layer has zoneout"),
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4, device="meta")), NotImplementedError, "must be on the CPU"),
        (
            lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4).bfloat16()),
            ValueError,
            "float32 or float64, got torch.bfloat16",
        ),
        (lambda: fused_rnn.Stepper(fused_rnn.GRU(3, 4).double(), weights=torch.int8), ValueError, "of type float32 to"),
    ],
)
def test_what_has_no_stepper(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.step([1.0]), TypeError, "x must be a Tensor or a numpy array, got list"),
        (
            lambda s: s.step(torch.zeros(3, 2)),
            ValueError,
            r"x must have shape \(B, input_size\) = \(2, 3\), got \(3, 2\)",
        ),
        (lambda s: s.step(torch.zeros(3)), ValueError, "x must have shape"),
        (lambda s: s.step(torch.zeros(2, 3).double()), TypeError, "x must be a torch.float32 tensor"),
        (lambda s: s.step(torch.zeros(2, 3, device="meta")), TypeError, "on the CPU, got .* on meta"),
        (
            lambda s: s.step(torch.zeros(2, 3), torch.zeros(2, 5)),
            ValueError,
            r"out must be contiguous, of shape \(2, 4\)",
        ),
        (lambda s: s.step(torch.zeros(2, 3), torch.zeros(4, 2).t()), ValueError, "out must be contiguous"),
        (
            lambda s: s.step(torch.zeros(2, 3), torch.zeros(2, 4).double()),
            TypeError,
            "out must be a torch.float32 tensor",
        ),
        (lambda s: s.step(np.zeros((2, 3), np.float32), torch.zeros(2, 4)), TypeError, "out must be a numpy array"),
        (lambda s: s.reset(torch.zeros(2)), ValueError, "rows must be a bool tensor"),
        (lambda s: setattr(s, "state", torch.zeros(1, 2, 4)), TypeError, "state must be a tuple"),
        (lambda s: setattr(s, "state", (torch.zeros(1, 2, 4), None)), ValueError, r"state\[1\] must be"),
        (lambda s: setattr(s, "state", (torch.zeros(2, 4), torch.zeros(1, 2, 4))), ValueError, r"state\[0\] must be"),
    ],
)
def test_wrong_arguments_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(fused_rnn.Stepper(fused_rnn.LSTM(3, 4), 2))


def test_gradients_are_refused() -> None:
    stepper, x = fused_rnn.Stepper(fused_rnn.GRU(3, 4)), torch.zeros(1, 3, requires_grad=True)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="a Stepper has no gradients"):
        stepper.step(x)
    assert isinstance(stepper.step(x), Tensor)


def test_sizes_of_weights() -> None:
    layer = fused_rnn.LSTM(64, 64)
    sizes = [fused_rnn.Stepper(layer, weights=weights).weight_bytes for weights in (None, torch.bfloat16, torch.int8)]
    assert sizes == [2 * 4 * 64 * 64 * size for size in (4, 2, 1)]


@pytest.mark.parametrize("options", [{"peephole": True}, {"cell_clip": 0.1}], ids=str)
def test_steps_of_a_projected_layer_with_peepholes_or_a_limit_are_those_of_the_layer(options: dict[str, Any]) -> None:
    layer = fused_rnn.LSTM(3, 7, num_layers=2, proj_size=2, **options).eval()
    x = torch.randn(5, 4, 3)
    stepper = fused_rnn.Stepper(layer, 4)
    torch.testing.assert_close(torch.stack([stepper.step(step) for step in x]), layer(x)[0], rtol=0, atol=2e-6)


def test_weights_whose_sign_is_a_flag_of_the_tensor_are_read_with_it() -> None:
    layer = fused_rnn.GRU(3, 7)
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, torch.nn.Parameter(torch._neg_view(-parameter.detach())))
    x = torch.randn(5, 1, 3)
    stepper = fused_rnn.Stepper(layer)
    torch.testing.assert_close(torch.stack([stepper.step(step) for step in x]), layer(x)[0], rtol=0, atol=2e-6)
