"""Every operator counts the multiplications of its GEMMs, as torch counts its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import fused_rnn
from tests.test_shapes import operator_names


@pytest.mark.parametrize("name", operator_names())
def test_an_operator_has_a_formula(name: str) -> None:
    assert getattr(torch.ops.fused_rnn, name) in flop_registry


def counted(module: Any, *arguments: Any, backward: bool) -> int:
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        results = module(*arguments)
        if backward:
            (results if isinstance(results, torch.Tensor) else results[0]).sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", ["GRU", "RNN", "GRUCell", "RNNCell"])
def test_counts_are_those_of_torch(name: str, backward: bool) -> None:
    cell = name.endswith("Cell")
    x = torch.randn(*(() if cell else (5,)), 2, 3, requires_grad=True)
    h = torch.randn(*(() if cell else (1,)), 2, 8, requires_grad=True)
    ours, theirs = (getattr(namespace, name)(3, 8) for namespace in (fused_rnn, torch.nn))
    assert counted(ours, x, h, backward=backward) == counted(theirs, x, h, backward=backward) > 0


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_counts_its_products(directions: int) -> None:
    layer = fused_rnn.LSTM(3, 8, proj_size=4, bidirectional=directions == 2)
    weights = sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
    x = torch.randn(5, 2, 3, requires_grad=True)
    assert counted(layer, x, backward=False) == 2 * 5 * 2 * weights
    assert counted(layer, x, backward=True) == 3 * 2 * 5 * 2 * weights
