"""What is changed in place after a call: gradients are those of the same change out of place, or an error. Never wrong.

Right are the gradients that the layer has where the change is made to a clone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {}),
    ("LSTM", {"bidirectional": True, "num_layers": 2}),
    ("LSTM", {"proj_size": 3, "batch_first": True}),
    ("GRU", {}),
    ("GRU", {"bidirectional": True}),
    ("RNN", {"num_layers": 2}),
    ("RNN", {"nonlinearity": "relu"}),
    ("LSTM", {"layer_norm": True}),
    ("GRU", {"layer_norm": True, "bias": False}),
    ("GRU", {"zoneout": 0.5}),
    ("LSTM", {"peephole": True, "cell_clip": 0.5}),
    ("LSTM", {"recompute": True}),
    ("GRU", {"dtype": torch.bfloat16}),
)
CELLS: tuple[tuple[str, dict[str, Any]], ...] = (("LSTMCell", {}), ("GRUCell", {}), ("RNNCell", {}))
each_module = pytest.mark.parametrize(("name", "options"), LAYERS + CELLS, ids=str)
each_layer = pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
COMPILED: tuple[tuple[str, dict[str, Any]], ...] = (*LAYERS[:4], LAYERS[6], *CELLS)


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [tensor for part in result for tensor in flat(part)]


class Problem:
    """A module, its arguments, and the gradients of a loss that sees the results after a change."""

    def __init__(self, name: str, options: dict[str, Any], **how: Any) -> None:
        torch.manual_seed(0)
        self.module: Any = getattr(fused_rnn, name)(3, 8, **options)
        dtype = options.get("dtype", torch.float32)
        self.x = torch.randn(2, 3, dtype=dtype) if name.endswith("Cell") else torch.randn(5, 5, 3, dtype=dtype)
        count = 2 if name.startswith("LSTM") else 1
        self.states = [torch.randn_like(state) for state in flat(self.module(self.x))[-count:]]
        self.how, self.lstm = how, name.startswith("LSTM")

    def call(self, x: Any = None, states: Any = None) -> list[Tensor]:
        states = self.states if states is None else states
        x = self.x if x is None else x
        if self.how.get("packed"):
            x = pack_padded_sequence(x, torch.tensor([5, 4, 2, 2, 1]), batch_first=self.module.batch_first)
        keywords = {key: value for key, value in self.how.items() if key != "packed"}
        if not torch.compiler.is_compiling():
            torch.manual_seed(1)
        return flat(self.module(x, tuple(states) if self.lstm else states[0], **keywords))

    def loss(self, change: Callable[[Tensor], Any], *, cloned: bool, which: int) -> Tensor:
        results = self.call()
        if cloned:
            results[which] = results[which].clone()
        change(results[which])
        return torch.stack([result.float().square().sum() for result in results]).sum()

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, list(self.module.parameters()))


def scale(t: Tensor) -> None:
    t.mul_(3)


def relu(t: Tensor) -> None:
    torch.relu_(t)


def mask(t: Tensor) -> None:
    t[:, 1] = 0


HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": torch.tensor([5, 0, 2, 5, 1])},
    "resets": {"resets": torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) < 0.3},
    "packed": {"packed": True},
}


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def check_results(problem: Problem) -> None:
    for which in range(len(problem.call())):
        for change in (scale, relu, mask):
            expected = problem.gradients(problem.loss(change, cloned=True, which=which))
            assert_equal(problem.gradients(problem.loss(change, cloned=False, which=which)), expected)


@pytest.mark.parametrize("how", HOW)
@each_layer
def test_every_result_of_a_layer_may_be_changed(name: str, options: dict[str, Any], how: str) -> None:
    check_results(Problem(name, options, **HOW[how]))


@pytest.mark.parametrize(("name", "options"), CELLS, ids=str)
def test_every_result_of_a_cell_may_be_changed(name: str, options: dict[str, Any]) -> None:
    check_results(Problem(name, options))


def test_the_cell_states_may_be_changed() -> None:
    for options in ({}, {"bidirectional": True, "num_layers": 2}, {"layer_norm": True}, {"recompute": True}):
        check_results(Problem("LSTM", options, return_cells=True))


@each_module
def test_results_may_be_changed_before_second_derivatives(name: str, options: dict[str, Any]) -> None:
    if options.get("dtype") is not None:
        pytest.skip("second derivatives of roundings")
    problem = Problem(name, options)
    found = []
    for cloned in (True, False):
        loss = problem.loss(relu, cloned=cloned, which=0)
        first = torch.autograd.grad(loss, list(problem.module.parameters()), create_graph=True)
        found.append(problem.gradients(torch.stack([each.square().sum() for each in first]).sum()))
    assert_equal(found[1], found[0])


@each_module
def test_results_may_be_changed_within_vmap(name: str, options: dict[str, Any]) -> None:
    if options.get("recompute") or "zoneout" in options:
        pytest.skip("not under torch.func" if "recompute" in options else "draws under vmap need a mode")
    problem = Problem(name, options)

    def loss(x: Tensor, *, cloned: bool) -> Tensor:
        results = problem.call(x)
        if cloned:
            results[0] = results[0].clone()
        results[0].mul_(2).relu_()
        return torch.stack([result.float().square().sum() for result in results]).sum()

    xs = torch.stack([problem.x, problem.x.flip(0)])
    found = [torch.func.vmap(torch.func.grad(lambda x, c=cloned: loss(x, cloned=c)))(xs) for cloned in (True, False)]
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize(
    ("name", "options", "backend"),
    [*((*each, "aot_eager") for each in COMPILED), (*LAYERS[3], "inductor")],
    ids=str,
)
def test_results_may_be_changed_in_a_compiled_function(name: str, options: dict[str, Any], backend: str) -> None:
    problem = Problem(name, options)
    torch._dynamo.reset()

    def loss(*, cloned: bool) -> Tensor:  # of each result changed after a call of its own
        return torch.stack([problem.loss(relu, cloned=cloned, which=which) for which in range(count)]).sum()

    count = len(problem.call())
    found = torch.compile(lambda: loss(cloned=False), backend=backend)()
    assert_equal(problem.gradients(found), problem.gradients(loss(cloned=True)))


def loss_before(problem: Problem, argument: Tensor | None) -> Callable[[], Tensor]:
    """A loss that is taken after a call; the function then overwrites the argument itself."""

    def loss() -> Tensor:
        results = problem.call()
        if argument is not None:
            overwrite(argument)
        return torch.stack([result.square().sum() for result in results]).sum()

    return loss


def gradients_after(problem: Problem, loss: Callable[[], Tensor], argument: Tensor | None) -> tuple[Tensor, ...] | None:
    """Those of a loss after which an argument is overwritten; None for an error."""
    found = loss()
    if argument is not None:
        overwrite(argument)
    try:
        return problem.gradients(found)
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            return None
        raise


def overwrite(t: Tensor) -> None:
    with torch.no_grad():
        t.copy_(~t if t.dtype == torch.bool else 1 - t)


OVERWRITTEN = (*COMPILED, LAYERS[7], LAYERS[11])
# A function that overwrites an argument is compiled for each one. The graph has the same operators for every cell.
COMPILED_WITHIN = (LAYERS[2], LAYERS[6], LAYERS[7], LAYERS[11], CELLS[0])


@pytest.mark.parametrize(
    ("name", "options", "way"),
    [
        *((*each, way) for each in OVERWRITTEN for way in ("eager-within", "eager-outside", "compiled-outside")),
        *((*each, "compiled-within") for each in COMPILED_WITHIN),
    ],
    ids=str,
)
def test_an_overwritten_argument_is_seen(name: str, options: dict[str, Any], way: str) -> None:
    compiled, within = way.startswith("compiled"), way.endswith("within")
    ragged = {} if name.endswith("Cell") else {"resets": HOW["resets"]["resets"].clone()}
    problem = Problem(name, options, **ragged)
    expected = problem.gradients(problem.loss(lambda _: None, cloned=False, which=0))
    weights = [p for p in problem.module.parameters() if p.dim() == 2][:2]
    if options.get("recompute") and compiled and within:
        weights = []  # torch.utils.checkpoint, compiled, takes them as they are later, around any module (torch 2.13)
    torch._dynamo.reset()
    unchanging = loss_before(problem, None)
    if compiled:  # once for all arguments that are overwritten outside
        unchanging = torch.compile(unchanging, backend="aot_eager")
    for argument in (problem.x, *problem.states, *ragged.values(), *weights):
        before = argument.detach().clone()
        try:
            if within:
                torch._dynamo.reset()
                loss = loss_before(problem, argument)
                found = gradients_after(problem, torch.compile(loss, backend="aot_eager") if compiled else loss, None)
            else:
                found = gradients_after(problem, unchanging, argument)
        except torch._dynamo.exc.BackendCompilerFailed as error:  # what autograd says while it traces
            if "modified by an inplace operation" not in str(error):
                raise
            found = None
        finally:
            with torch.no_grad():
                argument.copy_(before)
        if found is not None:
            assert_equal(found, expected)


@each_module
def test_results_are_no_views(name: str, options: dict[str, Any]) -> None:
    if options.get("batch_first"):
        return  # torch.nn's are views there, too
    problem = Problem(name, options)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for result in problem.call():
                result.detach_()
