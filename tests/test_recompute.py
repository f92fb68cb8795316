"""recompute: the same results and gradients from less memory, whatever else the layer does."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import pytest
import torch

import fused_rnn
from fused_rnn import _layers, _ops, _tensors
from tests.test_modules import flat, total
from tests.test_variants import make
from tests.tolerances import TOLERANCES, relative_error

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {}),
    ("LSTM", {"zoneout": (0.2, 0.4), "recurrent_dropout": 0.25, "weight_dropout": 0.4, "layer_norm": True}),
    ("LSTM", {"peephole": True, "cell_clip": 0.2, "proj_size": 2, "recurrent_dropout": 0.25}),
    ("GRU", {"layer_norm": True, "zoneout": 0.3, "recurrent_dropout": 0.25}),
    ("RNN", {"zoneout": 0.3, "weight_dropout": 0.4}),
)
each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
SEGMENT = _layers._SHORTEST_SEGMENT


def results_of(name: str, time_steps: int, *, full: bool, **options: Any) -> list[list[torch.Tensor]]:
    """Results and gradients without and with recomputation, from the same parameters and draws."""
    torch.manual_seed(1)
    layers = [make(name, 3, 5, recompute=recompute, **options) for recompute in (False, True)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(time_steps, 3, 3, dtype=torch.float64, requires_grad=True)
    keywords: dict[str, Any] = {"return_cells": True} if name == "LSTM" else {}
    hx: Any = None
    if full:
        rows, width = len(layers[0].all_weights), layers[0].proj_size or 5
        states = [torch.randn(rows, 3, size, dtype=torch.float64, requires_grad=True) for size in (width, 5)]
        hx = tuple(states) if name == "LSTM" else states[0]
        keywords["lengths"] = torch.tensor([time_steps, 2 * time_steps // 3, 0])
        keywords["resets"] = torch.rand(time_steps, 3) < 0.05
    found = []
    for layer in layers:
        torch.manual_seed(2)
        results = flat(layer(x, hx, **keywords))
        inputs = [x, *([] if hx is None else flat(hx)), *layer.parameters()]
        found.append([*results, *torch.autograd.grad(total(results), inputs)])
    return found


@pytest.mark.parametrize("full", [True, False], ids=["full", "plain"])
@each_case
def test_one_segment_gives_the_same_bits(name: str, options: dict[str, Any], full: bool) -> None:
    more: dict[str, Any]
    for time_steps, more in ((1, {}), (SEGMENT, {}), (2 * SEGMENT, {"bidirectional": True, "num_layers": 2})):
        assert all(map(torch.equal, *results_of(name, time_steps, full=full, **options, **more)))


@pytest.mark.parametrize("full", [True, False], ids=["full", "plain"])
@each_case
def test_segments_give_the_same_up_to_rounding(name: str, options: dict[str, Any], full: bool) -> None:
    # Products of fewer rows, and sums of sums: other roundings.
    for time_steps in (SEGMENT + 1, 3 * SEGMENT + 7):
        for one, other in zip(*results_of(name, time_steps, full=full, num_layers=2, **options), strict=True):
            assert relative_error(one, other) <= TOLERANCES[torch.float64].gradients


def kept_bytes(layer: Any, x: torch.Tensor) -> int:
    """Bytes of the storages that autograd keeps of a call, besides the parameters."""
    storages: dict[int, int] = {}
    parameters = {each.untyped_storage().data_ptr() for each in layer.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(x)[0]
        kept = sum(storages.values())
    assert output.requires_grad
    return kept


@pytest.mark.parametrize("more", [{}, {"layer_norm": True}], ids=str)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_less_is_kept_for_the_backward_pass(name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []

    def recorded(run: Any, *given: Any, **options: Any) -> _ops.ForwardResult:
        result: _ops.ForwardResult = run(*given, **options)
        saved.append(weakref.ref(result.saved))
        return result

    for operator in ("forward", "layer"):
        monkeypatch.setattr(_ops, operator, partial(recorded, getattr(_ops, operator)))
    x = torch.randn(4 * SEGMENT, 8, 16)
    kept = []
    for recompute in (False, True):
        layer = getattr(fused_rnn, name)(16, 32, num_layers=2, recompute=recompute, **more)
        saved.clear()
        kept.append(kept_bytes(layer, x))
        output = layer(x)[0]
        assert any(each() is not None for each in saved) != recompute
        assert output.requires_grad
    # The plain pass keeps at least the saved values of every step and unit, and the output (and cells).
    values = _ops.CELLS[name.lower()].saved + _ops.CELLS[name.lower()].states
    assert kept[0] >= 2 * 4 * SEGMENT * 8 * 32 * 4 * values
    assert kept[1] <= kept[0] / 4


@pytest.mark.usefixtures("by_ops")
def test_a_segment_is_run_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    run = _ops.layer

    def recorded(cell: str, arguments: _tensors.LayerArguments, *given: Any, **options: Any) -> _ops.LayerResult:
        steps.append(len(arguments.x))
        return run(cell, arguments, *given, **options)

    monkeypatch.setattr(_ops, "layer", recorded)
    layer = make("GRU", 3, 5, recompute=True)
    x = torch.randn(2 * SEGMENT + 1, 2, 3, dtype=torch.float64)
    loss = total(layer(x))
    assert steps == [SEGMENT, SEGMENT, 1]
    loss.backward()
    assert steps == [SEGMENT, SEGMENT, 1, 1, SEGMENT, SEGMENT]
    steps.clear()
    with torch.no_grad():
        layer(x)
    assert steps == [2 * SEGMENT + 1]


def test_second_derivatives_are_those_without_recomputation() -> None:
    layers = [make("LSTM", 3, 5, recompute=recompute, peephole=True) for recompute in (False, True)]
    layers[1].load_state_dict(layers[0].state_dict())
    x, found = torch.randn(SEGMENT + 2, 2, 3, dtype=torch.float64, requires_grad=True), []
    for layer in layers:
        (d_x,) = torch.autograd.grad(total(layer(x)), x, create_graph=True)
        found.append(torch.autograd.grad(d_x.square().sum(), [x, *layer.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_torch_func_are_refused() -> None:
    layer, x = make("GRU", 3, 5, recompute=True), torch.randn(4, 2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="don't yet support saved tensor hooks"):
        torch.func.grad(lambda x: total(layer(x)))(x)


def test_autocast_is_that_of_the_first_run() -> None:
    layer = make("LSTM", 3, 5, dtype=torch.float32, recompute=True, layer_norm=True)
    plain = make("LSTM", 3, 5, dtype=torch.float32, layer_norm=True)
    plain.load_state_dict(layer.state_dict())
    x, found = torch.randn(SEGMENT, 2, 3), []
    for each in (plain, layer):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = each(x)[0]
        assert output.dtype == torch.bfloat16
        found.append(torch.autograd.grad(output.float().square().sum(), list(each.parameters())))
    assert all(map(torch.equal, *found))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does it
def test_the_compiler_takes_it() -> None:
    layer = make("GRU", 3, 5, recompute=True, layer_norm=True)
    compiled: Any = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for time_steps in (SEGMENT - 1, SEGMENT + 1):
        x, found = torch.randn(time_steps, 2, 3, dtype=torch.float64, requires_grad=True), []
        for module in (layer, compiled):
            results = flat(module(x))
            found.append([*results, *torch.autograd.grad(total(results), [x, *layer.parameters()])])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@each_case
def test_another_run_from_changed_tensors_is_an_error(name: str, options: dict[str, Any]) -> None:
    layer = make(name, 3, 5, recompute=True, **options)
    x = torch.randn(2 * SEGMENT, 3, 3, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(1, 3, size, dtype=torch.float64) for size in (layer.proj_size or 5, 5)]
    resets = torch.rand(2 * SEGMENT, 3) < 0.05
    lengths = torch.tensor([2 * SEGMENT, 7, 0])
    state = tuple(states) if name == "LSTM" else states[0]
    dropped = layer.weight_hh_l0 if layer.weight_dropout else None  # whose dropped copy is what runs
    for changed in (x, states[0], resets, lengths, *(p for p in layer.parameters() if p is not dropped)):
        loss = total(flat(layer(x, state, lengths=lengths, resets=resets)))
        with torch.no_grad():
            changed.copy_(changed.clone())
        with pytest.raises(RuntimeError, match="needed for gradient computation has been modified by an in"):
            torch.autograd.grad(loss, list(layer.parameters()))
