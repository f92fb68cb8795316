"""strict() makes an error of what runs in plain torch, and of nothing else, for the thread or task that asks."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch.autograd import forward_ad

import fused_rnn
from fused_rnn import _strict

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")

# Torch compiles functions of its own when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def problem(name: str = "GRU") -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """A module as a function of its input to its output or hidden state, and an input."""
    module: Any = getattr(fused_rnn, name)(3, 5)

    def function(x: torch.Tensor) -> torch.Tensor:
        result = module(x)
        first: torch.Tensor = result if isinstance(result, torch.Tensor) else result[0]
        return first

    shape = (2, 3) if name.endswith("Cell") else (4, 2, 3)
    return function, torch.randn(shape, requires_grad=True)


def gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, **options: Any) -> torch.Tensor:
    (found,) = torch.autograd.grad(function(x).square().sum(), x, **options)
    return found


def second_gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    torch.autograd.grad(gradient(function, x, create_graph=True).sum(), x)


@pytest.mark.parametrize("name", NAMES)
def test_training_stays_in_the_kernels(name: str) -> None:
    function, x = problem(name)
    expected = gradient(function, x)
    with fused_rnn.strict():
        assert torch.equal(gradient(function, x), expected)
        again = gradient(function, x, create_graph=True)
        torch.testing.assert_close(again, expected)  # whose products are others
        with torch.no_grad():
            function(x)


def test_per_sample_gradients_stay_in_the_kernels() -> None:
    function, x = problem("GRUCell")
    per_sample = torch.func.vmap(torch.func.grad(lambda row: function(row).sum()))
    with fused_rnn.strict():
        assert per_sample(x.detach()).shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_refused(name: str) -> None:
    function, x = problem(name)
    with fused_rnn.strict():
        found = gradient(function, x, create_graph=True)
        with pytest.raises(fused_rnn.ReferencePathError, match="second derivatives would run in plain torch, since"):
            torch.autograd.grad(found.sum(), x)
    second_gradient(function, x)


@pytest.mark.parametrize("name", NAMES)
def test_tangents_are_refused(name: str) -> None:
    function, x = problem(name)
    x, forward_mode = x.detach(), cast("Any", forward_ad)
    with fused_rnn.strict(), pytest.raises(fused_rnn.ReferencePathError, match=r"strict: tangents \(forward-mode"):
        torch.func.jvp(function, (x,), (x,))
    with fused_rnn.strict(), forward_mode.dual_level(), pytest.raises(fused_rnn.ReferencePathError, match="tangents"):
        function(forward_mode.make_dual(x, x))
    torch.func.jvp(function, (x,), (x,))


def summed(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: function(x).sum()


REFUSED: dict[str, Callable[[Any], Any]] = {
    "tangents of tangents": lambda function: torch.func.jacfwd(torch.func.jacfwd(function)),
    "tangents": lambda function: torch.func.jacfwd(torch.func.grad(summed(function))),
    "second derivatives": lambda function: torch.func.grad(summed(torch.func.grad(summed(function)))),
}


@pytest.mark.parametrize("what", REFUSED)
def test_second_derivatives_of_torch_func_are_refused(what: str) -> None:
    function, x = problem()
    derivative = REFUSED[what](function)
    with (
        fused_rnn.strict(),
        pytest.raises(fused_rnn.ReferencePathError, match=f"strict: {what} .*would run in plain torch"),
    ):
        derivative(x.detach())
    derivative(x.detach())


def test_tangents_of_gradients_are_refused() -> None:
    function, x = problem()

    def push(d_y: torch.Tensor) -> torch.Tensor:
        (d_x,) = torch.autograd.grad(function(x), x, d_y, create_graph=True)
        return d_x

    tangent, forward_mode = torch.ones(4, 2, 5), cast("Any", forward_ad)
    with forward_mode.dual_level():
        dual = forward_mode.make_dual(tangent, tangent)
        assert forward_mode.unpack_dual(push(dual)).tangent is not None
        with fused_rnn.strict(), pytest.raises(fused_rnn.ReferencePathError, match="strict: tangents of gradients"):
            push(dual)


def test_blocks_nest_and_end_after_an_error() -> None:
    def fail() -> None:
        with fused_rnn.strict():
            with fused_rnn.strict():
                assert _strict.active()
            assert _strict.active()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert not _strict.active()
    assert _strict._open_blocks == 0


def test_it_is_a_decorator() -> None:
    function, x = problem()

    @fused_rnn.strict()
    def step() -> None:
        second_gradient(function, x)

    for _ in range(2):
        with pytest.raises(fused_rnn.ReferencePathError):
            step()
    assert not _strict.active()


def in_thread(call: Callable[[], Any]) -> list[Exception]:
    """What the call raises in a thread of its own, which starts with no context, as autograd's threads do."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors


def test_other_threads_are_not_concerned() -> None:
    function, x = problem()
    with fused_rnn.strict():
        assert in_thread(lambda: second_gradient(function, x)) == []


def test_what_was_called_in_a_block_stays_strict_in_other_threads() -> None:
    function, x = problem()
    with fused_rnn.strict():
        y = function(x)
    found: list[torch.Tensor] = []
    assert in_thread(lambda: found.extend(torch.autograd.grad(y.square().sum(), x, create_graph=True))) == []
    (error,) = in_thread(lambda: torch.autograd.grad(found[0].sum(), x))
    assert isinstance(error, fused_rnn.ReferencePathError)


def test_other_tasks_are_not_concerned() -> None:
    function, x = problem()

    async def strictly(entered: asyncio.Event, done: asyncio.Event) -> None:
        with fused_rnn.strict():
            entered.set()
            await done.wait()
            with pytest.raises(fused_rnn.ReferencePathError):
                second_gradient(function, x)

    async def freely(entered: asyncio.Event, done: asyncio.Event) -> None:
        await entered.wait()
        second_gradient(function, x)
        done.set()

    async def both() -> None:
        events = asyncio.Event(), asyncio.Event()
        await asyncio.gather(strictly(*events), freely(*events))

    asyncio.run(both())


@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_compiled_reference_path_is_refused_inside_of_a_block_only(fullgraph: bool) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        _strict.reference_path("the test would run in plain torch, since it is one")
        return 2 * x

    compiled: Any = torch.compile(function, backend="eager", fullgraph=fullgraph)
    x = torch.ones(2)
    for _ in range(2):
        assert torch.equal(compiled(x), 2 * x)
        # A whole graph has no place for an error, so Dynamo raises its own; otherwise the error is ours.
        with fused_rnn.strict(), pytest.raises(RuntimeError, match="Observed exception" if fullgraph else "the test"):
            compiled(x)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does it
def test_a_compiled_layer_trains_inside_of_a_block() -> None:
    layer, x = fused_rnn.GRU(3, 5), torch.randn(4, 2, 3, requires_grad=True)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    expected = gradient(lambda x: layer(x)[0], x)
    with fused_rnn.strict():
        torch.testing.assert_close(gradient(lambda x: compiled(x)[0], x), expected)
