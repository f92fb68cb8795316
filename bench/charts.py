"""The charts of a report; the name of a file says in which format."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .noise import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from .problems import Problem
    from .workloads.char_lm import Curve

_CELL_COLORS = {"lstm": "#2f6db3", "gru": "#2f9e77", "rnn_tanh": "#c9782b", "rnn_relu": "#8a5fb0"}
_INFER_STRENGTH = 0.55  # inference bars are lighter than training bars
_CURVE_COLORS = ("#9aa3ad", "#2f6db3", "#c9782b", "#2f9e77")
_TEXT = "#333333"
_SMOOTHING = 0.9  # of the exponential mean drawn over the losses of single steps
_DPI = 144
_MOST_TICKS = 8


class Bar(NamedTuple):
    """A problem and its ratio."""

    problem: Problem
    ratio: float
    noisy: bool = False


def ticks(low: float, high: float) -> list[float]:
    """At most eight marks of a logarithmic axis from `low` to `high`: 1, 2 and 5 of each decade, or 1 of some."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    inside = [mark for mark in marks if low <= mark <= high]
    if len(inside) <= _MOST_TICKS:
        return inside
    powers = [mark for mark in inside if f"{mark:e}".startswith("1.0")]
    return powers[:: math.ceil(len(powers) / _MOST_TICKS)]


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    axes.tick_params(colors=_TEXT, length=0)


def ratio_chart(bars: Sequence[Bar], path: Path, subtitle: str, against: str = "torch.nn") -> None:
    """Horizontal bars of the ratios (minimums), on a logarithmic axis with 1 marked."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure  # a second that commands without a picture do without

    figure = Figure(figsize=(9.0, 1.6 + 0.3 * max(len(bars), 1)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    _plain(axes)
    axes.set_xscale("log")
    ratios = [bar.ratio for bar in bars]
    low, high = min([0.8, *ratios]) / 1.15, max([2.0, *ratios]) * 1.45
    axes.set_xlim(low, high)
    for position, (problem, ratio, noisy) in enumerate(bars):
        strength = 1.0 if problem.training else _INFER_STRENGTH
        color = [1.0 - strength * (1.0 - part) for part in to_rgb(_CELL_COLORS[problem.cell])]
        axes.barh(position, ratio - 1.0, left=1.0, height=0.68, color=color)
        axes.text(max(ratio, 1.0) * 1.02, position, f"{ratio:.2f}x{MARK * noisy}", va="center", fontsize=9, color=_TEXT)
    axes.axvline(1.0, color=_TEXT, linewidth=1.0)
    axes.set_yticks(range(len(bars)), [str(bar.problem) for bar in bars], fontsize=9, family="monospace")
    axes.set_ylim(len(bars) - 0.4, -0.6)
    marks = ticks(low, high)
    axes.set_xticks(marks, [f"{mark:g}x" for mark in marks])
    axes.minorticks_off()
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    told = f"; {MARK}: noisy" * any(bar.noisy for bar in bars)
    label = f"ratio: {against}'s time over fused_rnn's (minimums; lighter bars are inference{told})"
    axes.set_xlabel(label, color=_TEXT)
    figure.suptitle(f"fused_rnn against {against}: {subtitle}", x=0.01, ha="left", fontsize=10, color=_TEXT)
    figure.savefig(path, dpi=_DPI)


def _smoothed(losses: Sequence[float]) -> list[float]:
    """An exponential mean that starts unbiased."""
    smooth, mean, weight = [], 0.0, 0.0
    for loss in losses:
        mean = _SMOOTHING * mean + (1.0 - _SMOOTHING) * loss
        weight = _SMOOTHING * weight + 1.0 - _SMOOTHING
        smooth.append(mean / weight)
    return smooth


def loss_chart(curves: Mapping[str, Curve], path: Path, subtitle: str) -> None:
    """Training loss (smoothed) and validation loss against steps, and training loss against time spent training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.4), layout="constrained", facecolor="white")
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    for index, (name, curve) in enumerate(curves.items()):
        color = _CURVE_COLORS[index % len(_CURVE_COLORS)]
        dashes = "-" if index == 0 else (0, (4, 2))  # later curves lie on the first: dashes show both
        width = 2.6 if index == 0 else 1.6
        smooth = _smoothed(curve.losses)
        by_step.plot(range(1, len(smooth) + 1), smooth, color=color, linewidth=width, linestyle=dashes, label=name)
        steps, values = zip(*curve.validation, strict=True)
        marker = "o" if index == 0 else "x"
        by_step.plot(steps, values, marker, color=color, markersize=6 - index, label=f"{name}, validation")
        seconds, total = [], 0.0
        for spent in curve.step_seconds:
            total += spent
            seconds.append(total)
        by_time.plot(seconds, smooth, color=color, linewidth=2.0, label=name)
    for axes, label in ((by_step, "steps"), (by_time, "seconds spent in training steps")):
        _plain(axes)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(label, color=_TEXT)
        axes.legend(frameon=False, fontsize=9)
    by_step.set_ylabel("loss, bits per character", color=_TEXT)
    figure.suptitle(f"char_lm: {subtitle}", x=0.01, ha="left", fontsize=10, color=_TEXT)
    figure.savefig(path, dpi=_DPI)
