"""An export to ONNX holds ONNX's own recurrent operators, which compute in ONNX Runtime what torch.nn computes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
import onnxscript.optimizer
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.onnx._internal.exporter._registration import ONNXRegistry

import fused_rnn

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning"),
    # Two inputs share the axis of the batch, and the exporter names it after one of them.
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
]

# Each export would parse the sources of torch's operators for ONNX again, a third of its time. None of ours is there.
ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]

TIME, BATCH = torch.export.Dim("T"), torch.export.Dim("B")
STEPS, ROWS = {0: TIME, 1: BATCH}, {1: BATCH}
LAYERS: tuple[tuple[str, dict[str, Any], bool], ...] = (  # and whether there is an initial state
    ("LSTM", {"bidirectional": True, "num_layers": 2}, True),
    ("LSTM", {"bias": False}, False),
    ("GRU", {"bidirectional": True, "num_layers": 2}, True),
    ("GRU", {"bias": False, "batch_first": True}, False),
    ("RNN", {"bidirectional": True, "num_layers": 2}, False),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True, "batch_first": True}, True),
)
# T and B of the export, then others; the exporter would take a 1 for a constant.
EXPORTED, RUN = (4, 2), ((1, 1), (4, 2), (7, 3))


class WithLengths(torch.nn.Module):
    """A layer whose lengths are a positional argument."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Any:
        return self.layer(x, lengths=lengths)


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def pair(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Modules of this package and of torch.nn with the same parameters."""
    ours, theirs = (getattr(each, name)(3, 5, **options).eval() for each in (fused_rnn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def export(module: torch.nn.Module, arguments: tuple[Any, ...], shapes: Any = None, **options: Any) -> onnx.ModelProto:
    """The model, which is valid."""
    program = torch.onnx.export(
        module.eval(), arguments, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **options
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, *arguments: Any) -> list[torch.Tensor]:
    """The results in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    given = {name: t.detach().numpy() for name, t in zip(names, flat(arguments), strict=True)}
    return [torch.from_numpy(result) for result in session.run(None, given)]


def recurrent(model: onnx.ModelProto) -> list[str]:
    """The recurrent operators of a model, and those of other domains than ONNX's own."""
    return [n.op_type for n in model.graph.node if n.domain or n.op_type in {"LSTM", "GRU", "RNN", "Scan", "Loop"}]


def output_types(model: onnx.ModelProto) -> list[str]:
    """ONNX's names of the types of the results."""
    return [onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in model.graph.output]


def assert_same(actual: Any, expected: Any) -> None:
    for one, other in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "options", "with_state"), LAYERS, ids=str)
def test_a_layer_is_one_operator_for_all_sizes(name: str, options: dict[str, Any], with_state: bool) -> None:
    ours, theirs = pair(name, options)
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)

    def arguments(time_steps: int, batch: int) -> tuple[Any, ...]:
        x = torch.randn(*((batch, time_steps) if ours.batch_first else (time_steps, batch)), 3)
        states = [torch.randn(rows, batch, 5) for _ in range(2 if name == "LSTM" else 1)]
        return (x, tuple(states) if name == "LSTM" else states[0]) if with_state else (x,)

    steps = {0: BATCH, 1: TIME} if ours.batch_first else STEPS
    shapes = (steps, (ROWS, ROWS) if name == "LSTM" else ROWS) if with_state else (steps,)
    model = export(ours, arguments(*EXPORTED), shapes)
    assert recurrent(model) == [name] * options.get("num_layers", 1)
    for sizes in RUN:
        given = arguments(*sizes)
        assert_same(run(model, given), theirs(*given))


def test_a_layer_of_an_own_cell_is_its_steps() -> None:
    # In float64, for which tests/test_recurrent.py has this cell compiled, too.
    layer, x = fused_rnn.SLSTM(3, 4, num_heads=2, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64)
    model = export(layer, (torch.randn_like(x),))
    assert recurrent(model) == []
    assert_same(run(model, x), layer(x))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_lengths_are_those_of_the_operator(name: str) -> None:
    ours, theirs = pair(name, {"bidirectional": True, "num_layers": 2})
    module = WithLengths(ours)
    model = export(module, (torch.randn(4, 2, 3), torch.tensor([3, 4])), (STEPS, {0: BATCH}))
    assert recurrent(model) == [name] * 2
    x, lengths = torch.randn(4, 2, 3), torch.tensor([0, 3])
    assert_same(run(model, x, lengths), module(x, lengths))  # a row without steps keeps its state; not in torch.nn
    for lengths in (torch.tensor([6, 1, 4]), torch.tensor([2, 2])):
        x = torch.randn(6, len(lengths), 3)
        for row, length in enumerate(lengths):
            x[length:, row] = torch.nan
        output, states = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
        assert_same(run(model, x, lengths), (pad_packed_sequence(output, total_length=6)[0], states))


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_cell_is_an_operator_of_one_step(name: str) -> None:
    ours, theirs = pair(name, {})
    states = (torch.randn(2, 5), torch.randn(2, 5)) if name == "LSTMCell" else torch.randn(2, 5)
    given = (torch.randn(2, 3), states)
    model = export(ours, given)
    assert recurrent(model) == [name.removesuffix("Cell")]
    assert_same(run(model, given), theirs(*given))


def test_input_without_a_batch_is_exported() -> None:
    ours, theirs = pair("GRU", {"num_layers": 2})
    model = export(ours, (torch.randn(4, 3),), ({0: TIME},))
    for time_steps in (1, 9):
        x = torch.randn(time_steps, 3)
        assert_same(run(model, x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_types_make_valid_models(dtype: torch.dtype) -> None:
    # ONNX Runtime has no LSTM for them on CPU. The operator takes bfloat16 from version 22 on.
    exported = export(fused_rnn.LSTM(3, 5, dtype=dtype), (torch.randn(4, 2, 3, dtype=dtype),), opset_version=22)
    assert output_types(exported) == [str(dtype).removeprefix("torch.").upper().replace("FLOAT64", "DOUBLE")] * 3


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_small_weights_are_stored_in_the_order_of_onnx(name: str) -> None:
    model = export(pair(name, {"bidirectional": True})[0], (torch.randn(4, 2, 3),), (STEPS,))
    stored = {each.name for each in model.graph.initializer}
    (node,) = (each for each in model.graph.node if each.op_type == name)
    assert set(node.input[1:4]) <= stored
    assert {each.op_type for each in model.graph.node} <= {name, "Transpose", "Shape", "Concat", "Reshape"}


LARGE: tuple[tuple[str, int, dict[str, Any], bool], ...] = (  # H, and whether the weights lie in a file of their own
    ("LSTM", 72, {"batch_first": True, "bidirectional": True, "num_layers": 2}, False),
    ("LSTM", 72, {"bias": False}, True),
    ("LSTM", 1024, {}, True),
    ("GRU", 128, {"bidirectional": True}, False),
    ("RNN", 128, {}, False),
)


@pytest.mark.parametrize(("name", "hidden_size", "options", "external"), LARGE, ids=str)
def test_large_weights_folded_after_the_export_are_quantized(
    name: str, hidden_size: int, options: dict[str, Any], external: bool, tmp_path: Path
) -> None:
    # The exporter folds no constant of more than 8192 elements but by Transpose, which cannot reorder gates.
    layer: Any = getattr(fused_rnn, name)(64, hidden_size, **options).eval()
    x = torch.randn(4, 3, 64)
    state = torch.randn(layer.num_layers * (1 + layer.bidirectional), 4 if layer.batch_first else 3, hidden_size) / 2
    given = (x, (state, state) if name == "LSTM" else state)
    steps = {0: BATCH, 1: TIME} if layer.batch_first else STEPS
    shapes = (steps, (ROWS, ROWS) if name == "LSTM" else ROWS)
    program = torch.onnx.export(layer, given, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    onnxscript.optimizer.optimize(program.model, input_size_limit=2**31, output_size_limit=2**31)
    program.save(tmp_path / "float.onnx", external_data=external)
    nodes = program.model_proto.graph.node
    stored = {each.name for each in program.model_proto.graph.initializer}
    weights = [each for node in nodes if node.op_type == name for each in node.input[1:4] if each]
    assert len(weights) == layer.num_layers * (3 if layer.bias else 2)
    assert set(weights) <= stored
    size = sum(parameter.numel() * parameter.element_size() for parameter in layer.parameters())
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.1 * size + 20_000

    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", reduce_range=True)
    quantized = onnx.load(tmp_path / "int8.onnx")
    if name == "LSTM":  # ONNX Runtime quantizes no other
        assert recurrent(quantized) == ["DynamicQuantizeLSTM"] * layer.num_layers
        assert (tmp_path / "int8.onnx").stat().st_size < 0.3 * size + 20_000
    # 7 bits of weights in [-1, 1] / sqrt(H), and 8 of inputs that are up to about 4.
    for one, other in zip(run(quantized, given), flat(layer(*given)), strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0)


def test_all_operands_have_the_type_of_autocast() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), fused_rnn.LSTM(3, 5))
    with torch.autocast("cpu", dtype=torch.float16):
        exported = export(model, (torch.randn(4, 2, 3),))  # mixed types are not valid
    assert output_types(exported) == ["FLOAT16"] * 3


REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "proj_size": ({"proj_size": 2}, {}),
    "resets": ({}, {"resets": torch.zeros(4, 2, dtype=torch.bool)}),
    "return_cells": ({}, {"return_cells": True}),
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_onnx_has_no_operator_for_is_named(argument: str) -> None:
    options, keywords = REFUSED[argument]
    with pytest.raises(torch.onnx.OnnxExporterError, match=f"no operator for a recurrent layer with {argument}"):
        export(fused_rnn.LSTM(3, 5, **options), (torch.randn(4, 2, 3),), kwargs=keywords)


class Packing(torch.nn.Module):
    """Packs inside of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = fused_rnn.GRU(3, 5)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        output: torch.Tensor = self.layer(packed)[1]
        return output


def test_an_export_of_a_packed_sequence_hints_at_lengths() -> None:
    with pytest.raises(torch.onnx.OnnxExporterError, match="give padded input and lengths"):
        export(Packing(), (torch.randn(4, 2, 3), torch.tensor([3, 4])))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_exporter_that_traces_is_refused() -> None:
    model = torch.nn.Sequential(fused_rnn.GRU(3, 5)).eval()
    with pytest.raises(NotImplementedError, match="dynamo=True"):
        torch.onnx.export(model, (torch.randn(4, 2, 3),), "unused.onnx", dynamo=False)
