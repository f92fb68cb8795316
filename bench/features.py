"""What torch.nn's kernels refuse or do slowly: each feature against what one would use instead, with a bar to reach.

A row is data: our run, the other run, and the bar. It is verified and timed as a problem of `run` is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn

from . import own_cells, scripted
from .case import ModuleRun
from .contenders import (
    PackedRun,
    PerSampleRun,
    Variant,
    by_autograd_loop,
    by_functional_loop,
    by_vmap,
    exact_packed,
    exact_per_sample,
    random_lengths,
    random_resets,
)
from .peers import BASELINE, PEERS, SUBJECT, Peer
from .problems import Problem
from .runner import Row, run_problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from .contenders import PerSample


@dataclass(frozen=True)
class Bar:
    """The least ratio of the other's time to ours; without a limit it is shown for information."""

    limit: float | None = None

    def met(self, ratio: float) -> bool | None:
        """Whether the ratio is good enough."""
        return None if self.limit is None else ratio >= self.limit

    def __str__(self) -> str:
        return "no bar" if self.limit is None else f"bar {self.limit:.3g}x"


_FAILED, _MISSED = "FAILED", "MISSED"
BAD_VERDICTS = (_FAILED, _MISSED)

_INFORMATION = Bar()
_faster = Bar


def _within(share: float) -> Bar:
    """At most this share of the other's time."""
    return Bar(1.0 / share)


@dataclass(frozen=True)
class Feature:
    """One row: what is run, by us and by the other; rows of several sizes share a name."""

    name: str
    problem: Problem
    ours: Peer
    other: Peer
    bar: Bar = _INFORMATION

    def __str__(self) -> str:
        return f"{self.name} {self.problem} against {self.other.name}"


@dataclass(frozen=True)
class FeatureRow:
    """What was found on one feature."""

    feature: Feature
    row: Row

    @property
    def ratio_minimum(self) -> float | None:
        """How many times faster we are, by minimums, which the bar is held against."""
        return self.row.ratio_minimum

    @property
    def ratio_median(self) -> float | None:
        """How many times faster we are, by medians."""
        return self.row.ratio_median

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without a bar, without times, or where these are not to be trusted."""
        return None if self.ratio_minimum is None or self.row.noise else self.feature.bar.met(self.ratio_minimum)

    @property
    def verdict(self) -> str:
        """What the table says of the bar."""
        if not self.row.verified:
            return _FAILED
        if self.ratio_minimum is None:
            return "not timed"
        if self.row.noise:
            return "noisy"
        return {None: "-", True: "met", False: _MISSED}[self.met]

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in seconds. Operations are left out: short rows make fewer than their problem has."""
        found = self.row.to_json()
        found.pop("flops")
        for peer in found["peers"].values():
            peer.pop("gflops", None)
        return found | {
            "feature": self.feature.name,
            "ours": self.feature.ours.what,
            "against": self.feature.other.what,
            "bar": self.feature.bar.limit,
            "verdict": self.verdict,
        }


def run_feature(feature: Feature, seconds: float) -> FeatureRow:
    """Verify both, then time them in turns for about `seconds`."""
    peers = {BASELINE: feature.other, SUBJECT: feature.ours}
    return FeatureRow(feature, run_problem(feature.problem, seconds, peers))


_OURS = PEERS[SUBJECT].what
_NORMALIZED = Variant({"layer_norm": True})
_PLAIN = replace(PEERS[SUBJECT], name="plain", what=f"{_OURS}, plain", own=True)


_OWN_CELL = replace(PEERS[SUBJECT], what=f"{_OURS}, the cell in Python", prepare=partial(ModuleRun, own_cells))


def _variant(what: str, variant: Variant) -> Peer:
    return replace(PEERS[SUBJECT], what=f"{_OURS}, {what}", prepare=variant.prepare, exact=variant.exact)


def _option(**options: float) -> Peer:
    """Our layer with options of its constructor."""
    return _variant(", ".join(f"{name}={value}" for name, value in options.items()), Variant(options))


def _scripted() -> Peer:
    prepare, exact = partial(_NORMALIZED.run, scripted), _NORMALIZED.exact
    return Peer("TorchScript", f"a TorchScript loop in torch {torch.__version__}", prepare, exact)


def _packed(name: str, namespace: ModuleType) -> Peer:
    like = PEERS[name]
    return replace(like, what=f"{like.what}, packed", prepare=partial(PackedRun, namespace), exact=exact_packed)


def _per_sample(name: str, what: str, gradients: PerSample) -> Peer:
    prepare = partial(PerSampleRun, fused_rnn, gradients=gradients)
    return Peer(name, f"{_OURS}, {what}", prepare, exact_per_sample, own=True)


def _rows(
    name: str,
    ours: Peer,
    others: Iterable[Peer],
    bar: Bar = _INFORMATION,
    cells: Iterable[str] = ("lstm",),
    sizes: Iterable[str] = ("t100,b4,i128,h128,f32", "t100,b32,i128,h128,f32"),
) -> list[Feature]:
    """The feature against each other, for every cell and size."""
    return [
        Feature(name, Problem.parse(f"{cell}:{size},train"), ours, other, bar)
        for cell in cells
        for size in sizes
        for other in others
    ]


_LOOPS = (
    _per_sample("grad loop", "a loop of autograd.grad over samples", by_autograd_loop),
    _per_sample("func loop", "a loop of torch.func.grad over samples", by_functional_loop),
)
_BOTH = ("lstm", "gru")

FEATURES: tuple[Feature, ...] = (
    *_rows("packed", _packed(SUBJECT, fused_rnn), [_packed(BASELINE, torch.nn)], _faster(3), _BOTH),
    *_rows("lengths", _variant("random lengths", Variant({}, random_lengths)), [_PLAIN], _within(1.15), _BOTH),
    *_rows("resets", _variant("random resets", Variant({}, random_resets)), [_PLAIN], _within(1.15), _BOTH),
    *_rows("layer_norm", _variant("layer_norm=True", _NORMALIZED), [_scripted()], _faster(4)),
    *_rows("zoneout", _option(zoneout=0.1), [_PLAIN], _within(1.25), _BOTH),
    *_rows("recurrent_dropout", _option(recurrent_dropout=0.3), [_PLAIN], _within(1.25)),
    *_rows("bf16", PEERS[SUBJECT], [PEERS[BASELINE]], _faster(20), sizes=["t100,b32,i256,h256,bf16"]),
    *_rows(
        "per_sample", _per_sample(SUBJECT, "vmap of grad", by_vmap), _LOOPS, _faster(3), sizes=["t50,b32,i128,h128,f32"]
    ),
    *_rows("own_cell", _OWN_CELL, [_PLAIN], cells=_BOTH),
    *_rows("weight_dropout", _option(weight_dropout=0.3), [_PLAIN]),
    *_rows("peephole", _option(peephole=True), [_PLAIN]),
    *_rows("recompute", _option(recompute=True), [_PLAIN]),
)
FEATURE_NAMES: tuple[str, ...] = tuple(dict.fromkeys(feature.name for feature in FEATURES))
