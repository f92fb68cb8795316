"""What a node saves is its users' business, too: tools walk it, hooks take it, and gradients are kept and scaled."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tests.test_in_place import CELLS, HOW, LAYERS, Problem, assert_equal, each_module

COMPILED: tuple[tuple[str, dict[str, Any]], ...] = (("LSTM", {}), ("GRU", {"bidirectional": True}), ("RNNCell", {}))


def loss_of(problem: Problem) -> Tensor:
    return problem.loss(lambda _: None, cloned=False, which=0)


def nodes_of(tensor: Tensor) -> list[Any]:
    found, waiting = [], [tensor.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in found:
            continue
        found.append(node)
        waiting += [following for following, _ in node.next_functions]
    return found


@each_module
def test_everything_that_a_node_saves_is_a_tensor(name: str, options: dict[str, Any]) -> None:
    problem = Problem(name, options)
    first = torch.autograd.grad(loss_of(problem), list(problem.module.parameters())[:1], create_graph=True)[0]
    walked = 0
    for node in [*nodes_of(loss_of(problem)), *nodes_of(first)]:
        if hasattr(node, "saved_tensors"):
            assert all(isinstance(each, Tensor) for each in node.saved_tensors), node
            walked += 1
    assert walked > 0


def addresses(tensor: Tensor) -> set[tuple[int, int]]:
    """Of the elements: the storage and the place in it."""
    storage = tensor.untyped_storage()
    places = torch.arange(storage.nbytes() // tensor.element_size())
    own = places.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return {(storage.data_ptr(), place) for place in own.flatten().tolist()}


def assert_apart(tensors: list[Tensor]) -> None:
    for one, other in itertools.combinations(map(addresses, tensors), 2):
        assert not one & other


def each_gradient(loss: Tensor, leaves: list[Tensor], **how: Any) -> list[Tensor]:
    found: tuple[Tensor | None, ...] = torch.autograd.grad(loss, leaves, allow_unused=True, **how)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("how", HOW)
@each_module
def test_no_two_gradients_share_memory(name: str, options: dict[str, Any], how: str) -> None:
    if name.endswith("Cell") and how != "plain":
        return
    problem = Problem(name, options, **HOW[how])
    leaves = [problem.x, *problem.states, *problem.module.parameters()]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = each_gradient(loss_of(problem), leaves)
    for again in (False, True):
        found = each_gradient(loss_of(problem), leaves, create_graph=again)
        assert_apart(found)
        assert len(found) >= len(leaves) - (0 if how == "plain" else 1)
    for leaf in leaves:  # as a user does it
        leaf.grad = None
    loss_of(problem).backward()  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    for gradient in gradients:
        gradient.mul_(2)
    assert_equal(tuple(gradients), tuple(2 * each for each in expected))


@pytest.mark.parametrize(("name", "options"), COMPILED, ids=str)
def test_no_two_gradients_of_a_compiled_call_share_memory(name: str, options: dict[str, Any]) -> None:
    problem = Problem(name, options)
    leaves = [problem.x.requires_grad_(), *problem.module.parameters()]
    torch._dynamo.reset()
    compiled = torch.compile(lambda: loss_of(problem), backend="aot_eager")
    assert_apart(each_gradient(compiled(), leaves))


@pytest.mark.usefixtures("by_ops")
@each_module
def test_the_backward_pass_writes_over_nothing_that_hooks_own(name: str, options: dict[str, Any]) -> None:
    problem = Problem(name, options)
    expected = problem.gradients(loss_of(problem))
    for copies in (True, False):
        owned: list[Tensor] = []

        def pack(tensor: Tensor, owned: list[Tensor] = owned, copies: bool = copies) -> int:
            owned.append(tensor.detach().clone() if copies else tensor)
            return len(owned) - 1

        with saved_tensors_hooks(pack, owned.__getitem__):
            loss = loss_of(problem)
        before = [tensor.clone() for tensor in owned]
        assert_equal(problem.gradients(loss), expected)
        assert all(torch.equal(one, other) for one, other in zip(owned, before, strict=True))


@pytest.mark.usefixtures("by_ops")
@pytest.mark.parametrize(("name", "options"), CELLS + LAYERS[:5], ids=str)
def test_hooks_of_a_single_saved_tensor_own_it(name: str, options: dict[str, Any]) -> None:
    problem = Problem(name, options)
    expected = problem.gradients(loss_of(problem))
    loss = loss_of(problem)
    owned: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        owned.append(tensor.clone())
        return len(owned) - 1

    for node in nodes_of(loss):
        for saved in getattr(node, "_raw_saved_tensors", ()):
            saved.register_hooks(pack, owned.__getitem__)
    assert owned
    before = [tensor.clone() for tensor in owned]
    assert_equal(problem.gradients(loss), expected)
    assert all(torch.equal(one, other) for one, other in zip(owned, before, strict=True))


@each_module
def test_an_exception_of_a_hook_passes_and_the_layer_runs_once(name: str, options: dict[str, Any]) -> None:
    problem = Problem(name, options)
    for kind in (RuntimeError, MemoryError, ValueError):
        calls: list[int] = []

        def pack(_: Tensor, calls: list[int] = calls, kind: type[Exception] = kind) -> None:
            calls.append(1)
            raise kind("no space on device")

        with saved_tensors_hooks(pack, lambda x: x), pytest.raises(kind, match="no space"):
            loss_of(problem)
        assert len(calls) == 1


def test_what_is_saved_is_freed_by_the_backward_pass() -> None:
    for name, options in (*LAYERS, *CELLS):
        problem = Problem(name, options)
        loss = loss_of(problem)
        saved = [weakref.ref(t) for node in nodes_of(loss) for t in getattr(node, "saved_tensors", ()) if t.dim() == 5]
        problem.gradients(loss)
        del loss
        assert not [each for each in saved if each() is not None]


@each_module
def test_functionalize_gives_the_same_results_and_gradients(name: str, options: dict[str, Any]) -> None:
    if "zoneout" in options or "recompute" in options:
        pytest.skip("draws, and another node of torch's")
    problem = Problem(name, options)
    functional = torch.func.functionalize(lambda x: tuple(problem.call(x)))
    expected, found = problem.call(), functional(problem.x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)  # of bfloat16
    sums = [torch.stack([r.float().square().sum() for r in results]).sum() for results in (found, expected)]
    tolerance = 2e-1 if options.get("dtype") else 1e-4  # other products of half types
    for one, other in zip(*(problem.gradients(each) for each in sums), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@each_module
def test_saved_tensors_may_be_changed_where_torch_keeps_copies(name: str, options: dict[str, Any]) -> None:
    problem = Problem(name, options)
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        expected = problem.gradients(loss_of(problem))
        loss = loss_of(problem)
        # (In a stack a layer saves a part of the states, a view, which torch's copies do not cover.)
        for tensor in (problem.x, *(() if "num_layers" in options else problem.states)):
            tensor.zero_()
        if not options.get("recompute"):  # which runs again from what is there
            assert_equal(problem.gradients(loss), expected)
