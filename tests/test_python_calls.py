"""How many functions of the package a call goes through: Python is most of the time of a short one."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from fused_rnn._published_cells import MinGRUCell, SLSTMCell
from tests.own_cells import Everything

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = str(Path(fused_rnn.__file__).parent)


def calls_of(function: Callable[[], Any]) -> Counter[str]:
    """The functions of the package that are called, comprehensions included, by name."""
    seen: Counter[str] = Counter()

    def look(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            seen[frame.f_code.co_name] += 1

    function()  # what happens once
    before = sys.getprofile()
    sys.setprofile(look)
    try:
        function()
    finally:
        sys.setprofile(before)
    return seen


def trained(layer: torch.nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    return lambda: layer(x)[0].sum().backward()


def inferred(layer: torch.nn.Module, x: torch.Tensor, **options: Any) -> Callable[[], Any]:
    def call() -> None:
        with torch.no_grad():
            layer(x, **options)

    return call


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_short_call_goes_through_few_functions(name: str) -> None:
    layer, two = (getattr(fused_rnn, name)(3, 5, num_layers=count) for count in (1, 2))
    cell = getattr(fused_rnn, f"{name}Cell")(3, 5)
    x, lengths = torch.randn(2, 4, 3), torch.tensor([2, 1, 2, 2])
    most = {
        "inference": (inferred(layer, x), 15),  # one of which asks for torch's precision switch
        "training": (trained(layer, x), 20),
        "a cell's step": (inferred(cell, x[0]), 11),
        "two layers": (inferred(two, x), 45),
        "lengths": (inferred(layer, x, lengths=lengths), 41),
    }
    found = {what: calls_of(function) for what, (function, _) in most.items()}
    counts = {what: seen.total() for what, seen in found.items()}
    assert {what: (counts[what], found[what]) for what in most if counts[what] > most[what][1]} == {}


# Own cells without W_hh, with four states, with a unit weight: calls beyond those of a built-in layer.
@pytest.mark.parametrize(
    ("cell", "dtype", "more", "more_with_states"),
    [(MinGRUCell, torch.float32, 2, 2), (SLSTMCell, torch.float32, 3, 4), (Everything, torch.float64, 6, 7)],
    ids=["MinGRU", "SLSTM", "Everything"],
)
def test_a_short_call_of_an_own_cell_goes_the_same_way(
    cell: type[fused_rnn.Cell], dtype: torch.dtype, more: int, more_with_states: int
) -> None:
    own, built_in = fused_rnn.Recurrent(cell, 3, 5, dtype=dtype), fused_rnn.LSTM(3, 5, dtype=dtype)
    x = torch.randn(2, 4, 3, dtype=dtype)
    assert calls_of(inferred(own, x)).total() - calls_of(inferred(built_in, x)).total() <= more
    assert calls_of(trained(own, x)).total() - calls_of(trained(built_in, x)).total() <= more
    with_states = [calls_of(inferred(layer, x, hx=layer(x)[1])).total() for layer in (own, built_in)]
    assert with_states[0] - with_states[1] <= more_with_states


def test_heads_go_the_short_way() -> None:
    layer, x = fused_rnn.SLSTM(3, 4, num_heads=2), torch.randn(2, 4, 3)
    states = layer(x)[1]
    most = {"inference": (inferred(layer, x), 32), "training": (trained(layer, x), 43)}
    most["with states"] = (inferred(layer, x, hx=states), 33)
    found = {what: calls_of(function) for what, (function, _) in most.items()}
    assert {what: seen for what, seen in found.items() if seen.total() > most[what][1]} == {}
