"""torch.func and forward mode: mapped inputs, ensembles, per-sample gradients, tangents, and all of them nested."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.autograd import forward_ad, functional
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import fused_rnn
from fused_rnn._autograd import recurrence
from fused_rnn._tensors import Arguments
from tests.test_autograd import CELLS, differentiable, draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Parameters = dict[str, Tensor]

# Torch compiles functions of its own when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    ("LSTM", {"bias": False}),
    ("GRU", {"bidirectional": True, "batch_first": True}),
    ("RNN", {"nonlinearity": "relu"}),
    ("LSTM", {"layer_norm": True, "proj_size": 2}),
    ("LSTM", {"peephole": True, "cell_clip": 0.2, "num_layers": 2, "bidirectional": True}),
    ("GRU", {"layer_norm": True, "bidirectional": True}),
    ("LSTMCell", {}),
    ("GRUCell", {}),
    ("RNNCell", {"bias": False}),
)
each_module = pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
each_cell = pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])


def make(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    return getattr(fused_rnn, name)(3, 5, dtype=dtype, **options)


def inputs(name: str, members: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((members, 2, 3) if name.endswith("Cell") else (members, 4, 2, 3), dtype=dtype)


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def total(result: Any) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in flat(result)]).sum()


def parameters_of(module: torch.nn.Module) -> Parameters:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def loss_of(module: torch.nn.Module) -> Callable[[Parameters, Tensor], Tensor]:
    def loss(parameters: Parameters, x: Tensor) -> Tensor:
        return total(functional_call(module, parameters, (x,)))

    return loss


def tangent_of(tensor: Tensor) -> Tensor | None:
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    tangent: Tensor | None = dual.tangent
    return tangent


def assert_members(mapped: list[Tensor], members: list[list[Tensor]]) -> None:
    """What vmap gives is what the members give one by one."""
    for one, others in zip(mapped, zip(*members, strict=True), strict=True):
        torch.testing.assert_close(one, torch.stack(others))


# --- Mapped inputs ---


@each_module
def test_mapped_inputs_give_what_each_gives(name: str, options: dict[str, Any]) -> None:
    for dtype in (torch.float32, torch.float64):
        module, x = make(name, dtype, **options), inputs(name, 3, dtype)
        for with_grad in (True, False):
            with torch.set_grad_enabled(with_grad):
                expected = [flat(module(member)) for member in x]
                assert_members(flat(vmap(module)(x)), expected)
                assert_members(flat(vmap(module, in_dims=1)(x.transpose(0, 1).contiguous())), expected)
                twice = vmap(vmap(module))(x[None])
                assert_members([result[0] for result in flat(twice)], expected)


@each_cell
def test_any_argument_may_be_mapped_alone(cell: str, proj: int) -> None:
    tensors = {name: t.detach() for name, t in draw(cell, 3, 2, 2, proj=proj).items()}
    names = list(tensors)

    def run(*values: Any) -> tuple[Tensor, ...]:
        result = recurrence(cell, Arguments(**dict(zip(names, values, strict=True))))
        return tuple(differentiable(cell, result)[:3])  # cells are only kept for gradients

    for index, name in enumerate(names):
        members = torch.randn(3, *tensors[name].shape, dtype=torch.float64) / 4
        in_dims = tuple(0 if each == name else None for each in names)
        values = [members if each == name else t for each, t in tensors.items()]
        expected = [list(run(*values[:index], member, *values[index + 1 :])) for member in members]
        for with_grad in (True, False):
            with torch.set_grad_enabled(with_grad):
                assert_members(list(vmap(run, in_dims)(*values)), expected)


def test_lengths_and_resets_may_be_mapped() -> None:
    tensors: dict[str, Any] = {name: t.detach() for name, t in draw("lstm", 3, 2, 2).items()}
    lengths, resets = torch.tensor([[3, 1], [0, 2]]), torch.rand(3, 2, 2) < 0.3
    gates = torch.randn(2, *tensors.pop("gates").shape, dtype=torch.float64)

    def loss(w_hh: Tensor, gates: Tensor, lengths: Tensor | None, resets: Tensor | None) -> Tensor:
        result = recurrence("lstm", Arguments(gates, **{**tensors, "w_hh": w_hh}, lengths=lengths, resets=resets))
        return result.output.square().sum() + result.c_n.sum()

    w_hh = tensors["w_hh"]
    for in_dims, given in (
        ((None, 0, 0, 1), (gates, lengths, resets)),
        ((None, 0, None, 1), (gates, lengths[0], resets)),
        ((None, None, 0, None), (gates[0], lengths, resets[:, 0])),
    ):
        found = vmap(grad(loss), in_dims)(w_hh, *given)
        for index in range(2):
            pairs = zip(given, in_dims[1:], strict=True)
            one = [t if here is None else t.select(here, index) for t, here in pairs]
            torch.testing.assert_close(found[index], grad(loss)(w_hh, *one))


def test_a_module_may_have_mapped_lengths_and_resets() -> None:
    module = make("LSTM", bidirectional=True)
    x, lengths, resets = inputs("LSTM", 2), torch.tensor([[3, 1], [0, 2]]), torch.rand(2, 4, 2) < 0.3
    parameters = parameters_of(module)

    def loss(parameters: Parameters, x: Tensor, lengths: Tensor, resets: Tensor) -> Tensor:
        return total(functional_call(module, parameters, (x,), {"lengths": lengths, "resets": resets}))

    found = vmap(grad(loss), (None, 0, 0, 0))(parameters, x, lengths, resets)
    each = [grad(loss)(parameters, *one) for one in zip(x, lengths, resets, strict=True)]
    for key in parameters:
        torch.testing.assert_close(found[key], torch.stack([one[key] for one in each]))


class Batches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The batch sizes of the operator's runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.fused_rnn.forward.default:
            self.seen.append(args[1].shape[1])
        return func(*args, **(kwargs or {}))


def test_mapped_inputs_are_one_call() -> None:
    module = make("GRU")
    with Batches() as batches:
        vmap(module)(inputs("GRU", 7))
        with torch.no_grad():
            vmap(module)(inputs("GRU", 7))
    assert batches.seen == [14, 14]


@each_module
def test_gradients_of_a_mapped_module_are_those_of_the_sum(name: str, options: dict[str, Any]) -> None:
    module, x = make(name, **options), inputs(name, 3).requires_grad_()
    wanted = [x, *module.parameters()]
    found = torch.autograd.grad(total(vmap(module)(x)), wanted)
    expected = torch.autograd.grad(torch.stack([total(module(member)) for member in x]).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# --- Per-sample gradients and ensembles ---


@each_module
def test_per_sample_gradients_are_those_of_each_sample(name: str, options: dict[str, Any]) -> None:
    for dtype in (torch.float32, torch.float64):
        module, x = make(name, dtype, **options), inputs(name, 3, dtype)
        if not name.endswith("Cell"):
            x = x[:, :, 0]  # each sample without a batch
        parameters, loss = parameters_of(module), loss_of(module)
        found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
        each = [grad(loss)(parameters, member) for member in x]
        for key in parameters:
            torch.testing.assert_close(found[key], torch.stack([one[key] for one in each]))


@each_module
def test_an_ensemble_gives_what_its_members_give(name: str, options: dict[str, Any]) -> None:
    modules = [make(name, **options) for _ in range(3)]
    x, (parameters, _) = inputs(name, 3), stack_module_state(modules)
    base = copy.deepcopy(modules[0]).to("meta")

    def run(values: Parameters, x: Tensor) -> Any:
        return functional_call(base, values, (x,))

    result = vmap(run, in_dims=(0, None))(parameters, x[0])
    assert_members(flat(result), [flat(module(x[0])) for module in modules])
    assert_members(flat(vmap(run)(parameters, x)), [flat(module(one)) for module, one in zip(modules, x, strict=True)])
    total(result).backward()  # type: ignore[no-untyped-call]
    for index, module in enumerate(modules):
        total(module(x[0])).backward()  # type: ignore[no-untyped-call]
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(parameters[key].grad[index], parameter.grad)


def test_an_ensemble_has_per_sample_gradients() -> None:
    modules, x = [make("LSTM") for _ in range(2)], inputs("LSTM", 3)
    parameters = {key: t.detach() for key, t in stack_module_state(modules)[0].items()}
    loss = loss_of(modules[0])
    found = vmap(vmap(grad(loss), in_dims=(None, 0)), in_dims=(0, None))(parameters, x)
    for index in range(2):
        of_member = {key: t[index] for key, t in parameters.items()}
        expected = vmap(grad(loss), in_dims=(None, 0))(of_member, x)
        for key in parameters:
            torch.testing.assert_close(found[key][index], expected[key])


# --- Forward mode ---


@pytest.mark.parametrize("directions", [1, 2])
@each_cell
def test_tangents_are_finite_differences(cell: str, proj: int, directions: int) -> None:
    tensors = draw(cell, directions=directions, proj=proj)

    def run(*values: Any) -> tuple[Tensor, ...]:
        return tuple(differentiable(cell, recurrence(cell, Arguments(**dict(zip(tensors, values, strict=True))))))

    assert torch.autograd.gradcheck(
        run, tuple(tensors.values()), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )


@each_module
def test_tangents_of_modules_agree_with_their_gradients(name: str, options: dict[str, Any]) -> None:
    module, x = make(name, **options), inputs(name, 1)[0]
    parameters = parameters_of(module)
    tangents = {key: torch.randn_like(t) for key, t in parameters.items()}
    d_x = torch.randn_like(x)

    def run(values: Parameters, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(functional_call(module, values, (x,))))

    pushed: Any = jvp(run, (parameters, x), (tangents, d_x))
    results, found = pushed
    incoming = [torch.randn_like(result) for result in results]
    by_parameter, by_x = torch.func.vjp(run, parameters, x)[1](tuple(incoming))
    pairs = [(found, incoming), ([d_x], [by_x]), (tangents.values(), by_parameter.values())]
    forwards, *backwards = (sum((a * b).sum() for a, b in zip(*pair, strict=True)) for pair in pairs)
    torch.testing.assert_close(forwards, sum(backwards))
    with torch.no_grad(), forward_ad.dual_level():
        moving = forward_ad.make_dual(x, d_x)  # type: ignore[no-untyped-call]
        duals = [tangent_of(result) for result in flat(module(moving))]
    for one, other in zip(duals, jvp(lambda x: run(parameters, x), (x,), (d_x,))[1], strict=True):
        torch.testing.assert_close(one, other)


def test_without_tangents_forward_mode_changes_nothing() -> None:
    module, x = make("LSTM"), inputs("LSTM", 1)[0]
    with torch.no_grad(), forward_ad.dual_level():
        output = module(x)[0]
        assert tangent_of(output) is None
    torch.testing.assert_close(output, module(x)[0])  # whose projection is another product


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_all_orders_of_modes_give_the_same_second_derivative(name: str) -> None:
    module = make(name, bidirectional=True)
    theirs = getattr(torch.nn, name)(3, 5, bidirectional=True, dtype=torch.float64)
    theirs.load_state_dict(module.state_dict())
    x = torch.randn(2, 1, 3, dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        return total(module(x))

    hessian: Any = functional.hessian
    expected = hessian(lambda x: total(theirs(x)), x)
    for found in (jacfwd(jacrev(run)), jacrev(jacrev(run)), jacrev(jacfwd(run)), jacfwd(jacfwd(run))):
        torch.testing.assert_close(found(x), expected)
    for vectorize in (True, False):
        torch.testing.assert_close(hessian(run, x, vectorize=vectorize), expected)
    thirds = [jacrev(jacfwd(jacrev(run)))(x), jacfwd(jacfwd(grad(run)))(x)]
    torch.testing.assert_close(*thirds)


def test_samples_have_hessian_vector_products() -> None:
    module = make("GRU")
    parameters, loss, x = parameters_of(module), loss_of(module), inputs("GRU", 3)
    direction = {key: torch.randn_like(t) for key, t in parameters.items()}

    def product(x: Tensor) -> Any:
        return jvp(lambda values: grad(loss)(values, x), (parameters,), (direction,))[1]

    found = vmap(product)(x)
    each = [product(one) for one in x]
    for key in parameters:
        torch.testing.assert_close(found[key], torch.stack([one[key] for one in each]))
