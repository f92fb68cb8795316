"""What is compared: each peer runs a problem on the same weights and inputs. A further peer is one entry of PEERS."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

import fused_rnn

from . import loops
from .case import ModuleRun, oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .case import Case, Prepared, Results
    from .problems import Problem

BASELINE = "torch"  # ratios are its time ...
SUBJECT = "fused"  # ... divided by this one's, and this one must be accurate


def runs_all(_problem: Problem) -> None:
    """Nothing is refused."""


@dataclass(frozen=True)
class Peer:
    """One implementation: what it is, and how to get it ready for a case (an exception leaves it out of a problem)."""

    name: str
    what: str
    prepare: Callable[[Case], Prepared]
    exact: Callable[..., Results] = oracle  # what its results should be, called as `oracle` is
    own: bool = False  # it runs fused_rnn too, where the subject does: then it must be as accurate
    refuses: Callable[[Problem], str | None] = runs_all  # why it is not asked to run a problem
    coarse: float = 0.0  # an error of outputs that is more than the tolerance and no reason to leave out its time
    packages: tuple[str, ...] = ()  # of the extra `peers`: what it imports, with threads of its own

    def missing(self) -> list[str]:
        """Those of its packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def describe(self) -> str:
        """What it is, with the versions of its packages."""
        versions = ", ".join(f"{package} {version(package)}" for package in self.packages)
        return f"{self.what} ({versions})" if versions else self.what


def quantized_by_torch(layer: torch.nn.Module) -> torch.nn.Module:
    """The layer of torch.ao with int8 weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is on its way out of torch
        model = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            torch.nn.Sequential(layer), {torch.nn.LSTM, torch.nn.GRU}, dtype=torch.qint8
        )
    quantized: torch.nn.Module = model[0]  # a bare layer would stay as it is
    if type(quantized) is type(layer):
        raise RuntimeError("torch.ao left the layer in float32")
    return quantized


def _in_float32(case: Case) -> Prepared:
    return ModuleRun(fused_rnn, case.unrounded())


def _onnx(run: str) -> Callable[[Case], Prepared]:
    """A run of `onnx_peers` by its name, since that file needs the package."""

    def prepare(case: Case) -> Prepared:
        from . import onnx_peers

        prepared: Prepared = getattr(onnx_peers, run)(case)
        return prepared

    return prepare


def _ncnn(case: Case) -> Prepared:
    from .ncnn_peer import NcnnRun

    return NcnnRun(case)


def _jax(case: Case) -> Prepared:
    from .jax_peer import JaxRun

    return JaxRun(case)


def _not_float32(problem: Problem) -> str | None:
    return None if problem.dtype_name == "f32" else f"it is compared in float32 alone, not {problem.dtype_name}"


def _rounded(problem: Problem) -> str | None:
    return f"it rounds no factors, which {problem.dtype_name} asks" if problem.factors else None


def _not_rounded(problem: Problem) -> str | None:
    return None if problem.factors else f"it is compared with i8 and f32-bf16 alone, not {problem.dtype_name}"


def _not_of_torch(problem: Problem) -> str | None:
    if problem.factors == torch.int8 and problem.cell.startswith("rnn_"):
        return "torch.ao has no int8 RNN"
    return "torch.ao's int8 LSTM has no projection" if problem.factors == torch.int8 and problem.proj else None


def _not_onnx_inference(problem: Problem) -> str | None:
    if problem.training:
        return "it has no backward pass"
    if problem.proj:
        return "ONNX's LSTM has no projection"
    return _not_float32(problem)


def _not_int8(problem: Problem) -> str | None:
    return None if problem.factors == torch.int8 else f"it is compared in int8 alone, not {problem.dtype_name}"


def _not_torchao_int8(problem: Problem) -> str | None:
    return _not_int8(problem) or _not_of_torch(problem)


def _not_onnxruntime_int8(problem: Problem) -> str | None:
    if problem.cell != "lstm":
        return "ONNX Runtime quantizes the LSTM alone"
    return "ONNX's LSTM has no projection" if problem.proj else _not_int8(problem)


def _not_single(problem: Problem) -> str | None:
    if problem.proj or problem.layers > 1 or problem.bidirectional:
        return "it is compared on one layer in one direction, without a projection"
    return _not_int8(problem)


def _not_openvino_int8(problem: Problem) -> str | None:
    if problem.cell != "lstm":
        return "oneDNN has no int8 GRU with torch.nn's reset gate, and no int8 RNN"
    return _not_single(problem)


def _not_ncnn(problem: Problem) -> str | None:
    return "its RNN has no relu" if problem.cell == "rnn_relu" else _not_single(problem)


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            BASELINE,
            f"torch.nn of torch {torch.__version__} (type i8: torch.ao's quantize_dynamic)",
            partial(ModuleRun, torch.nn, quantize=quantized_by_torch),
            refuses=_not_of_torch,
        ),
        Peer(
            SUBJECT,
            f"fused_rnn {fused_rnn.__version__}",
            partial(ModuleRun, fused_rnn, quantize=fused_rnn.quantize),
        ),
        Peer("float32", "fused_rnn's own float32 layer", _in_float32, own=True, refuses=_not_rounded),
        Peer(
            "onnxruntime",
            "ONNX's LSTM, GRU or RNN in ONNX Runtime",
            _onnx("OnnxRuntimeRun"),
            refuses=_not_onnx_inference,
            packages=("onnxruntime", "onnx"),
        ),
        Peer(
            "openvino",
            "ONNX's LSTM, GRU or RNN in OpenVINO's CPU plugin",
            _onnx("OpenVinoRun"),
            refuses=_not_onnx_inference,
            packages=("openvino", "onnx"),
        ),
        Peer(
            "torchao-int8",
            f"torch.ao's quantize_dynamic of torch {torch.__version__}: what {BASELINE} is in int8, for that alone",
            partial(ModuleRun, torch.nn, quantize=quantized_by_torch),
            refuses=_not_torchao_int8,
        ),
        Peer(
            "onnxruntime-int8",
            "DynamicQuantizeLSTM of ONNX Runtime, by its quantize_dynamic with a scale for each row of the weights",
            _onnx("OnnxRuntimeInt8Run"),
            refuses=_not_onnxruntime_int8,
            packages=("onnxruntime", "onnx"),
        ),
        Peer(
            "openvino-int8",
            "oneDNN's int8 LSTM in OpenVINO's CPU plugin, calibrated on the very input, x and h by one scale",
            _onnx("OpenVinoInt8Run"),
            refuses=_not_openvino_int8,
            coarse=0.15,
            packages=("openvino", "onnx"),
        ),
        Peer(
            "ncnn",
            "ncnn's int8 LSTM, GRU or RNN, row by row of a batch; GRU and RNN multiply floats by int8 weights",
            _ncnn,
            refuses=_not_ncnn,
            packages=("ncnn",),
        ),
        Peer("jax", "jax.jit of a jax.lax.scan over steps", _jax, refuses=_not_float32, packages=("jax",)),
        Peer(
            "loop",
            f"a Python loop over steps in torch {torch.__version__}",
            partial(ModuleRun, loops),
            refuses=_rounded,
        ),
        Peer(
            "compiled-loop",
            f"the same loop by torch.compile of torch {torch.__version__}, {loops.UNROLL} steps at a time",
            partial(ModuleRun, loops, options={"compiled": True}),
            refuses=_rounded,
        ),
    )
}
RIVALS: tuple[str, ...] = tuple(name for name in PEERS if name != SUBJECT)


def chosen(against: Iterable[str] = (BASELINE,)) -> dict[str, Peer]:
    """The named peers and, last, the subject."""
    return {name: PEERS[name] for name in (*against, SUBJECT)}
