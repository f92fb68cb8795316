"""Derivatives of derivatives: by finite differences, against torch.nn, and where a graph is used twice."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.autograd import forward_ad

import fused_rnn
from fused_rnn._autograd import recurrence
from fused_rnn._tensors import Arguments
from tests import reference
from tests.test_autograd import CELLS, differentiable, draw
from tests.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = [
    # Torch compiles functions of its own when forward mode is first used,
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
    # and says where its own LSTM is slow.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    ("LSTM", {"bias": False}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("RNN", {"batch_first": True}),
    ("LSTMCell", {}),
    ("GRUCell", {"bias": False}),
    ("RNNCell", {}),
)


def make_pair(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, Any]:
    """Our module and torch.nn's with the same parameters."""
    ours, theirs = (getattr(each, name)(3, 4, dtype=dtype, **options) for each in (fused_rnn, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def input_of(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((2, 3) if name.endswith("Cell") else (5, 2, 3), dtype=dtype).requires_grad_()


def first_of(result: Any) -> Tensor:
    """The output of a layer, the hidden state of a cell."""
    tensor: Tensor = result if isinstance(result, torch.Tensor) else result[0]
    return tensor


@pytest.mark.parametrize("absent", [(), ("h_0", "c_0"), ("b_hh",)], ids=["full", "no_state", "no_bias"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])
def test_second_derivatives_are_finite_differences(
    cell: str, proj: int, directions: int, absent: tuple[str, ...]
) -> None:  # fmt: skip
    tensors = {name: t for name, t in draw(cell, directions=directions, proj=proj).items() if name not in absent}

    def function(*values: Any) -> tuple[Tensor, ...]:
        return tuple(differentiable(cell, recurrence(cell, Arguments(**dict(zip(tensors, values, strict=True))))))

    # Reverse over reverse, forward over reverse, and both of many directions at once; along random directions.
    assert torch.autograd.gradgradcheck(
        function, tuple(tensors.values()), check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True
    )


@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])
def test_lengths_and_resets_have_second_derivatives(cell: str, proj: int) -> None:
    tensors = draw(cell, 3, 4, directions=2, proj=proj)
    lengths = torch.tensor([3, 0, 1, 2])
    resets = torch.tensor([[0, 0, 0, 1], [1, 0, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)

    def function(*values: Any) -> tuple[Tensor, ...]:
        result = recurrence(cell, Arguments(**dict(zip(tensors, values, strict=True)), lengths=lengths, resets=resets))
        return tuple(differentiable(cell, result))

    inputs = tuple(tensors.values())
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True, fast_mode=True)


def test_padding_may_hold_anything() -> None:
    tensors = {name: t.detach() for name, t in draw("lstm", directions=2).items()}
    clean, lengths = tensors.pop("gates"), torch.tensor([3, 1])
    gates = clean.clone()
    gates[1:, 1] = torch.nan
    found = []
    for given in (clean, gates):
        given.requires_grad_()

        def run(given: Tensor) -> Tensor:
            return recurrence("lstm", Arguments(given, **tensors, lengths=lengths)).output

        (gradient,) = torch.autograd.grad(run(given).square().sum(), given, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), given)
        pushed: Any = torch.func.jvp(run, (given.detach(),), (torch.ones_like(given),))
        found.append((gradient, second, pushed[1]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_every_entry_of_the_second_derivative_is_a_finite_difference() -> None:
    for cell in ("lstm", "gru"):
        tensors = draw(cell, 2, 1, 2, 2)
        names, values = list(tensors), tuple(tensors.values())

        def output(*values: Any, cell: str = cell, names: list[str] = names) -> Tensor:
            return recurrence(cell, Arguments(**dict(zip(names, values, strict=True)))).output

        assert torch.autograd.gradgradcheck(output, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_a_gradient_penalty_trains_as_in_torch(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    ours, theirs = make_pair(name, dtype, **options)
    x = input_of(name, dtype)
    found = []
    for module in (ours, theirs):
        output = first_of(module(x))
        (d_x,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        loss = output.sum() + (d_x.norm(2) - 1).square()
        found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_third_derivatives_are_those_of_torch(name: str) -> None:
    x, direction = input_of(name)[:3].detach().requires_grad_(), torch.randn(3, 2, 3, dtype=torch.float64)
    found = []
    for module in make_pair(name):
        derivative = first_of(module(x)).sin().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(derivative, x, create_graph=True)
            derivative = (gradient * direction).sum()
        found.append(derivative)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_of_half_types_are_near_the_oracle(cell: str, dtype: torch.dtype) -> None:
    tensors = draw(cell, 3, 2, 2, 5, dtype=dtype)
    doubles = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    found = []
    for values in (tensors, doubles):
        inputs = list(values.values())
        ours = values is tensors
        result: Any = recurrence(cell, Arguments(**values)) if ours else reference.recurrence(cell, **values)
        loss = result.output.square().sum() + result.h_n.sum()
        (d_gates,) = torch.autograd.grad(loss, values["gates"], create_graph=True)
        found.append(torch.autograd.grad(d_gates.square().sum(), inputs))
    for one, other in zip(*found, strict=True):
        assert one.dtype == dtype
        assert relative_error(one, other) <= 2 * TOLERANCES[dtype].gradients


def test_any_argument_alone_has_a_second_derivative() -> None:
    tensors = {name: t.detach() for name, t in draw("lstm", proj=2).items()}
    for name, tensor in tensors.items():
        tensor.requires_grad_()
        output = recurrence("lstm", Arguments(**tensors)).output
        (gradient,) = torch.autograd.grad(output.square().sum(), tensor, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), tensor)
        assert second.abs().sum() > 0, name
        tensor.requires_grad_(False)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_graph_may_be_used_twice(name: str) -> None:
    module = make_pair(name)[0]
    loss = first_of(module(input_of(name))).square().sum()
    first = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(module.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, list(module.parameters()))


@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_evaluation_mode_has_gradients(name: str, options: dict[str, Any]) -> None:
    found = []
    for module in make_pair(name, **options):
        module.eval()
        torch.manual_seed(1)
        x = input_of(name)
        found.append(torch.autograd.grad(first_of(module(x)).square().sum(), [x, *module.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_do_not_keep_the_gates(cell: str) -> None:
    tensors = draw(cell)
    gates = tensors.pop("gates") * 1.0
    kept = weakref.ref(gates)
    result = recurrence(cell, Arguments(gates, **tensors))
    del gates
    assert kept() is None
    assert result.output.requires_grad


def test_an_empty_sequence_has_second_derivatives() -> None:
    tensors = draw("lstm", 0)
    result = recurrence("lstm", Arguments(**tensors))
    (d_h_0,) = torch.autograd.grad(result.h_n.square().sum(), tensors["h_0"], create_graph=True)
    (second,) = torch.autograd.grad(d_h_0.sum(), tensors["h_0"])
    assert torch.equal(second, torch.full_like(second, 2.0))


@pytest.mark.parametrize(("name", "options"), MODULES)
def test_gradients_with_derivatives_may_be_changed_in_place(name: str, options: dict[str, Any]) -> None:
    modules, x = make_pair(name, **options), input_of(name)
    found = []
    for module in modules:
        leaves = [x, *module.parameters()]
        gradients = torch.autograd.grad(first_of(module(x)).sin().sum(), leaves, create_graph=True)
        for gradient in gradients:
            gradient.mul_(2.0)
        with torch.no_grad():
            torch._foreach_mul_(gradients, 0.25)
        total = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        found.append([*gradients, *torch.autograd.grad(total, leaves)])
    for ours, theirs in zip(*found, strict=True):
        assert relative_error(ours, theirs) <= TOLERANCES[torch.float64].gradients


@pytest.mark.parametrize(("name", "options"), MODULES)
def test_tangents_reach_gradients_without_a_graph(name: str, options: dict[str, Any]) -> None:
    """A backward pass whose incoming gradient, or whose forward pass, has a tangent: as in torch.nn."""
    x = input_of(name)
    d_x, found = torch.randn_like(x), []
    for module in make_pair(name, **options):
        torch.manual_seed(0)
        y = first_of(module(x))
        incoming, tangent = torch.randn_like(y), torch.randn_like(y)
        with forward_ad.dual_level():
            dual: Any = forward_ad.make_dual(incoming, tangent)  # type: ignore[no-untyped-call]
            gradients = torch.autograd.grad(y, [x, *module.parameters()], dual)
            moving: Any = forward_ad.make_dual(x, d_x)  # type: ignore[no-untyped-call]
            gradients += torch.autograd.grad(first_of(module(moving)).square().sum(), [x, *module.parameters()])
            unpacked: list[Any] = [forward_ad.unpack_dual(each) for each in gradients]  # type: ignore[no-untyped-call]
            found.append([part for each in unpacked for part in (each.primal, each.tangent)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{"layer_norm": True}, {"peephole": True, "bidirectional": True}])
def test_tangents_reach_gradients_of_variants(options: dict[str, Any]) -> None:
    module, x = fused_rnn.LSTM(3, 4, dtype=torch.float64, **options), input_of("LSTM")
    y = module(x)[0]
    incoming, tangent = torch.randn_like(y), torch.randn_like(y)
    with forward_ad.dual_level():
        dual: Any = forward_ad.make_dual(incoming, tangent)  # type: ignore[no-untyped-call]
        (gradient,) = torch.autograd.grad(y, x, dual, retain_graph=True)
        found: Any = forward_ad.unpack_dual(gradient)  # type: ignore[no-untyped-call]
        # The gradient is linear in what comes in.
        torch.testing.assert_close(found.tangent, torch.autograd.grad(y, x, tangent)[0])
