"""Int8 layers and cells are copied, moved, saved and loaded as others, and keep their types."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch

from tests.test_quantize import arguments, assert_same, each_module, make


def saved_and_loaded(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved_and_loaded,
    "to(cpu)": lambda module: module.to("cpu"),
    "float": lambda module: module.float(),
}


@pytest.mark.parametrize("way", COPIES)
@each_module
def test_copies_and_moves_keep_the_bits(name: str, options: dict[str, Any], way: str) -> None:
    _, small = make(name, options)
    other = COPIES[way](small)
    assert type(other) is type(small)
    x, hx = arguments(small)
    assert_same(other(x, hx), small(x, hx))


@each_module
def test_a_state_dict_makes_another_module_the_same(name: str, options: dict[str, Any]) -> None:
    _, small = make(name, options)
    _, other = make(name, options)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x, hx = arguments(small)
    assert_same(other(x, hx), small(x, hx))


def test_float_weights_are_not_cut_to_integers() -> None:
    layer, small = make("GRU", {})
    before = copy.deepcopy(small.state_dict())
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"weight_ih_l0 must have dtype torch\.int8, got torch\.float32"):
            small.load_state_dict(layer.state_dict(), strict=strict)
    assert_same(list(small.state_dict().values()), list(before.values()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_another_type_is_refused_and_changes_nothing(dtype: torch.dtype) -> None:
    _, small = make("LSTM", {})
    before = copy.deepcopy(small.state_dict())
    for change in (small.to, small.type):
        with pytest.raises(TypeError, match=rf"LSTM has int8 weights .* cannot be {dtype}: give the other modules"):
            change(dtype)
    assert [t.dtype for t in small.state_dict().values()] == [t.dtype for t in before.values()]
