"""What torch does to the parameters of modules, it does to ours as to torch.nn's: equal results and gradients."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.utils import parametrizations, prune

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Name, options, and a weight that takes part in every step.
MODULES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("LSTM", {"num_layers": 2, "bidirectional": True}, "weight_hh_l1_reverse"),
    ("GRU", {"batch_first": True}, "weight_hh_l0"),
    ("RNN", {"num_layers": 2}, "weight_ih_l1"),
    ("LSTMCell", {}, "weight_hh"),
    ("GRUCell", {}, "weight_ih"),
    ("RNNCell", {"nonlinearity": "relu"}, "weight_hh"),
)
each_module = pytest.mark.parametrize(("name", "options", "weight"), MODULES, ids=str)


def make(namespace: Any, name: str, options: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return getattr(namespace, name)(5, 5, **options)


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def arguments(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Input, and for a cell a state, without which W_hh would not matter."""
    if not name.endswith("Cell"):
        return (torch.randn(4, 3, 5, dtype=dtype),)
    x, h, c = torch.randn(3, 3, 5, dtype=dtype)
    return x, (h, c) if name == "LSTMCell" else h


def run(module: Any, name: str) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Results of a call and the gradients of the parameters by name."""
    torch.manual_seed(1)
    results = flat(module(*arguments(name, next(module.parameters()).dtype)))
    module.zero_grad()
    torch.stack([result.square().sum() for result in results]).sum().backward()  # type: ignore[no-untyped-call]
    return results, {key: p.grad for key, p in module.named_parameters() if p.grad is not None}


def assert_same(name: str, *modules: Any) -> None:
    """Two modules have equal results and gradients, of parameters with equal names."""
    (results, gradients), (expected, expected_gradients) = (run(module, name) for module in modules)
    assert list(gradients) == list(expected_gradients)
    assert len(gradients) > 0
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other)
    for key, one in gradients.items():
        torch.testing.assert_close(one, expected_gradients[key])


def assert_same_after(change: Callable[[Any], Any], name: str, options: dict[str, Any]) -> Any:
    """A change makes a difference, and the same one as for torch.nn; the changed module."""
    ours, theirs = (change(make(namespace, name, options)) for namespace in (fused_rnn, torch.nn))
    assert_same(name, ours, theirs)
    unchanged = make(fused_rnn, name, options)
    assert not torch.equal(run(ours, name)[0][0], run(unchanged, name)[0][0])
    return ours


@each_module
def test_weight_norm(name: str, options: dict[str, Any], weight: str) -> None:
    def change(module: Any) -> Any:
        parametrizations.weight_norm(module, weight)
        with torch.no_grad():
            module.parametrizations[weight].original0.mul_(2.0)
        return module

    ours = assert_same_after(change, name, options)
    assert any("original0" in key for key, _ in ours.named_parameters())


@each_module
def test_spectral_norm(name: str, options: dict[str, Any], weight: str) -> None:
    def change(module: Any) -> Any:
        torch.manual_seed(2)  # of the first vectors of the power iteration
        parametrizations.spectral_norm(module, weight)
        return module.eval()  # in training it goes on with every look at the weight: torch.nn's layers have several

    assert_same_after(change, name, options)


@each_module
def test_pruning(name: str, options: dict[str, Any], weight: str) -> None:
    def change(module: Any) -> Any:
        return prune.l1_unstructured(module, weight, amount=0.4)  # type: ignore[no-untyped-call]

    ours = assert_same_after(change, name, options)
    parameter = getattr(ours, weight)
    assert (parameter == 0).sum() == round(0.4 * parameter.numel())
    before = run(ours, name)[0]
    prune.remove(ours, weight)  # type: ignore[no-untyped-call]
    assert torch.equal(run(ours, name)[0][0], before[0])


@each_module
def test_tied_weights(name: str, options: dict[str, Any], weight: str) -> None:
    """Two modules that share a weight, and a call of one after the other: the weight has the sum of two gradients."""

    class Tied(torch.nn.Module):
        def __init__(self, namespace: Any) -> None:
            super().__init__()
            self.first, self.second = make(namespace, name, options), make(namespace, name, options, seed=3)
            setattr(self.second, weight, getattr(self.first, weight))

        def forward(self, *given: Any) -> Any:
            return self.first(*given), self.second(*given)

    ours, theirs = Tied(fused_rnn), Tied(torch.nn)
    assert_same(name, ours, theirs)
    assert getattr(ours.second, weight).grad is getattr(ours.first, weight).grad


@each_module
def test_functional_call(name: str, options: dict[str, Any], weight: str) -> None:
    ours, theirs = (make(namespace, name, options) for namespace in (fused_rnn, torch.nn))
    other = torch.randn_like(getattr(theirs, weight))
    given, found = arguments(name), []
    for module in (ours, theirs):
        value = other.clone().requires_grad_()
        results = flat(torch.func.functional_call(module, {weight: value}, given))
        found.append([*results, *torch.autograd.grad(results[0].square().sum(), value)])
    for one, expected in zip(*found, strict=True):
        torch.testing.assert_close(one, expected)


@each_module
def test_swapped_tensors(name: str, options: dict[str, Any], weight: str) -> None:
    ours, theirs = (make(namespace, name, options) for namespace in (fused_rnn, torch.nn))
    other = torch.nn.Parameter(torch.randn_like(getattr(theirs, weight)))
    setattr(theirs, weight, torch.nn.Parameter(other.detach().clone()))
    torch.utils.swap_tensors(getattr(ours, weight), other)  # type: ignore[no-untyped-call]
    assert_same(name, ours, theirs)


@pytest.fixture
def _conversions_swap() -> Iterator[None]:
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.usefixtures("_conversions_swap")
@each_module
def test_conversions_that_swap(name: str, options: dict[str, Any], weight: str) -> None:
    ours, theirs = (make(namespace, name, options) for namespace in (fused_rnn, torch.nn))
    parameter = getattr(ours, weight)
    assert_same(name, ours.double(), theirs.double())
    assert getattr(ours, weight) is parameter
    assert parameter.dtype == torch.float64


@each_module
def test_assigned_state_dicts(name: str, options: dict[str, Any], weight: str) -> None:
    def change(module: Any) -> Any:
        module.load_state_dict(make(torch.nn, name, options, seed=3).state_dict(), assign=True)
        return module

    given = make(torch.nn, name, options, seed=3).state_dict()
    ours = make(fused_rnn, name, options)
    ours.load_state_dict(given, assign=True)
    assert getattr(ours, weight).data_ptr() == given[weight].data_ptr()
    assert_same_after(change, name, options)


@each_module
def test_assigned_state_dicts_onto_the_meta_device(name: str, options: dict[str, Any], weight: str) -> None:
    theirs = make(torch.nn, name, options)
    ours = make(fused_rnn, name, {**options, "device": "meta"})
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()), assign=True)
    assert getattr(ours, weight).device.type == "cpu"
    assert_same(name, ours, theirs)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
@each_module
def test_deterministic_algorithms(name: str, options: dict[str, Any], weight: str) -> None:
    del weight
    ours = make(fused_rnn, name, options)
    assert_same(name, ours, make(torch.nn, name, options))
    (results, gradients), (again, gradients_again) = run(ours, name), run(ours, name)
    assert all(torch.equal(*pair) for pair in zip(results, again, strict=True))
    assert all(torch.equal(gradients[key], gradients_again[key]) for key in gradients)
