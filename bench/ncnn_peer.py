"""A problem as an LSTM, GRU or RNN layer of ncnn with int8 weights, which takes one row of a batch after the other."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .case import Case, Results
    from .problems import Problem

_MAGIC = 7767517  # of the text that describes a model
_INT8, _FLOAT32 = b"\x38\x4b\x0d\x00", bytes(4)  # what the values of a weight begin with
# ncnn's name of the layer, and its gates in its order, by their places in torch.nn's: i f o g, r z n.
_LAYERS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "lstm": ("LSTM", (0, 1, 3, 2)),
    "gru": ("GRU", (0, 1, 2)),
    "rnn_tanh": ("RNN", (0,)),
}


class NcnnRun:
    """A net of one layer; states are inputs where they are given."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._kinds = "hc" if case.problem.cell == "lstm" else "h"
        self._without_state, self._with_state = self._load(with_state=False), self._load(with_state=True)
        # [T, I] of each row; a Mat looks at the array's memory, so that both are kept.
        self._rows = [np.ascontiguousarray(row.numpy()) for row in case.x.unbind(1)]
        self._inputs = [{"x": ncnn.Mat(row)} for row in self._rows]

    def _load(self, *, with_state: bool) -> Any:
        """The net with its weights, in int8 arithmetic alone."""
        net = ncnn.Net()
        net.opt.num_threads = torch.get_num_threads()
        net.opt.use_vulkan_compute = False
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{name}", False)
        with TemporaryDirectory() as folder:
            text, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
            text.write_text(_description(self._case.problem, self._kinds if with_state else ""), encoding="ascii")
            weights.write_bytes(_weights(self._case))
            if net.load_param(str(text)) or net.load_model(str(weights)):
                raise RuntimeError("ncnn refused the model")
        return net

    def step(self) -> None:
        """One timed call: as many of ncnn as the batch has rows."""
        for inputs in self._inputs:
            _run(self._without_state, inputs, ("output",))

    def results(self, *, with_state: bool) -> Results:
        """Output and final states; nets that are given states return theirs."""
        shape = (1, self._case.problem.hidden_size)
        found: dict[str, list[torch.Tensor]] = {}
        for row, inputs in enumerate(self._inputs):
            given = {"h": self._case.h_0[:, row], "c": self._case.c_0[:, row]}
            states = {k: given[k] if with_state else torch.zeros(shape) for k in self._kinds}
            arrays = {f"{kind}_0": np.ascontiguousarray(state.numpy()) for kind, state in states.items()}
            names = ("output", *(f"{kind}_n" for kind in self._kinds))
            for name, value in _run(
                self._with_state, inputs | {k: ncnn.Mat(a) for k, a in arrays.items()}, names
            ).items():
                found.setdefault(name, []).append(torch.from_numpy(np.array(value)))
        return {name: torch.stack(rows, 1) for name, rows in found.items()}


def _run(net: Any, inputs: Mapping[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
    extractor = net.create_extractor()
    for name, value in inputs.items():
        extractor.input(name, value)
    return {name: extractor.extract(name)[1] for name in outputs}


def _description(problem: Problem, kinds: str) -> str:
    """The text of a net of one layer with these states."""
    layer, gates = _LAYERS[problem.cell]
    inputs = ["x", *(f"{kind}_0" for kind in kinds)]
    blobs = [*inputs, "output", *(f"{kind}_n" for kind in kinds)]
    hidden_size = problem.hidden_size
    options = f"0={hidden_size} 1={len(gates) * hidden_size * problem.input_size} 8=2"  # outputs, size of W, int8
    lines = [f"Input {name} 0 1 {name}" for name in inputs]
    lines += [f"{layer} layer {len(inputs)} {len(blobs) - len(inputs)} {' '.join(blobs)} {options}"]
    return "\n".join([str(_MAGIC), f"{len(lines)} {len(blobs)}", *lines, ""])


def _weights(case: Case) -> bytes:
    """W, biases and R as ncnn reads them, then the scales of the rows of W and of R."""
    gates = _LAYERS[case.problem.cell][1]
    w, r, b_ih, b_hh = (
        torch.cat([case.weights[f"{kind}_l0"].chunk(len(gates))[gate] for gate in gates])
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    biases = b_ih + b_hh
    if case.problem.cell == "gru":  # the last gate's two are apart: r multiplies one
        biases = torch.cat([biases[: 2 * case.problem.hidden_size], *(b.chunk(3)[2] for b in (b_ih, b_hh))])
    values, scales = [], b""
    for matrix in (w, r):
        scale = 127.0 / matrix.abs().amax(1)
        integers = (matrix * scale[:, None]).round().to(torch.int8).numpy().tobytes()
        values.append(_INT8 + integers + bytes(-len(integers) % 4))
        scales += scale.numpy().tobytes()
    return values[0] + _FLOAT32 + biases.numpy().tobytes() + values[1] + scales
