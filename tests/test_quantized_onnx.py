"""An export of int8 layers to ONNX holds ONNX's recurrent operators with the weights that the integers stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnxscript.optimizer
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

import fused_rnn
from tests.test_onnx import BATCH, ROWS, STEPS, TIME, WithLengths, assert_same, export, flat, recurrent, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
]

LAYERS: tuple[tuple[str, dict[str, Any], bool], ...] = (  # and whether there is an initial state
    ("LSTM", {"bidirectional": True, "num_layers": 2}, True),
    ("GRU", {"bias": False, "batch_first": True}, False),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}, True),
)
# ONNX Runtime does not round x and h: 4/254 of an x, 1/254 of an h, in gates of 3 + 5 products with weights below 0.5.
TOLERANCE = 0.05


def assert_near(actual: Any, expected: Any) -> None:
    for one, other in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0.0)


@pytest.mark.parametrize(("name", "options", "with_state"), LAYERS, ids=str)
def test_a_layer_is_one_operator_with_the_weights_of_its_integers(
    name: str, options: dict[str, Any], with_state: bool
) -> None:
    layer: Any = fused_rnn.quantize(getattr(fused_rnn, name)(3, 5, **options))
    rows = layer.num_layers * (1 + layer.bidirectional)

    def arguments(time_steps: int, batch: int) -> tuple[Any, ...]:
        x = torch.randn(*((batch, time_steps) if layer.batch_first else (time_steps, batch)), 3)
        states = [torch.randn(rows, batch, 5).tanh() for _ in range(2 if name == "LSTM" else 1)]
        return (x, tuple(states) if name == "LSTM" else states[0]) if with_state else (x,)

    steps = {0: BATCH, 1: TIME} if layer.batch_first else STEPS
    shapes = (steps, (ROWS, ROWS) if name == "LSTM" else ROWS) if with_state else (steps,)
    model = export(layer, arguments(4, 2), shapes)
    assert recurrent(model) == [name] * layer.num_layers
    plain = layer.dequantized()
    for sizes in ((1, 1), (4, 2), (7, 3)):
        given = arguments(*sizes)
        found = run(model, *given)
        assert_same(found, plain(*given))  # which has the same float weights
        assert_near(found, layer(*given))


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_cell_is_an_operator_of_one_step(name: str) -> None:
    cell: Any = fused_rnn.quantize(getattr(fused_rnn, name)(3, 5))
    states = (torch.rand(2, 5), torch.rand(2, 5)) if name == "LSTMCell" else torch.rand(2, 5)
    given = (torch.randn(2, 3), states)
    model = export(cell, given)
    assert recurrent(model) == [name.removesuffix("Cell")]
    assert_same(run(model, *given), cell.dequantized()(*given))


def test_lengths_are_those_of_the_operator() -> None:
    layer: Any = fused_rnn.quantize(fused_rnn.GRU(3, 5, bidirectional=True, num_layers=2))
    model = export(WithLengths(layer), (torch.randn(4, 2, 3), torch.tensor([3, 4])), (STEPS, {0: BATCH}))
    assert recurrent(model) == ["GRU"] * 2
    x, lengths = torch.randn(6, 3, 3), torch.tensor([6, 0, 4])
    assert_near(run(model, x, lengths), layer(x, lengths=lengths))


def stored(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """The initializers by name."""
    return {each.name: torch.tensor(numpy_helper.to_array(each)) for each in model.graph.initializer}


@pytest.mark.parametrize(("name", "order"), [("LSTM", (0, 3, 1, 2)), ("GRU", (1, 0, 2)), ("RNN", (0,))])
def test_small_weights_are_stored_as_float_in_the_order_of_onnx(name: str, order: tuple[int, ...]) -> None:
    layer: Any = fused_rnn.quantize(getattr(fused_rnn, name)(3, 5))
    model = export(layer, (torch.randn(4, 2, 3),), (STEPS,))
    (node,) = (each for each in model.graph.node if each.op_type == name)
    held, plain = stored(model), layer.dequantized()
    for stored_name, weight in zip(node.input[1:3], (plain.weight_ih_l0, plain.weight_hh_l0), strict=True):
        parts = weight.view(len(order), 5, -1)[list(order)].reshape(1, 5 * len(order), -1)
        assert torch.equal(held[stored_name], parts)
    assert {each.op_type for each in model.graph.node} <= {name, "Transpose", "Shape", "Concat", "Reshape"}


LARGE: tuple[tuple[str, int, dict[str, Any]], ...] = (  # H
    ("LSTM", 128, {"bidirectional": True}),
    ("LSTM", 512, {"bias": False}),
    ("GRU", 128, {"bidirectional": True}),
    ("RNN", 128, {}),
)


@pytest.mark.parametrize(("name", "hidden_size", "options"), LARGE, ids=str)
def test_large_weights_folded_after_the_export_are_quantized_by_onnx_runtime(
    name: str, hidden_size: int, options: dict[str, Any], tmp_path: Path
) -> None:
    # The exporter folds no constant of more than 8192 elements, as of float layers (test_onnx.py).
    layer: Any = fused_rnn.quantize(getattr(fused_rnn, name)(64, hidden_size, **options)).eval()
    x = torch.randn(4, 3, 64)
    program = torch.onnx.export(layer, (x,), dynamo=True, dynamic_shapes=(STEPS,), verbose=False)
    assert program is not None
    program.save(tmp_path / "unfolded.onnx")
    onnxscript.optimizer.optimize(program.model, input_size_limit=2**31, output_size_limit=2**31)
    program.save(tmp_path / "float.onnx")
    (node,) = (each for each in program.model_proto.graph.node if each.op_type == name)
    held = stored(program.model_proto)
    assert {held[each].dtype for each in node.input[1:3]} == {torch.float32}
    assert {held[each].dtype for each in held} <= {torch.float32, torch.int64}
    assert_near(run(program.model_proto, x), layer(x))

    integers = sum(t.numel() for t in layer.buffers() if t.dtype == torch.int8)
    assert (tmp_path / "unfolded.onnx").stat().st_size < 1.2 * integers + 40_000  # which keeps the integers
    assert_near(run(onnx.load(tmp_path / "unfolded.onnx"), x), layer(x))

    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", reduce_range=True)
    again = onnx.load(tmp_path / "int8.onnx")
    if name == "LSTM":  # ONNX Runtime quantizes no other
        assert recurrent(again) == ["DynamicQuantizeLSTM"]
        assert (tmp_path / "int8.onnx").stat().st_size < 1.2 * integers + 40_000
    assert_near(run(again, x), layer(x))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "proj_size": ({"proj_size": 2}, {}),
    "resets": ({}, {"resets": torch.zeros(4, 2, dtype=torch.bool)}),
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_onnx_has_no_operator_for_is_named(argument: str) -> None:
    options, keywords = REFUSED[argument]
    layer = fused_rnn.quantize(fused_rnn.LSTM(3, 5, **options))
    with pytest.raises(torch.onnx.OnnxExporterError, match=f"no operator for a recurrent layer with {argument}"):
        export(layer, (torch.randn(4, 2, 3),), kwargs=keywords)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_exporter_that_traces_is_refused() -> None:
    model = fused_rnn.quantize(torch.nn.Sequential(fused_rnn.GRU(3, 5)))
    with pytest.raises(NotImplementedError, match="dynamo=True"):
        torch.onnx.export(model, (torch.randn(4, 2, 3),), "unused.onnx", dynamo=False)
