"""A Stepper reads and writes memory of the CPU that was checked, and no other."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_rnn
from tests.test_stepper import LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["default", "context"])
def _another_default_device(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "context":
        with torch.device("meta"):
            yield
        return
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def all_results(stepper: fused_rnn.Stepper, x: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> list[Any]:
    """Of everything that a stepper does, from the zero state."""
    results = [stepper.step(x), stepper.step(x, out).clone(), stepper.step(x.numpy())]
    state = stepper.state
    stepper.state = None
    results += [stepper.step(x)]
    stepper.state = state
    stepper.reset(rows)
    results += [stepper.step(x), copy.deepcopy(stepper).step(x)]
    state = stepper.state
    results += [*(state if isinstance(state, tuple) else (state,))]
    stepper.reset()
    return [torch.from_numpy(each) if isinstance(each, np.ndarray) else each for each in results]


@pytest.mark.usefixtures("_another_default_device")
@pytest.mark.parametrize("weights", [None, torch.int8])
@pytest.mark.parametrize("name", LAYERS)
def test_another_default_device_changes_nothing(name: str, weights: Any) -> None:
    with torch.device("cpu"), torch.no_grad():
        layer, x = LAYERS[name](num_layers=2), torch.randn(2, 7)
        rows, out = torch.tensor([True, False]), torch.empty(2, layer.proj_size or 21)
        expected = all_results(fused_rnn.Stepper(layer, 2, weights=weights), x, rows, out)
    with torch.no_grad():
        results = all_results(fused_rnn.Stepper(layer, 2, weights=weights), x, rows, out)
    assert all(each.device.type == "cpu" for each in results)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("name", ["lstm", "lstm_projected", "lstm_peephole", "gru"])
def test_one_parameter_without_memory_is_named(name: str) -> None:
    count = len(list(LAYERS[name](num_layers=2).parameters()))
    for index in range(count):
        layer = LAYERS[name](num_layers=2)
        parameter_name, parameter = list(layer.named_parameters())[index]
        setattr(layer, parameter_name, torch.nn.Parameter(parameter.detach().to("meta")))
        with pytest.raises(NotImplementedError, match=r"layer must be on the CPU, got .*meta"):
            fused_rnn.Stepper(layer)


def test_one_parameter_of_another_shape_or_type_is_named() -> None:
    layer = fused_rnn.GRU(7, 21)
    layer.bias_hh_l0 = torch.nn.Parameter(torch.zeros(5))
    with pytest.raises(ValueError, match=r"bias_hh of layer 0 must be torch.float32 of shape \(63,\)"):
        fused_rnn.Stepper(layer)
    layer.bias_hh_l0 = torch.nn.Parameter(torch.zeros(63).double())
    with pytest.raises(ValueError, match=r"bias_hh of layer 0 .* got torch.float64"):
        fused_rnn.Stepper(layer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.step(torch.zeros(2, 7, device="meta")), "x must be .* on the CPU"),
        (lambda s: s.step(torch.zeros(2, 7), torch.zeros(2, 21, device="meta")), "out must be .* on the CPU"),
        (lambda s: setattr(s, "state", torch.zeros(1, 2, 21, device="meta")), "state must be .* on the CPU"),
        (lambda s: s.reset(torch.zeros(2, dtype=torch.bool, device="meta")), "rows must have memory"),
        (lambda s: s.step(torch.zeros(2, 7).to_sparse()), "memory format|contiguous"),
        (lambda s: s.step(torch.zeros(2, 7), torch.zeros(2, 21).to_sparse()), "memory format|contiguous"),
        (lambda s: torch.func.vmap(s.step)(torch.zeros(4, 2, 7)), "[Ss]torage"),
        (lambda s: s.step(np.zeros((2, 7), np.float32), np.broadcast_to(np.zeros(21, np.float32), (2, 21))), "out"),
        (lambda s: s.step(np.zeros((2, 7), np.float32), np.frombuffer(bytes(168), np.float32).reshape(2, 21)), "out"),
    ],
)
def test_what_has_no_memory_to_read_or_write_is_an_error(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError, NotImplementedError), match=message):
        call(fused_rnn.Stepper(fused_rnn.GRU(7, 21), 2))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_fake_tensors_have_no_steps() -> None:
    stepper = fused_rnn.Stepper(fused_rnn.GRU(7, 21))
    with FakeTensorMode():
        x = torch.zeros(1, 7)
        for call in (lambda: stepper.step(x), lambda: stepper.state):
            with pytest.raises((RuntimeError, ValueError), match=r"data pointer|have memory"):
                call()
    assert not stepper.state.any()


def test_x_and_out_may_be_one_memory() -> None:
    for layer in (fused_rnn.GRU(21, 21, num_layers=2), fused_rnn.LSTM(21, 40, proj_size=21)):
        stepper, memory = fused_rnn.Stepper(layer, 3), torch.randn(4, 21)
        for x, out in ((memory[:3], memory[:3]), (memory[:3], memory[1:]), (memory[1:], memory[:3])):
            stepper.reset()
            expected = stepper.step(x.clone())
            stepper.reset()
            assert torch.equal(stepper.step(x, out), expected)


def test_arrays_of_any_order_are_read() -> None:
    stepper = fused_rnn.Stepper(fused_rnn.GRU(7, 21), 2)
    x = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    expected = stepper.step(x)
    wide = np.zeros((4, 14), np.float32)
    wide[::2, ::2] = x
    for same in (x[::-1, ::-1].copy()[::-1, ::-1], np.asfortranarray(x), wide[::2, ::2]):
        stepper.reset()
        assert np.array_equal(stepper.step(same), expected)


def test_a_view_that_negates_is_read_as_it_is() -> None:
    stepper, x = fused_rnn.Stepper(fused_rnn.GRU(7, 21)), torch.randn(1, 7)
    expected = stepper.step(x)
    stepper.reset()
    negated = torch._neg_view(-x)
    assert negated.is_neg()
    assert torch.equal(stepper.step(negated), expected)
    with pytest.raises(ValueError, match="out must be contiguous"):
        stepper.step(x, torch._neg_view(torch.zeros(1, 21)))
    stepper.state = torch._neg_view(-stepper.state)
    assert (stepper.state == expected).all()


def test_autograd_knows_that_out_was_written() -> None:
    stepper, x, out = fused_rnn.Stepper(fused_rnn.GRU(7, 21)), torch.randn(1, 7), torch.zeros(1, 21)
    weight = torch.ones(1, 21, requires_grad=True)
    loss = (weight * stepper.step(x, out)).sum()
    stepper.step(x, out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, weight)
    with pytest.raises(RuntimeError, match="out requires grad"):
        stepper.step(x, torch.zeros(1, 21, requires_grad=True))
    with torch.inference_mode():
        assert stepper.step(x, torch.zeros(1, 21)).any()
