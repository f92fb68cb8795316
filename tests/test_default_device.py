"""A call computes on the device of its arguments, whatever the default device is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from tests.test_in_place import flat
from tests.test_shapes import MODULES, calls, make

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.fixture(params=["device context", "set_default_device"])
def elsewhere(request: Any) -> Any:
    """The meta device as the default one stands for a GPU."""
    return default_device if request.param == "set_default_device" else lambda: torch.device("meta")


def found(module: Any, given: Any, keywords: dict[str, Any], *, second: bool) -> list[Tensor]:
    """The results of a call, its gradients, and the gradients of those."""
    generator = torch.get_rng_state()
    with torch.no_grad():
        results = flat(module(given, **keywords))
    torch.set_rng_state(generator)
    loss = torch.stack([t.square().sum() for t in flat(module(given, **keywords))]).sum()
    parameters = list(module.parameters())
    first = torch.autograd.grad(loss, parameters, create_graph=second)
    if not second:
        return [*results, *first]
    penalty = torch.stack([t.square().sum() for t in first]).sum()
    return [*results, *first, *torch.autograd.grad(penalty, parameters, materialize_grads=True)]


@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_results_and_gradients_are_the_same(name: str, options: dict[str, Any], elsewhere: Any) -> None:
    module, x, states = make(name, options)
    for given, keywords in calls(module, x, states):
        generator = torch.get_rng_state()
        wanted = found(module, given, keywords, second=True)
        torch.set_rng_state(generator)
        with elsewhere():
            same = found(module, given, keywords, second=True)
        for one, other in zip(same, wanted, strict=True):
            assert one.device.type == "cpu"
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_stepper_is_the_same(name: str, elsewhere: Any) -> None:
    module, x = make(name, {})[:2]
    x = x[0]
    there, here = (fused_rnn.Stepper(module, batch_size=2) for _ in range(2))
    with elsewhere():
        stepped, state = there.step(x), there.state
    assert torch.equal(stepped, here.step(x))
    for one, other in zip(flat(state), flat(here.state), strict=True):
        assert torch.equal(one, other)
