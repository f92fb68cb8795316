"""A problem as a model of ONNX's own LSTM, GRU or RNN nodes, and its inference by ONNX Runtime and by OpenVINO.

Both infer it in float32, and with int8 weights and activations where they have such an LSTM.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import fused_rnn

from .environment import environment_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .case import Case, Results
    from .problems import Problem

    Arrays = Mapping[str, np.ndarray[Any, Any]]
    Infer = Callable[[Arrays], Arrays]  # from the model's inputs to its outputs, both by name

_OPSET, _IR_VERSION = 17, 8  # of 2022: every ONNX Runtime and OpenVINO of today reads them


class _Node(NamedTuple):
    """ONNX's operator for a cell."""

    operator: str
    gates: tuple[int, ...]  # its gates in its order, by their places in torch.nn's
    linear_before_reset: bool = False
    activation: str | None = None  # None: that of its definition

    def attributes(self, problem: Problem) -> dict[str, Any]:
        """The attributes of a layer's node."""
        direction = "bidirectional" if problem.bidirectional else "forward"
        found: dict[str, Any] = {"hidden_size": problem.hidden_size, "direction": direction}
        if self.linear_before_reset:
            found["linear_before_reset"] = 1
        if self.activation:
            found["activations"] = [self.activation] * problem.directions
        return found


_NODES: Mapping[str, _Node] = {
    "lstm": _Node("LSTM", (0, 3, 1, 2)),  # i o f g, from i f g o
    "gru": _Node("GRU", (1, 0, 2), linear_before_reset=True),  # z r n, from r z n
    "rnn_tanh": _Node("RNN", (0,)),
    "rnn_relu": _Node("RNN", (0,), activation="Relu"),
}


def recurrent_model(case: Case, *, with_state: bool) -> onnx.ModelProto:
    """Input x [T, B, I]; outputs `output` [T, B, D*H] and, of each layer, h_n_l0 [D, B, H], c_n_l0, h_n_l1, ...

    With initial states the inputs h_0_l0 [D, B, H], c_0_l0, ... of each layer.
    """
    problem, node = case.problem, _NODES[case.problem.cell]
    directions, hidden_size = problem.directions, problem.hidden_size
    kinds = ("h", "c") if problem.cell == "lstm" else ("h",)
    suffixes = ("", "_reverse")[:directions]
    constants = {"shape": torch.tensor([0, 0, -1])} if problem.bidirectional else {"axis": torch.tensor([1])}
    nodes, below = [], "x"
    states: dict[str, list[str]] = {"0": [], "n": []}  # names of the initial and the final ones
    for layer in range(problem.layers):
        w, r, *biases = (
            torch.stack([_reordered(case.weights[f"{kind}_l{layer}{end}"], node.gates) for end in suffixes])
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        constants |= {f"w_l{layer}": w, f"r_l{layer}": r, f"b_l{layer}": torch.cat(biases, 1)}
        initial, final = ([f"{kind}_{when}_l{layer}" for kind in kinds] for when in "0n")
        states["0"] += initial
        states["n"] += final
        operands = [below, *(f"{name}_l{layer}" for name in "wrb")] + (["", *initial] if with_state else [])
        steps = f"steps_l{layer}"  # [T, D, B, H]
        nodes.append(helper.make_node(node.operator, operands, [steps, *final], **node.attributes(problem)))
        below = "output" if layer + 1 == problem.layers else f"output_l{layer}"
        if directions == 1:
            nodes.append(helper.make_node("Squeeze", [steps, "axis"], [below]))
        else:
            nodes.append(helper.make_node("Transpose", [steps], [f"rows_l{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"rows_l{layer}", "shape"], [below]))

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    state_shape = (directions, problem.batch, hidden_size)
    inputs = [value("x", *problem.input_shape)] + [value(name, *state_shape) for name in states["0"] if with_state]
    output = value("output", problem.time_steps, problem.batch, directions * hidden_size)
    outputs = [output, *(value(name, *state_shape) for name in states["n"])]
    tensors = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in constants.items()]
    graph = helper.make_graph(nodes, "recurrent", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def _reordered(parameter: torch.Tensor, gates: tuple[int, ...]) -> torch.Tensor:
    """A parameter [G*H, ...] with its gates in another order."""
    parts = parameter.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


class _OnnxRun:
    """A model of one case; a subclass says who infers."""

    needs_state: ClassVar[bool] = False  # whether a call without states is one with zeros

    def __init__(self, case: Case) -> None:
        self._case = case
        self._x = {"x": case.x.numpy()}
        if self.needs_state:
            self._x |= _states(replace(case, h_0=torch.zeros_like(case.h_0), c_0=torch.zeros_like(case.c_0)))
        self._infer = self._compile(recurrent_model(case, with_state=self.needs_state))

    def _compile(self, model: onnx.ModelProto) -> Infer:
        """The model on as many threads as torch has now; what it returns may be overwritten by the next call."""
        raise NotImplementedError

    def step(self) -> None:
        """One timed call."""
        self._infer(self._x)

    def results(self, *, with_state: bool) -> Results:
        """Output and final states."""
        problem, inputs, infer = self._case.problem, dict(self._x), self._infer
        kinds = ("h", "c") if problem.cell == "lstm" else ("h",)
        if with_state:
            infer = self._compile(recurrent_model(self._case, with_state=True))
            inputs |= _states(self._case)
        found = {name: torch.from_numpy(array.copy()) for name, array in infer(inputs).items()}
        last = {f"{k}_n": torch.cat([found[f"{k}_n_l{layer}"] for layer in range(problem.layers)]) for k in kinds}
        return {"output": found["output"], **last}


def _states(case: Case) -> dict[str, np.ndarray[Any, Any]]:
    """The initial states by the names of the model's inputs."""
    states = {"h": case.h_0, "c": case.c_0} if case.problem.cell == "lstm" else {"h": case.h_0}
    layers = range(case.problem.layers)
    return {f"{k}_0_l{n}": states[k].chunk(case.problem.layers)[n].numpy() for k in states for n in layers}


class OnnxRuntimeRun(_OnnxRun):
    """The CPU provider of ONNX Runtime."""

    def _compile(self, model: onnx.ModelProto) -> Infer:
        return self.session(model)

    @staticmethod
    def session(model: onnx.ModelProto) -> Infer:
        """A model's inference."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        # Its workers spin while a call runs, which it needs to be fast, but not on into the other peers' samples.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


class OnnxRuntimeInt8Run(OnnxRuntimeRun):
    """The same with the nodes that `quantize_dynamic` of ONNX Runtime makes: DynamicQuantizeLSTM."""

    def _compile(self, model: onnx.ModelProto) -> Infer:
        from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

        quant_utils.add_pre_process_metadata(model)  # it is one node: the optimizations that are missed are none
        with TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            # Without VNNI its products of bytes saturate, unless weights have one bit less.
            saturates = "vnni" not in fused_rnn.build_info()["instruction_sets"]
            quantize_dynamic(model, path, per_channel=True, reduce_range=saturates, weight_type=QuantType.QInt8)
            quantized = onnx.load(path)
        if left := {node.op_type for node in quantized.graph.node} & {node.operator for node in _NODES.values()}:
            raise RuntimeError(f"ONNX Runtime left {', '.join(left)} in float32")
        return self.session(quantized)


class OpenVinoRun(_OnnxRun):
    """The CPU plugin of OpenVINO, in float32, one stream."""

    def _compile(self, model: onnx.ModelProto) -> Infer:
        return self._request(self._read(model), "f32")

    @staticmethod
    def _read(model: onnx.ModelProto) -> Any:
        with environment_variable("CI", "true"):  # else the import sends word of itself to OpenVINO's maker
            import openvino

        return openvino.Core().read_model(model.SerializeToString())

    @staticmethod
    def _request(model: Any, precision: str) -> Infer:
        """The compiled model, whose recurrent layers run in the precision, as the plugin reports it."""
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
            "ENABLE_CPU_PINNING": False,  # as with the other peers; its workers (TBB) soon sleep where idle
        }
        compiled = openvino.Core().compile_model(model, "CPU", options)
        for node in compiled.get_runtime_model().get_ordered_ops():
            found = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
            if found["layerType"] == "RNNSeq" and found["runtimePrecision"] != precision:
                raise RuntimeError(f"OpenVINO runs it in {found['runtimePrecision']}, not in {precision}")
        request = compiled.create_infer_request()
        names = [output.get_any_name() for output in compiled.outputs]

        def infer(inputs: Arrays) -> Arrays:
            request.infer(dict(inputs), share_inputs=True)
            return {name: request.get_tensor(name).data for name in names}

        return infer


class OpenVinoInt8Run(OpenVinoRun):
    """The same with FakeQuantize at x, h and the weights of every LSTM, as calibration would leave it.

    The plugin then runs oneDNN's int8 LSTM, if the states are inputs of the model. That has one scale for x and h,
    which is made for the largest value of either in this very case; weights have a scale for each row.
    """

    needs_state = True

    def _compile(self, model: onnx.ModelProto) -> Infer:
        read = self._read(model)
        from openvino.passes import ConstantFolding, Manager

        folding = Manager()
        folding.register_pass(ConstantFolding())  # reorders the gates of the weights
        folding.run_passes(read)
        case = self._case
        bound = np.float32(max(case.x.abs().max().item(), case.h_0.abs().max().item(), 1.0))
        for node in read.get_ordered_ops():
            if node.get_type_name() != "LSTMSequence":
                continue
            *_, w, r, _bias = range(node.get_input_size())
            for index in (0, 1):
                _quantize(node.input(index), -bound * np.float32(128 / 127), bound)
            for index in (w, r):
                largest = np.abs(node.input_value(index).get_node().data).max(2, keepdims=True)
                _quantize(node.input(index), -largest, largest)
        return self._request(read, "u8")


def _quantize(port: Any, low: Any, high: Any) -> None:
    """Round what enters the port of an OpenVINO node to 256 levels from low to high, or 255 that are symmetric."""
    from openvino import opset13

    ends = [opset13.constant(end) for end in (low, high)]
    rounded = opset13.fake_quantize(port.get_source_output(), *ends, *ends, 255 if np.all(low == -high) else 256)
    port.replace_source_output(rounded.output(0))


def step_session(case: Case) -> tuple[Infer, list[str]]:
    """ONNX Runtime on one step of a one-layer case, from x [1, B, I] and the states; the names of those inputs."""
    model = recurrent_model(replace(case, problem=replace(case.problem, time_steps=1)), with_state=True)
    infer = OnnxRuntimeRun.session(model)
    return infer, [value.name for value in model.graph.input if value.name != "x"]
