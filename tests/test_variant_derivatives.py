"""Derivatives of the variants: by finite differences, of higher order, under torch.func, compiled and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.func import functional_call, grad, jacfwd, jacrev, vmap

from fused_rnn import _ops, _reference, _tensors
from fused_rnn._autograd import recurrence
from fused_rnn._tensors import Arguments
from tests import variant_reference
from tests.test_modules import assert_same, flat, total
from tests.test_variants import make
from tests.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = [
    # Torch compiles functions of its own when forward mode is first used, and its compiler makes Functions.
    pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

# The cell and what it is given beyond the plain arguments; `clip` limits the cell states so that some are cut off.
KINDS: tuple[tuple[str, str], ...] = (
    *((cell, kind) for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu") for kind in (
        "norm", "zoneout", "mask", "norm zoneout mask")),
    ("lstm", "norm proj mask"),
    ("lstm_peephole", ""),
    ("lstm_peephole", "clip"),
    ("lstm_peephole", "clip zoneout mask"),
    ("lstm_peephole", "clip proj mask"),
)  # fmt: skip
each_kind = pytest.mark.parametrize(("cell", "kind"), KINDS)
LIMIT = 0.4


def draw(
    cell: str,
    kind: str,
    *,
    directions: int = 2,
    dtype: torch.dtype = torch.float64,
    sizes: tuple[int, int, int] = (3, 4, 3),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What has derivatives, by name, for T, B and H; and masks, lengths and resets. Relu is away from its kink."""
    time_steps, batch, units = sizes
    spec = _ops.CELLS[cell]
    width = 2 if "proj" in kind else units
    gates = torch.randn(time_steps, batch, directions, spec.gates, units)
    tensors: dict[str, Any] = {
        "gates": gates + 3 * gates.sign() if cell == "rnn_relu" else gates,
        "w_hh": torch.randn(directions, spec.gates * units, width) * 0.2,
        "h_0": torch.randn(directions, batch, width),
    }
    if "norm" not in kind:
        tensors["b_hh"] = torch.randn(directions, spec.gates * units) * 0.2
    if spec.states == 2:
        tensors["c_0"] = torch.randn(directions, batch, units)
    if "proj" in kind:
        tensors["w_hr"] = torch.randn(directions, width, units) * 0.5
    if "norm" in kind:
        tensors["norm"] = torch.randn(directions, 2 * spec.gates + 2 * (spec.states - 1), units) * 0.3
    if spec.unit_weights:
        tensors["peepholes"] = torch.randn(directions, 3, units) * 0.5
    others: dict[str, Any] = {
        "lengths": torch.tensor([time_steps, 1, 0, 2])[:batch],
        "resets": torch.rand(time_steps, batch) < 0.3,
    }
    if "zoneout" in kind:  # parts of states; training draws 0 and 1
        others["zoneout"] = torch.rand(time_steps, batch, directions, spec.states, units, dtype=dtype)
    if "mask" in kind:
        others["recurrent_mask"] = torch.tensor([0.0, 1.25], dtype=dtype)[torch.randint(2, (directions, batch, width))]
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}, others


def function_of(cell: str, kind: str, names: list[str], others: dict[str, Any]) -> Callable[..., tuple[Tensor, ...]]:
    """The differentiable results as a function of the named tensors."""

    def function(*values: Any) -> tuple[Tensor, ...]:
        given = dict(zip(names, values, strict=True))
        if "peepholes" in given:
            peepholes = given.pop("peepholes")
            limit = LIMIT if "clip" in kind else float("inf")
            limits = torch.full_like(peepholes[:, :1], limit)
            given["unit_weights"] = torch.cat([peepholes, limits], 1)
        return tuple(recurrence(cell, Arguments(**given, **others))[: 2 * _ops.CELLS[cell].states])

    return function


@each_kind
def test_gradients_and_tangents_are_finite_differences(cell: str, kind: str) -> None:
    tensors, others = draw(cell, kind)
    function = function_of(cell, kind, list(tensors), others)
    assert torch.autograd.gradcheck(
        function, tuple(tensors.values()), check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )


@each_kind
def test_second_derivatives_are_finite_differences(cell: str, kind: str) -> None:
    tensors, others = draw(cell, kind, sizes=(2, 3, 2))
    function = function_of(cell, kind, list(tensors), others)
    assert torch.autograd.gradgradcheck(
        function, tuple(tensors.values()), check_fwd_over_rev=True, check_batched_grad="zoneout mask" in kind,
        fast_mode=True,
    )  # fmt: skip


@pytest.mark.parametrize(("cell", "kind"), [("lstm", "norm zoneout mask"), ("gru", "norm zoneout mask"),
                                            ("lstm_peephole", "clip zoneout mask")])  # fmt: skip
def test_every_entry_of_the_derivatives_is_a_finite_difference(cell: str, kind: str) -> None:
    tensors, others = draw(cell, kind, directions=1, sizes=(2, 1, 2))
    others["lengths"] = others["resets"] = None
    function = function_of(cell, kind, list(tensors), others)
    assert torch.autograd.gradcheck(function, tuple(tensors.values()))
    assert torch.autograd.gradgradcheck(lambda *values: function(*values)[0], tuple(tensors.values()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@each_kind
def test_plain_torch_computes_what_the_operator_does(cell: str, kind: str, dtype: torch.dtype) -> None:
    tensors, others = draw(cell, kind, dtype=dtype, sizes=(4, 4, 5))
    seen: list[_tensors.Arguments] = []

    def recorded(*arguments: Any) -> tuple[Tensor, ...]:
        given = _tensors.Arguments._make(arguments[1:])
        seen.append(given)
        return _reference.recurrence(cell, *given)

    function = function_of(cell, kind, list(tensors), others)
    with torch.no_grad():
        given = {name: t.detach() for name, t in tensors.items()}
        actual = function(*given.values())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.test_variant_derivatives.recurrence", lambda cell, given: recorded(cell, *given))
            expected = function(*given.values())
    arguments = seen[0]
    for one, other in zip(actual[:2], expected, strict=False):
        assert relative_error(one, other.double()) <= 2 * TOLERANCES[dtype].outputs
    if dtype == torch.bfloat16:
        return
    # The gates come back from what was saved, which is what second derivatives start from.
    result = _ops.forward(cell, arguments, True)
    gates = _reference.gates_of(cell, arguments, result.output, result.cells, result.saved)
    again = _ops.forward(cell, arguments._replace(gates=gates), True)
    assert gates.isfinite().all()
    for one, other in zip(again[:2], result, strict=False):
        assert relative_error(one, other.double()) <= 64 * torch.finfo(dtype).eps


@each_kind
def test_results_depend_neither_on_threads_nor_on_the_batch(cell: str, kind: str) -> None:
    tensors, others = draw(cell, kind, sizes=(3, 40, 33), dtype=torch.float32)  # enough for two threads
    others["lengths"] = torch.arange(40) % 4
    function, by_row = function_of(cell, kind, list(tensors), others), ("gates", "h_0", "c_0")
    wanted = [name for name in tensors if name not in ("w_hh", "w_hr", "b_hh")]  # their gradients are torch's products
    incoming: list[Tensor] = []
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results = function(*tensors.values())
        incoming = incoming or [torch.randn_like(each) for each in results]
        found.append([*results, *torch.autograd.grad(results, [tensors[name] for name in wanted], incoming)])
    assert all(map(torch.equal, *found))
    rows = slice(3, 5)
    part = {name: t.detach()[:, rows].requires_grad_() if name in by_row else t for name, t in tensors.items()}
    cut = {name: t[rows] if name == "lengths" else t[:, rows] for name, t in others.items()}
    results = function_of(cell, kind, list(part), cut)(*part.values())
    given = [name for name in wanted if name in by_row]
    gradients = torch.autograd.grad(results, [part[name] for name in given], [d[:, rows] for d in incoming])
    expected = dict(zip(wanted, found[0][len(results) :], strict=True))
    for one, other in zip(
        [*results, *gradients], [*found[0][: len(results)], *(expected[name] for name in given)], strict=True
    ):
        assert torch.equal(one, other[:, rows])


# --- Through the layers ---

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {"layer_norm": True, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"layer_norm": True, "proj_size": 2}),
    ("LSTM", {"peephole": True, "cell_clip": 0.2, "proj_size": 2, "bidirectional": True}),
    ("GRU", {"layer_norm": True, "num_layers": 2, "bias": False}),
    ("RNN", {"layer_norm": True}),
)
each_module = pytest.mark.parametrize(("name", "options"), MODULES, ids=str)


def oracle(layer: Any, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    cell = "lstm" if layer.mode == "LSTM" else layer.mode.lower()
    return variant_reference.stack(cell, x, parameters, clip=layer.cell_clip).output


@each_module
def test_a_gradient_penalty_trains_as_the_oracle(name: str, options: dict[str, Any]) -> None:
    layer = make(name, 3, 5, **options)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters, found = dict(layer.named_parameters()), []
    for output in (layer(x)[0], oracle(layer, x, parameters)):
        (d_x,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        loss = output.sum() + (d_x.norm(2) - 1).square()
        found.append(torch.autograd.grad(loss, [x, *parameters.values()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@each_module
def test_third_derivatives_are_those_of_the_oracle(name: str, options: dict[str, Any]) -> None:
    layer = make(name, 3, 5, **options)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    direction, found = torch.randn(3, 2, 3, dtype=torch.float64), []
    for output in (layer(x)[0], oracle(layer, x, dict(layer.named_parameters()))):
        derivative = output.sin().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(derivative, x, create_graph=True)
            derivative = (gradient * direction).sum()
        found.append(derivative)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("name", "options"), MODULES[1:4], ids=str)
def test_all_orders_of_modes_give_the_same_second_derivative(name: str, options: dict[str, Any]) -> None:
    layer = make(name, 3, 4, **options)
    parameters = {key: t.detach() for key, t in layer.named_parameters()}
    x = torch.randn(2, 1, 3, dtype=torch.float64)

    def run(x: Tensor) -> Any:
        return total(layer(x)[0])

    expected = jacrev(jacrev(lambda x: total(oracle(layer, x, parameters))))(x)
    for found in (jacfwd(jacrev(run)), jacrev(jacrev(run)), jacrev(jacfwd(run)), jacfwd(jacfwd(run))):
        torch.testing.assert_close(found(x), expected)


RANDOM: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {"layer_norm": True, "zoneout": (0.2, 0.4), "recurrent_dropout": 0.25}),
    ("LSTM", {"peephole": True, "cell_clip": 0.2, "recurrent_dropout": 0.25, "weight_dropout": 0.3}),
    ("GRU", {"zoneout": 0.3, "recurrent_dropout": 0.25}),
)
each_random = pytest.mark.parametrize(("name", "options"), RANDOM, ids=str)


@each_random
def test_samples_with_masks_of_their_own_have_gradients(name: str, options: dict[str, Any]) -> None:
    layer = make(name, 3, 20, **{each: value for each, value in options.items() if each != "weight_dropout"})
    parameters = {key: t.detach() for key, t in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Any:
        return total(functional_call(layer, parameters, (x,)))

    samples = torch.randn(1, 6, 3, dtype=torch.float64).expand(8, 6, 3)
    for randomness, kinds in (("different", 8), ("same", 1)):
        found = vmap(grad(loss), in_dims=(None, 0), randomness=randomness)(parameters, samples)
        rows = found["weight_hh_l0"].flatten(1)
        assert len({tuple(row) for row in rows.tolist()}) == kinds
    layer.eval()
    found = vmap(grad(loss), in_dims=(None, 0))(parameters, samples)
    each = grad(loss)(parameters, samples[0])
    for key in parameters:
        torch.testing.assert_close(found[key], each[key].expand_as(found[key]))


@pytest.mark.parametrize(("name", "options"), RANDOM[:2], ids=str)
def test_the_compiler_draws_the_same_masks(name: str, options: dict[str, Any]) -> None:
    layer = make(name, 3, 5, bidirectional=True, **options)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    ends = {"lengths": torch.tensor([6, 0, 3, 1]), "resets": torch.rand(6, 4) < 0.3}
    for training in (True, False):
        layer.train(training)
        found = []
        for module in (layer, compiled):
            torch.manual_seed(1)
            results = flat(module(x, **ends))
            found.append([*results, *torch.autograd.grad(total(results), [x, *layer.parameters()])])
        assert_same(*found)


def test_generated_code_trains_with_masks() -> None:
    layer = make("GRU", 3, 5, layer_norm=True, zoneout=1.0)  # which is 1 whatever is drawn
    compiled: Any = torch.compile(layer, fullgraph=True)
    x, h_0 = torch.randn(6, 4, 3, dtype=torch.float64), torch.randn(1, 4, 5, dtype=torch.float64, requires_grad=True)
    output = compiled(x, h_0)[0]
    assert torch.equal(output, h_0.expand(6, 4, 5))
    (d_h_0,) = torch.autograd.grad(output.sum(), h_0)
    assert torch.equal(d_h_0, torch.full_like(h_0, 6.0))


@pytest.mark.parametrize(("name", "options"), RANDOM[:2], ids=str)
def test_an_export_in_evaluation_mode_shows_the_operator(name: str, options: dict[str, Any]) -> None:
    layer = make(name, 3, 5, num_layers=2, bidirectional=True, **options).eval()
    time, batch = torch.export.Dim("time"), torch.export.Dim("batch")
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: time, 1: batch},))
    targets = [str(node.target) for node in exported.graph.nodes if "fused_rnn" in str(node.target)]
    assert targets == ["fused_rnn.forward.default"] * 2
    assert not any("bernoulli" in str(node.target) for node in exported.graph.nodes)
    x = torch.randn(7, 3, 3, dtype=torch.float64)
    assert_same(exported.module()(x), layer(x))
