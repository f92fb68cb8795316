"""The charts of a report, as PNG files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

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


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    axes.tick_params(colors=_TEXT, length=0)


def ratio_chart(
    found: Sequence[tuple[Problem, float | None]], path: Path, subtitle: str, against: str = "torch.nn"
) -> None:
    """Horizontal bars of how many times faster each problem is (minimums), on a logarithmic axis with 1 marked.

    A problem with None was not timed and has no bar.
    """
    timed = [(problem, ratio) for problem, ratio in found if ratio is not None]
    figure = Figure(figsize=(9.0, 1.6 + 0.3 * max(len(timed), 1)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    _plain(axes)
    axes.set_xscale("log")
    ratios = [ratio for _, ratio in timed]
    low, high = min([0.8, *ratios]) / 1.15, max([2.0, *ratios]) * 1.45
    axes.set_xlim(low, high)
    for position, (problem, ratio) in enumerate(timed):
        strength = 1.0 if problem.training else _INFER_STRENGTH
        color = [1.0 - strength * (1.0 - part) for part in to_rgb(_CELL_COLORS[problem.cell])]
        axes.barh(position, ratio - 1.0, left=1.0, height=0.68, color=color)
        axes.text(max(ratio, 1.0) * 1.02, position, f"{ratio:.2f}x", va="center", fontsize=9, color=_TEXT)
    axes.axvline(1.0, color=_TEXT, linewidth=1.0)
    axes.set_yticks(range(len(timed)), [str(problem) for problem, _ in timed], fontsize=9, family="monospace")
    axes.set_ylim(len(timed) - 0.4, -0.6)
    axes.xaxis.set_major_locator(LogLocator(base=10.0, subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.minorticks_off()
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"times faster than {against} (minimum times, logarithmic; lighter bars are inference)", color=_TEXT
    )
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
