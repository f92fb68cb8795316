"""Tools that trace by torch.fx with tracers of their own take layers and cells for leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

import fused_rnn
from tests.test_in_place import flat
from tests.test_shapes import MODULES, make


class Deep(torch.fx.Tracer):
    """A tracer without leaves, as those of some tools that extract features."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return False


class OfState(torch.nn.Module):
    """A model that calls a layer or cell with its state by name."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.inner = torch.nn.ModuleList([module])

    def forward(self, x: Any, hx: Any) -> Any:
        return self.inner[0](hx=hx, input=x.relu())


@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_a_tracer_without_leaves_has_one_node_for_a_module(name: str, options: dict[str, Any]) -> None:
    module, x, states = make(name, options)
    model, given = OfState(module).eval(), (x, states if len(states) == 2 else states[0])
    graph = torch.fx.GraphModule(model, Deep().trace(model))
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["inner.0"]
    for one, other in zip(flat(graph(*given)), flat(model(*given)), strict=True):
        assert torch.equal(one, other)


class Optional(torch.nn.Module):
    """A model whose caller says whether there are cells."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = fused_rnn.LSTM(3, 4)

    def forward(self, x: Any, cells: Any) -> Any:
        return self.inner(x, return_cells=cells)


def test_an_option_may_be_traced() -> None:
    model, x = Optional(), torch.randn(5, 2, 3)
    traced: Any = torch.fx.symbolic_trace(model)
    for cells in (True, False):
        assert len(traced(x, cells)) == len(model(x, cells)) == 2 + cells


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, .* are deprecated")
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_what_is_around_a_layer_is_quantized_by_its_graph(name: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = getattr(fused_rnn, name)(3, 4), torch.nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.rnn(x)[0])

    model, x = Model().eval(), torch.randn(5, 2, 3)
    prepared = quantize_fx.prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping(), (x,))
    prepared(x)
    quantized = quantize_fx.convert_fx(prepared)
    assert isinstance(quantized.rnn, getattr(fused_rnn, name))
    assert not isinstance(quantized.head, torch.nn.Linear)
    torch.testing.assert_close(quantized(x), model(x), rtol=0.0, atol=0.05)
