"""Heat maps: the ratios of a run by hidden size and batch, a panel for the problems that else are the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .saved import ratio_text, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from .problems import Problem
    from .saved import Json, Row

_LARGEST = 3.0  # the powers of two, up and down, at which colours end


class Grid(NamedTuple):
    """Ratios by hidden size and batch."""

    name: str
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    ratios: Mapping[tuple[int, int], float]

    @classmethod
    def of(cls, name: str, ratios: Mapping[tuple[int, int], float]) -> Grid:
        """The grid of all sizes and batches that occur."""
        sizes, batches = (tuple(sorted({key[place] for key in ratios})) for place in (0, 1))
        return cls(name, sizes, batches, ratios)


def _name(problem: Problem) -> str:
    """All of a problem but hidden size and batch."""
    same = problem.input_size == problem.hidden_size
    parts = [problem.cell, problem.dtype_name, "training" if problem.training else "inference"]
    parts += [f"T = {problem.time_steps}", "I = H" if same else f"I = {problem.input_size}"]
    parts += [f"{problem.layers} layers"] * (problem.layers > 1) + ["bidirectional"] * problem.bidirectional
    return ", ".join([*parts, *[f"P = {problem.proj}"] * bool(problem.proj)])


def grids_of(rows: Sequence[Row]) -> list[Grid]:
    """One for each kind of problem, in the order in which they come."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    for problem, ratio in rows:
        found.setdefault(_name(problem), {})[problem.hidden_size, problem.batch] = ratio
    return [Grid.of(name, ratios) for name, ratios in found.items()]


def draw_grid(axes: Axes, grid: Grid, title: str) -> None:
    """Blue where fused_rnn is faster, red where it is slower; a field without a figure stays white."""
    values = [[math.log2(grid.ratios.get((size, batch), math.nan)) for batch in grid.batches] for size in grid.sizes]
    axes.imshow(values, cmap="RdBu", vmin=-_LARGEST, vmax=_LARGEST, aspect="auto")
    axes.set_xticks(range(len(grid.batches)), [str(batch) for batch in grid.batches])
    axes.set_yticks(range(len(grid.sizes)), [str(size) for size in grid.sizes])
    axes.set(title=title, xlabel="B", ylabel="H")
    axes.tick_params(length=0)
    for (size, batch), ratio in grid.ratios.items():
        place = (grid.batches.index(batch), grid.sizes.index(size))
        color = "white" if abs(math.log2(ratio)) > 2.0 else "black"
        axes.text(*place, ratio_text(ratio)[:-1], ha="center", va="center", color=color, fontsize=9)


def draw(run: Json, path: Path) -> int:
    """The heat map of a run, in the format that the name of the file says; how many panels it has."""
    from matplotlib.figure import Figure

    grids = grids_of(rows_of(run))
    if not grids:
        raise ValueError("the run has no times that are not noisy")
    columns = min(len(grids), 2)
    lines = math.ceil(len(grids) / columns)
    figure = Figure(figsize=(5.0 * columns, 0.6 + 2.3 * lines), layout="constrained", facecolor="white")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for grid, axes in zip(grids, panels, strict=False):
        draw_grid(axes, grid, grid.name)
    for axes in panels:  # those left over
        axes.set_axis_off()
    about = run.get("environment", {})
    told = ", ".join(f"{name} {about[name]}" for name in ("processor", "threads", "torch") if name in about)
    figure.suptitle(f"torch.nn's time over fused_rnn's\n{told}", fontsize=10)
    figure.savefig(path, dpi=110)
    return len(grids)
