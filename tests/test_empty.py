"""No steps or no rows: every way through a layer or a cell gives empty results, and zeros as gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from tests.test_in_place import CELLS, LAYERS, flat

# Torch compiles functions of its own when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (*LAYERS, ("LSTM", {"layer_norm": True, "bidirectional": True}))
SIZES = [(0, 2), (3, 0), (0, 0)]
each_problem = pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        *((name, options, sizes) for name, options in MODULES for sizes in SIZES),
        *((name, options, (0,)) for name, options in CELLS),
    ],
    ids=str,
)


def make(name: str, options: dict[str, Any], sizes: tuple[int, ...]) -> tuple[Any, Tensor, dict[str, Any]]:
    """A module, its input, and its state and where rows end, by name."""
    module = getattr(fused_rnn, name)(3, 8, **options)
    shape = sizes[::-1] if options.get("batch_first") else sizes
    dtype = options.get("dtype", torch.float32)
    state: Any = torch.zeros(*sizes, 8, dtype=dtype)
    keywords: dict[str, Any] = {}
    if not name.endswith("Cell"):
        rows, batch = len(module.all_weights), sizes[1]
        h, c = (torch.randn(rows, batch, n, dtype=dtype) for n in (module.proj_size or 8, 8))
        state = (h, c) if name == "LSTM" else h
        keywords = {"lengths": torch.zeros(batch, dtype=torch.int64), "resets": torch.zeros(shape, dtype=torch.bool)}
    elif name == "LSTMCell":
        state = (state, state.clone())
    return module, torch.randn(*shape, 3, dtype=dtype, requires_grad=True), {"hx": state, **keywords}


def total(results: Any) -> Tensor:
    return torch.stack([each.square().sum() for each in flat(results)]).sum()


@each_problem
def test_gradients_of_any_order_are_zeros(name: str, options: dict[str, Any], sizes: tuple[int, ...]) -> None:
    module, x, keywords = make(name, options, sizes)
    leaves = [x, *module.parameters()]
    for given in ({}, {"hx": keywords["hx"]}, keywords):
        for again in (False, True):
            results = module(x, **given)
            first = torch.autograd.grad(total(results), leaves, create_graph=again)
            assert all(g.shape == leaf.shape and not g.any() for g, leaf in zip(first, leaves, strict=True))
        penalty = torch.stack([gradient.square().sum() for gradient in first]).sum()
        second = torch.autograd.grad(penalty, leaves, materialize_grads=True)
        assert not any(gradient.any() for gradient in second)


@each_problem
def test_the_final_state_is_the_initial_one(name: str, options: dict[str, Any], sizes: tuple[int, ...]) -> None:
    module, x, keywords = make(name, options, sizes)
    with torch.no_grad():
        states = flat(module(x, hx=keywords["hx"]))[0 if name.endswith("Cell") else 1 :]
    for found, given in zip(states, flat(keywords["hx"]), strict=True):
        if sizes[0] == 0 and "num_layers" not in options:
            assert torch.equal(found, given)
        assert found.shape == given.shape


@each_problem
def test_transforms_give_empty_results_and_zeros(name: str, options: dict[str, Any], sizes: tuple[int, ...]) -> None:
    if options.get("recompute") or "zoneout" in options:
        return  # not under torch.func; draws under vmap need a mode
    module, x, keywords = make(name, options, sizes)
    parameters = dict(module.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return total(torch.func.functional_call(module, parameters, (x,), {"hx": keywords["hx"]}))

    xs = torch.stack([x.detach()] * 3)
    results = torch.func.vmap(lambda x: module(x, hx=keywords["hx"]))(xs)
    assert all(each.shape[0] == 3 for each in flat(results))
    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, xs)
    assert all(g.shape == (3, *parameters[key].shape) and not g.any() for key, g in gradients.items())
    tangent = torch.func.jvp(lambda x: flat(module(x))[0].sum(), (x.detach(),), (torch.ones_like(x),))[1]
    assert not tangent.any()
