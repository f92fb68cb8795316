"""A copy of a Stepper is a stream of its own: the same weights, the same state, and from then on apart."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from tests.test_stepper import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COPIES: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def states(stepper: fused_rnn.Stepper) -> torch.Tensor:
    state = stepper.state
    return torch.cat([part.flatten() for part in (state if isinstance(state, tuple) else (state,))])


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("weights", [None, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_goes_on_from_the_same_state_apart(name: str, num_layers: int, weights: Any, way: str) -> None:
    stepper = fused_rnn.Stepper(LAYERS[name](num_layers=num_layers), 3, weights=weights)
    x = torch.randn(5, 3, 7)
    for _ in range(3):  # an odd and an even number of steps
        stepper.step(x[0])
        other, kept = COPIES[way](stepper), states(stepper)
        assert torch.equal(states(other), kept)
        for x_t in x:
            other.step(x_t)
        assert torch.equal(states(stepper), kept)
        after = states(other)
        stepper.reset()
        assert torch.equal(states(other), after)
        third = COPIES[way](other)
        other.reset()
        assert torch.equal(states(third), after)
        assert not states(stepper).any()


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_makes_the_steps_of_the_original(name: str, way: str) -> None:
    stepper, x = fused_rnn.Stepper(LAYERS[name](num_layers=2), 2), torch.randn(6, 2, 7)
    stepper.step(x[0])
    other = COPIES[way](stepper)
    expected = [stepper.step(x_t) for x_t in x]
    del stepper  # the copy keeps the weights alive
    another = COPIES[way](other)
    steps = [other.step(x_t) for x_t in x]
    del other
    assert all(torch.equal(a, b) for a, b in zip(steps, expected, strict=True))
    assert all(torch.equal(another.step(x_t), y) for x_t, y in zip(x, expected, strict=True))


def test_copies_in_a_model_are_copied_once() -> None:
    stepper = fused_rnn.Stepper(fused_rnn.GRU(7, 21))
    first, second = copy.deepcopy([stepper, stepper])
    assert first is second
    assert first is not stepper


def test_a_subclass_keeps_its_class_and_attributes() -> None:
    class Named(fused_rnn.Stepper):
        tags: list[str]

    stepper = Named(fused_rnn.GRU(7, 21))
    stepper.tags = ["a"]
    shallow, deep = copy.copy(stepper), copy.deepcopy(stepper)
    assert type(shallow) is type(deep) is Named
    assert shallow.tags is stepper.tags
    assert deep.tags == ["a"]
    assert deep.tags is not stepper.tags
    assert repr(deep) == repr(stepper)


def test_a_copy_while_another_thread_steps_is_one_of_its_states() -> None:
    stepper = fused_rnn.Stepper(fused_rnn.RNN(7, 21))
    x, ends = torch.ones(1, 7), threading.Event()

    def run() -> None:
        while not ends.is_set():
            stepper.step(x)
            stepper.reset()

    worker = threading.Thread(target=run)
    worker.start()
    copies = [states(copy.copy(stepper)) for _ in range(200)]
    ends.set()
    worker.join()
    stepper.reset()
    stepper.step(x)
    assert all(not each.any() or torch.equal(each, states(stepper)) for each in copies)


@pytest.mark.parametrize("save", [pickle.dumps, lambda stepper: torch.save(stepper, "/dev/null")])
def test_a_stepper_has_no_pickle_and_says_what_has(save: Any) -> None:
    with pytest.raises(TypeError, match="pickle the layer and the stepper's state, and make another Stepper"):
        save(fused_rnn.Stepper(fused_rnn.GRU(7, 21)))
