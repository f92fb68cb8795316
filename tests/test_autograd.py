"""The differentiable recurrence: gradients by finite differences, what is saved, and which gradients are computed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from fused_rnn import _autograd, _ops, _tensors, _weight_gradients
from fused_rnn._autograd import recurrence
from fused_rnn._tensors import Arguments
from tests import reference
from tests.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from torch import Tensor

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
NAMES = ("gates", "w_hh", "b_hh", "w_hr", "h_0", "c_0")


def draw(
    cell: str,
    time_steps: int = 3,
    batch: int = 2,
    directions: int = 1,
    hidden_size: int = 3,
    proj: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    """All tensors that the cell takes, by name, wanting gradients; for relu away from its kink."""
    units, width = reference.GATES[cell] * hidden_size, proj or hidden_size
    scale = hidden_size**-0.5 * (0.25 if cell == "rnn_relu" else 1.0)
    gates = torch.randn(time_steps, batch, directions, reference.GATES[cell], hidden_size)
    tensors: dict[str, Any] = {
        "gates": gates + 3 * gates.sign() if cell == "rnn_relu" else gates,
        "w_hh": torch.randn(directions, units, width) * scale,
        "b_hh": torch.randn(directions, units) * scale,
        "h_0": torch.randn(directions, batch, width),
    }
    if proj:
        tensors["w_hr"] = torch.randn(directions, proj, hidden_size) * scale
    if cell == "lstm":
        tensors["c_0"] = torch.randn(directions, batch, hidden_size)
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}


def differentiable(cell: str, result: Any) -> list[Tensor]:
    """The results that a gradient may arrive at: output, h_n, and for an LSTM c_n and all cell states."""
    return [result.output, result.h_n, *((result.c_n, result.cells) if cell == "lstm" else ())]


@pytest.mark.parametrize("without_state", [False, True], ids=["state", "no_state"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])
def test_gradients_are_finite_differences(
    cell: str, proj: int, directions: int, without_state: bool
) -> None:  # fmt: skip
    tensors = draw(cell, directions=directions, proj=proj)
    if without_state:
        tensors = {name: t for name, t in tensors.items() if name not in ("h_0", "c_0")}

    def function(*values: Any) -> tuple[Tensor, ...]:
        return tuple(differentiable(cell, recurrence(cell, Arguments(**dict(zip(tensors, values, strict=True))))))

    assert torch.autograd.gradcheck(function, tuple(tensors.values()))


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("time_steps", [0, 1, 2, 5])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 5)])
def test_all_gradients_match_the_oracle(cell: str, proj: int, time_steps: int, dtype: torch.dtype) -> None:
    for directions, batch, with_state in ((1, 1, True), (2, 3, True), (2, 3, False), (2, 0, True)):
        tensors = draw(cell, time_steps, batch, directions, 9, proj, dtype)
        if not with_state:
            tensors = {name: t for name, t in tensors.items() if name not in ("h_0", "c_0")}
        doubles = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
        actual = differentiable(cell, recurrence(cell, Arguments(**tensors)))
        expected = differentiable(cell, reference.recurrence(cell, **doubles))
        incoming = [torch.randn(t.shape).to(dtype) for t in actual]
        torch.autograd.backward(actual, incoming)
        gradients = reference.gradients(expected, list(doubles.values()), incoming)
        for (name, tensor), wanted in zip(tensors.items(), gradients, strict=True):
            assert tensor.grad is not None, name
            assert tensor.grad.dtype == dtype
            assert relative_error(tensor.grad, wanted) <= TOLERANCES[dtype].gradients, name


@pytest.mark.parametrize("cell", CELLS)
def test_any_subset_of_results_may_have_gradients(cell: str) -> None:
    tensors = draw(cell, directions=2)
    doubles = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    count = len(differentiable(cell, recurrence(cell, Arguments(**tensors))))
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            actual = differentiable(cell, recurrence(cell, Arguments(**tensors)))
            expected = differentiable(cell, reference.recurrence(cell, **doubles))
            incoming = [torch.randn_like(actual[index]) for index in chosen]
            found = torch.autograd.grad([actual[index] for index in chosen], list(tensors.values()), incoming)
            wanted = reference.gradients([expected[index] for index in chosen], list(doubles.values()), incoming)
            for one, other in zip(found, wanted, strict=True):
                assert relative_error(one, other) <= TOLERANCES[torch.float64].gradients


@pytest.mark.parametrize("wanted", NAMES)
def test_only_the_gradients_asked_for_are_computed(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = draw("lstm", directions=2, proj=2)
    (full,) = torch.autograd.grad(recurrence("lstm", Arguments(**tensors)).output.sum(), tensors[wanted])
    computed: list[tuple[Tensor | None, ...]] = []
    gradients = _autograd.recurrence_gradients

    def recorded(*arguments: Any) -> tuple[Tensor | None, ...]:
        computed.append(gradients(*arguments))
        return computed[-1]

    monkeypatch.setattr(_autograd, "recurrence_gradients", recorded)
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == wanted)
    (alone,) = torch.autograd.grad(recurrence("lstm", Arguments(**tensors)).output.sum(), tensors[wanted])
    assert torch.equal(alone, full)
    names = _tensors.Arguments._fields
    assert [[gradient is not None for gradient in each] for each in computed] == [[name == wanted for name in names]]


def test_nothing_is_saved_without_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    saves = []
    forward = _ops.forward

    def recorded(cell: str, arguments: _tensors.Arguments, save: bool, heads: int) -> _ops.ForwardResult:
        saves.append(save)
        return forward(cell, arguments, save, heads)

    monkeypatch.setattr(_ops, "forward", recorded)
    tensors = draw("lstm")
    assert recurrence("lstm", Arguments(**tensors)).output.requires_grad
    with torch.no_grad():
        assert not recurrence("lstm", Arguments(**tensors)).output.requires_grad
    assert not recurrence("lstm", Arguments(**{name: t.detach() for name, t in tensors.items()})).output.requires_grad
    assert saves == [True, False, False]


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_batch_of_gradients_at_once_is_that_of_each(name: str) -> None:
    layer = getattr(fused_rnn, name)(3, 5, dtype=torch.float64)
    x, many = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(6, 4, 2, 5, dtype=torch.float64)
    wanted = list(layer.parameters())
    together = torch.autograd.grad(layer(x)[0], wanted, many, is_grads_batched=True)
    each = [torch.autograd.grad(layer(x)[0], wanted, one) for one in many]
    for found, expected in zip(together, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("name", NAMES)
def test_any_argument_alone_turns_grad_on(name: str) -> None:
    tensors = {each: t.detach() for each, t in draw("lstm", proj=2).items()}
    tensors[name].requires_grad_()
    assert recurrence("lstm", Arguments(**tensors)).output.requires_grad


@pytest.mark.parametrize("cell", CELLS)
def test_inference_and_training_give_the_same_bits(cell: str) -> None:
    tensors = draw(cell, 5, 4, 2, 17, dtype=torch.float32)
    trained = recurrence(cell, Arguments(**tensors))
    with torch.no_grad():
        inferred = recurrence(cell, Arguments(**tensors))
    assert torch.equal(trained.output, inferred.output)
    assert torch.equal(trained.h_n, inferred.h_n)


def test_results_without_a_derivative_do_not_want_one() -> None:
    result = recurrence("gru", Arguments(**draw("gru")))
    assert result.output.requires_grad
    assert result.h_n.requires_grad
    assert not result.c_n.requires_grad
    assert not result.cells.requires_grad


def test_changing_the_output_in_place_is_noticed() -> None:
    tensors = draw("gru")
    output = recurrence("gru", Arguments(**tensors)).output
    with torch.no_grad():
        output.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(output.sum(), tensors["gates"])


def test_gradients_of_one_run_repeat_bit_by_bit() -> None:
    runs = []
    for _ in range(3):
        torch.manual_seed(0)
        tensors = draw("lstm", 30, 5, 2, 33, dtype=torch.float32)
        runs.append(torch.autograd.grad(recurrence("lstm", Arguments(**tensors)).output.sum(), list(tensors.values())))
    for gradients in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(gradients, runs[0], strict=True))


def test_functional_gradients_work() -> None:
    tensors = {name: t.detach() for name, t in draw("lstm").items()}

    def loss(w_hh: Tensor) -> Tensor:
        return recurrence("lstm", Arguments(**{**tensors, "w_hh": w_hh})).output.sum()

    found = torch.func.grad(loss)(tensors["w_hh"])
    w_hh = tensors["w_hh"].clone().requires_grad_()
    assert torch.equal(found, torch.autograd.grad(loss(w_hh), w_hh)[0])


def test_weight_gradients_of_half_types_are_summed_in_float32() -> None:
    # 4096 equal terms of 1/16: a running sum in bfloat16 stops growing at 16.
    rows = torch.full((4096, 1, 2), 0.25, dtype=torch.bfloat16)
    total = _weight_gradients._sum_of_outer_products(rows, rows)
    assert torch.equal(total.float(), torch.full((2, 2), 256.0))
