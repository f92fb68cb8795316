"""Calls of int8 layers and cells: what is refused and in which words, and what compilers and tracers make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

from tests.test_quantize import SIZES, arguments, assert_same, each_layer, each_module, flat, make
from tests.test_tracers import Deep, OfState

if TYPE_CHECKING:
    from collections.abc import Callable


def small(name: str, **options: Any) -> Any:
    return make(name, options)[1]


X = torch.zeros(4, 2, SIZES[0])
H = torch.zeros(1, 2, SIZES[1])
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "dtype": (lambda: small("LSTM")(X.double()), ValueError, "LSTM: input must have dtype torch.float32, got torch.fl"),
    "dtype of a cell": (lambda: small("GRUCell")(X[0].half()), RuntimeError, "GRUCell: input must have dtype torch.fl"),
    "list": (lambda: small("LSTM")([1.0]), TypeError, "LSTM: input must be a Tensor or a PackedSequence, got list"),
    "dimensions": (lambda: small("GRU")(X[0, 0]), ValueError, "GRU: Expected input to be 2D or 3D, got 1D"),
    "features": (lambda: small("GRU")(X[..., 1:]), RuntimeError, "must be equal to input_size. Expected 5, got 4"),
    "features of a cell": (lambda: small("RNNCell")(X[0, :, 1:]), RuntimeError, "got 4 expected 5"),
    "state": (lambda: small("GRU")(X, H[..., 1:]), RuntimeError, "hx must have shape .num_layers . num_directions"),
    "state of a cell": (lambda: small("GRUCell")(X[0], H[0, :1]), RuntimeError, "hx must have shape .B, hidden_size."),
    "one state": (lambda: small("LSTM")(X, H), TypeError, "LSTM: hx must be a tuple .h_0, c_0. of two Tensors, got T"),
    "dtype of a state": (lambda: small("GRU")(X, H.double()), RuntimeError, "hx has dtype torch.float64 but input has"),
    "lengths": (lambda: small("GRU")(X, lengths=torch.tensor([5, 1])), ValueError, "lengths must be from 0 to T = 4"),
    "resets": (lambda: small("GRU")(X, resets=torch.zeros(4, 2)), TypeError, "resets must have dtype torch.bool"),
    "return_cells": (lambda: small("LSTM")(X, return_cells=True), NotImplementedError, "LSTM: int8 layers return no c"),
    "cells": (lambda: small("GRU")(X, return_cells=True), TypeError, "GRU: return_cells needs a cell state"),
    "meta": (lambda: small("GRU")(X.to("meta")), RuntimeError, "weight_ih_l0 must be on meta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_named(case: str) -> None:
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


@each_module
def test_a_gradient_is_refused_and_no_grad_allows_what_would_need_one(name: str, options: dict[str, Any]) -> None:
    layer = small(name, **options)
    x, hx = arguments(layer)
    expected = layer(x, hx)
    with pytest.raises(RuntimeError, match=r"input requires grad, but int8 layers have no gradients: .*no_grad\(\)"):
        layer(x.clone().requires_grad_(), hx)
    wanted = [h.clone().requires_grad_() for h in flat(hx)]
    state = tuple(wanted) if len(wanted) == 2 else wanted[0]
    with pytest.raises(RuntimeError, match=r"hx(\[0\])? requires grad"):
        layer(x, state)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_same(layer(x.clone().requires_grad_(), state), expected)


@each_module
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_tangent_is_refused(name: str, options: dict[str, Any]) -> None:
    layer = small(name, **options)
    x, hx = arguments(layer)
    with pytest.raises(RuntimeError, match="input has a tangent, but int8 layers have no derivatives"):
        torch.func.jvp(lambda x: flat(layer(x, hx))[0], (x,), (x,))
    states = flat(hx)
    with pytest.raises(RuntimeError, match=r"hx(\[0\])? has a tangent"):
        torch.func.jvp(lambda *hx: flat(layer(x, hx if len(hx) == 2 else hx[0]))[0], tuple(states), tuple(states))
    expected = layer(x, hx)
    with forward_ad.dual_level():  # without a tangent
        assert_same(layer(x, hx), expected)


@each_module
def test_autocast_reaches_the_input_and_not_the_arithmetic(name: str, options: dict[str, Any]) -> None:
    layer = small(name, **options)
    x, hx = arguments(layer)
    x = x.bfloat16()
    expected = layer(x.float(), hx)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(layer(x, hx), expected)


@each_module
def test_on_meta_a_call_has_the_shapes_of_the_results(name: str, options: dict[str, Any]) -> None:
    layer = small(name, **options)
    x, hx = arguments(layer)
    expected = [t.shape for t in flat(layer(x, hx))]
    on_meta = tuple(h.to("meta") for h in hx) if isinstance(hx, tuple) else hx.to("meta")
    assert [t.shape for t in flat(layer.to("meta")(x.to("meta"), on_meta))] == expected


def compiled_once(name: str, options: dict[str, Any], backend: str) -> None:
    """Results are those of eager mode, with one static and one dynamic compilation for all sizes."""
    torch._dynamo.reset()
    layer, counter = small(name, **options), CompileCounterWithBackend(backend)
    compiled: Any = torch.compile(layer, fullgraph=True, backend=counter)
    for sizes in ((4, 2), (6, 3), (9, 5), (17, 4)):
        x, hx = arguments(layer, *sizes)
        assert_same(compiled(x, hx), layer(x, hx))
    assert counter.frame_count == 2


@each_module
def test_one_compilation_serves_all_sizes(name: str, options: dict[str, Any]) -> None:
    compiled_once(name, options, "aot_eager")


@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning")
def test_the_default_backend_generates_code_around_the_operator() -> None:
    compiled_once("LSTM", {"bidirectional": True}, "inductor")


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non_strict"])
@each_module
def test_an_export_shows_the_operator_and_takes_all_sizes(name: str, options: dict[str, Any], strict: bool) -> None:
    layer = small(name, **options)
    time, batch = torch.export.Dim("time"), torch.export.Dim("batch")
    steps = {0: batch, 1: time} if options.get("batch_first") else {0: time, 1: batch}
    shapes = ({0: batch},) if name.endswith("Cell") else (steps,)
    exported = torch.export.export(layer, arguments(layer, 4, 2)[:1], dynamic_shapes=shapes, strict=strict)
    targets = [str(node.target) for node in exported.graph.nodes if "fused_rnn" in str(node.target)]
    assert targets == ["fused_rnn.quantized_layer.default"] * options.get("num_layers", 1)
    for sizes in ((4, 2), (6, 3), (9, 5)):
        x, _ = arguments(layer, *sizes)
        assert_same(exported.module()(x), layer(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@each_module
def test_a_trace_has_the_bits_and_scripting_is_refused_in_words(name: str, options: dict[str, Any]) -> None:
    layer = small(name, **options)
    x, hx = arguments(layer)
    traced = torch.jit.trace(layer, (x, hx))  # type: ignore[no-untyped-call]
    assert_same(traced(x, hx), layer(x, hx))
    with pytest.raises(NotImplementedError, match=f"{name}: torch.jit.script cannot read this module"):
        torch.jit.script(layer)


@each_module
def test_a_tracer_without_leaves_has_one_node_for_a_module(name: str, options: dict[str, Any]) -> None:
    layer = small(name, **options)
    model, given = OfState(layer), arguments(layer)
    graph = torch.fx.GraphModule(model, Deep().trace(model))
    assert [node.op for node in graph.graph.nodes].count("call_module") == 1
    assert_same(graph(*given), model(*given))


@each_layer
def test_every_product_is_counted(name: str, options: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layer = small(name, **options)
    x, _ = arguments(layer, 6, 3)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    integers = sum(t.numel() for t in layer.buffers() if t.dtype == torch.int8)
    assert counter.get_total_flops() == 2 * 6 * 3 * integers


def test_results_may_be_changed_in_place() -> None:
    layer = small("LSTM")
    x, hx = arguments(layer)
    expected = [t.clone() for t in flat(layer(x, hx))]
    kept: list[Tensor] = [x.clone(), *(h.clone() for h in hx)]
    for result in flat(layer(x, hx)):
        result.add_(1.0)
    assert_same([x, *hx], kept)
    assert_same(layer(x, hx), expected)
