"""Torch.fx takes layers and cells as leaves; an export to ONNX by tracing refuses them in words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.test_in_place import flat
from tests.test_shapes import MODULES, calls, make

each_module = pytest.mark.parametrize(("name", "options"), MODULES, ids=str)


class Holder(torch.nn.Module):
    """A model around a layer or a cell, called with its input."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.inner = module

    def forward(self, x: Any) -> Any:
        return self.inner(x)


class HolderOfState(Holder):
    """The same, called with a state, too."""

    def forward(self, x: Any, hx: Any) -> Any:  # type: ignore[override]
        return self.inner(x, hx)


class HolderOfLengths(Holder):
    """The same, called with a state and lengths, too."""

    def forward(self, x: Any, hx: Any, lengths: Any) -> Any:  # type: ignore[override]
        return self.inner(x, hx, lengths=lengths)


class HolderOfResets(Holder):
    """The same, called with resets, too."""

    def forward(self, x: Any, resets: Any) -> Any:  # type: ignore[override]
        return self.inner(x, resets=resets)


HOLDERS = {(): Holder, ("hx",): HolderOfState, ("hx", "lengths"): HolderOfLengths, ("resets",): HolderOfResets}


@each_module
def test_a_module_is_one_node(name: str, options: dict[str, Any]) -> None:
    module, x, states = make(name, options)
    for given, keywords in list(calls(module, x, states))[:4]:
        holder = HOLDERS[tuple(keywords)](module).eval()
        traced: Any = torch.fx.symbolic_trace(holder)
        for graph in (traced, torch.fx.symbolic_trace(traced), copy.deepcopy(traced)):
            assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["inner"]
            for one, other in zip(flat(graph(given, **keywords)), flat(holder(given, **keywords)), strict=True):
                assert torch.equal(one, other)


@each_module
def test_a_state_alone_may_be_traced(name: str, options: dict[str, Any]) -> None:
    module, x, states = make(name, options)

    class Started(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module.eval()

    class Two(Started):
        def forward(self, h: Tensor, c: Tensor) -> Any:
            return self.inner(x, (h, c))

    class One(Started):
        def forward(self, h: Tensor) -> Any:
            return self.inner(x, h)

    holder = (Two if len(states) == 2 else One)()
    traced: Any = torch.fx.symbolic_trace(holder)
    for one, other in zip(flat(traced(*states)), flat(holder(*states)), strict=True):
        assert torch.equal(one, other)


@each_module
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, for such an export
def test_a_module_by_itself_is_refused_in_words(name: str, options: dict[str, Any]) -> None:
    module, x, _ = make(name, options)
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(module)
    with pytest.raises(NotImplementedError, match="dynamo=True"):
        torch.onnx.export(module, (x,), "unused.onnx", dynamo=False)
