"""torch.compile and torch.export take layers and cells whole, for all lengths and batches at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import fused_rnn

pytestmark = [
    # Torch's compiler makes instances of autograd.Function, and its code generator scripts functions of its own.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning"),
]

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    ("GRU", {"batch_first": True}),
    ("RNN", {"bias": False}),
    ("LSTMCell", {}),
    ("GRUCell", {}),
    ("RNNCell", {"nonlinearity": "relu"}),
)
SIZES = ((4, 2), (6, 3), (9, 5), (17, 4), (30, 7))  # T and B; torch makes its second compilation dynamic
each_module = pytest.mark.parametrize(("name", "options"), MODULES, ids=str)


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def input_of(name: str, time_steps: int, batch: int) -> torch.Tensor:
    return torch.randn((batch, 3) if name.endswith("Cell") else (time_steps, batch, 3))


def gradients(module: Any, x: torch.Tensor, wanted: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(torch.stack([t.square().sum() for t in flat(module(x))]).sum(), wanted)


def assert_compiles_once(name: str, options: dict[str, Any], backend: str) -> None:
    """Results and gradients are those of eager mode, with one static and one dynamic compilation for all sizes."""
    torch._dynamo.reset()
    module = getattr(fused_rnn, name)(3, 5, **options)
    counter = CompileCounterWithBackend(backend)
    compiled: Any = torch.compile(module, fullgraph=True, backend=counter)
    for time_steps, batch in SIZES:
        x = input_of(name, time_steps, batch).requires_grad_()
        wanted = [x, *module.parameters()]
        for one, other in zip(flat(compiled(x)), flat(module(x)), strict=True):
            torch.testing.assert_close(one, other)
        for one, other in zip(gradients(compiled, x, wanted), gradients(module, x, wanted), strict=True):
            torch.testing.assert_close(one, other)
    assert counter.frame_count == 2
    with torch.no_grad():
        for time_steps, batch in SIZES:
            x = input_of(name, time_steps, batch)
            for one, other in zip(flat(compiled(x)), flat(module(x)), strict=True):
                torch.testing.assert_close(one, other)
    assert counter.frame_count <= 4


@each_module
def test_one_compilation_serves_all_sizes(name: str, options: dict[str, Any]) -> None:
    assert_compiles_once(name, options, "aot_eager")


@pytest.mark.parametrize(("name", "options"), [("LSTM", {"proj_size": 2}), MODULES[1]], ids=str)
def test_the_default_backend_generates_code_around_the_operator(name: str, options: dict[str, Any]) -> None:
    assert_compiles_once(name, options, "inductor")


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non_strict"])
@each_module
def test_an_export_shows_the_operator_and_takes_all_sizes(name: str, options: dict[str, Any], strict: bool) -> None:
    module = getattr(fused_rnn, name)(3, 5, **options)
    time, batch = torch.export.Dim("time"), torch.export.Dim("batch")
    dimensions = {0: batch} if name.endswith("Cell") else {0: time, 1: batch}
    exported = torch.export.export(module, (input_of(name, 4, 2),), dynamic_shapes=(dimensions,), strict=strict)
    targets = [str(node.target) for node in exported.graph.nodes if "fused_rnn" in str(node.target)]
    assert targets == ["fused_rnn.forward.default"] * options.get("num_layers", 1)
    for sizes in SIZES:
        x = input_of(name, *sizes)
        for one, other in zip(flat(exported.module()(x)), flat(module(x)), strict=True):
            torch.testing.assert_close(one, other)


def tangent(function: Any, x: torch.Tensor, d_x: torch.Tensor) -> Any:
    return torch.func.jvp(lambda x: flat(function(x))[0], (x,), (d_x,))[1]


# A norm on the way, a layer, and a cell.
@pytest.mark.parametrize(("name", "options"), [("LSTM", {"layer_norm": True}), ("GRU", {}), ("RNNCell", {})], ids=str)
def test_tangents_are_right_inside_of_the_compiler(name: str, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    module = getattr(fused_rnn, name)(3, 5, **options)
    x, d_x = input_of(name, 2, 2), input_of(name, 2, 2)

    def run(x: torch.Tensor) -> Any:
        return tangent(module, x, d_x)

    compiled: Any = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), tangent(module, x, d_x))
    torch.testing.assert_close(tangent(torch.func.functionalize(module), x, d_x), tangent(module, x, d_x))


def test_tangents_go_through_a_compiled_layer() -> None:
    torch._dynamo.reset()
    layer, x, d_x = fused_rnn.GRU(3, 5).requires_grad_(False), input_of("GRU", 2, 2), input_of("GRU", 2, 2)
    compiled: Any = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(tangent(compiled, x, d_x), tangent(layer, x, d_x))
    with forward_ad.dual_level():
        dual = compiled(forward_ad.make_dual(x, d_x))[0]  # type: ignore[no-untyped-call]
        found: Any = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.tangent, tangent(layer, x, d_x))


def test_stacked_parameters_are_right_inside_of_the_compiler() -> None:
    torch._dynamo.reset()
    layer, x = fused_rnn.GRU(3, 5), input_of("GRU", 2, 2)

    def member(w: torch.Tensor) -> torch.Tensor:
        result: Any = torch.func.functional_call(layer, {"weight_hh_l0": w}, (x,))
        return flat(result)[0]

    run: Any = torch.func.vmap(member)

    members = torch.randn(2, 15, 5, requires_grad=True)
    compiled: Any = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, expected = compiled(members), run(members)
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad(result.square().sum(), members) for result in (found, expected))
    torch.testing.assert_close(one, other)


def test_the_compiler_refuses_a_layer_that_is_a_torch_nn_lstm() -> None:
    """The reason why ours is none (docs/notes/torch.md); where a newer torch takes it, look again."""

    class Bridge(torch.nn.LSTM):
        def __init__(self, *arguments: Any) -> None:
            torch.nn.RNNBase.__init__(self, *arguments)

    class Both(fused_rnn.LSTM, Bridge):
        pass

    layer, x = Both(3, 5), torch.randn(4, 2, 3)
    assert isinstance(layer, torch.nn.LSTM)
    torch.testing.assert_close(copy.deepcopy(layer)(x)[0], layer(x)[0])
    with pytest.raises(Unsupported, match="Attempted to wrap RNN, GRU, or LSTM"):
        torch.compile(layer, fullgraph=True, backend="eager")(x)
