"""What is compared: each peer runs a problem on the same weights and inputs. A further peer is one entry of PEERS."""

from __future__ import annotations

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
    packages: tuple[str, ...] = ()  # of the extra `peers`: what it imports, with threads of its own

    def missing(self) -> list[str]:
        """Those of its packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def describe(self) -> str:
        """What it is, with the versions of its packages."""
        versions = ", ".join(f"{package} {version(package)}" for package in self.packages)
        return f"{self.what} ({versions})" if versions else self.what


def _onnxruntime(case: Case) -> Prepared:
    from .onnx_peers import OnnxRuntimeRun

    return OnnxRuntimeRun(case)


def _openvino(case: Case) -> Prepared:
    from .onnx_peers import OpenVinoRun

    return OpenVinoRun(case)


def _jax(case: Case) -> Prepared:
    from .jax_peer import JaxRun

    return JaxRun(case)


def _not_float32(problem: Problem) -> str | None:
    return None if problem.dtype == torch.float32 else f"it is compared in float32 alone, not {problem.dtype_name}"


def _not_onnx_inference(problem: Problem) -> str | None:
    if problem.training:
        return "it has no backward pass"
    if problem.proj:
        return "ONNX's LSTM has no projection"
    return _not_float32(problem)


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(BASELINE, f"torch.nn of torch {torch.__version__}", partial(ModuleRun, torch.nn)),
        Peer(SUBJECT, f"fused_rnn {fused_rnn.__version__}", partial(ModuleRun, fused_rnn)),
        Peer(
            "onnxruntime",
            "ONNX's LSTM, GRU or RNN in ONNX Runtime",
            _onnxruntime,
            refuses=_not_onnx_inference,
            packages=("onnxruntime", "onnx"),
        ),
        Peer(
            "openvino",
            "ONNX's LSTM, GRU or RNN in OpenVINO's CPU plugin",
            _openvino,
            refuses=_not_onnx_inference,
            packages=("openvino", "onnx"),
        ),
        Peer("jax", "jax.jit of a jax.lax.scan over steps", _jax, refuses=_not_float32, packages=("jax",)),
        Peer("loop", f"a Python loop over steps in torch {torch.__version__}", partial(ModuleRun, loops)),
        Peer(
            "compiled-loop",
            f"the same loop by torch.compile of torch {torch.__version__}, {loops.UNROLL} steps at a time",
            partial(ModuleRun, loops, options={"compiled": True}),
        ),
    )
}
RIVALS: tuple[str, ...] = tuple(name for name in PEERS if name != SUBJECT)


def chosen(against: Iterable[str] = (BASELINE,)) -> dict[str, Peer]:
    """The named peers and, last, the subject."""
    return {name: PEERS[name] for name in (*against, SUBJECT)}
