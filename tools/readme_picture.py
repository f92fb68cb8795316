"""Draws the picture of README from the kept runs: how many times as fast as torch.nn, on a CPU and on a GPU.

Usage: python -m tools.readme_picture

It writes docs/images/gain_light.svg and gain_dark.svg. A bar is a geometric mean of the ratios of the least times.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from bench.saved import Json, ratio_text, rows_of
from bench.timing import geometric_mean
from tools.performance_tables import GRIDS, PICTURES, kept_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

CPU_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN, tanh": "rnn_tanh", "RNN, relu": "rnn_relu"}
FEATURES, GPU = "cpu-epyc4-2threads-features", "cuda-h200"
GPU_GROUPS: dict[str, Callable[[Json], bool]] = {
    "all problems": lambda _: True,
    "LSTM, bf16 or TF32*": lambda row: (
        row["cell"] == "lstm"
        and row["type"] in {"bf16", "tf32"}
        and 256 <= row["hidden"] <= 1024
        and row["batch"] <= 32
        and not row["options"]
    ),
    "GRU, H over 192": lambda row: row["cell"] == "gru" and row["hidden"] > 192 and not row["options"],
    "two directions": lambda row: row["options"] == "bi",
    "packed sequences": lambda row: row["options"] == "packed",
    "LSTM, float32": lambda row: row["cell"] == "lstm" and row["type"] == "f32",
}


class Bars(NamedTuple):
    """A row of a panel; None where a mode was not measured."""

    name: str
    inference: float | None
    training: float | None


class Colors(NamedTuple):
    """Of one version of the picture; the background is the page's."""

    text: str
    faint: str
    inference: str
    training: str


VERSIONS = {
    "light": Colors("#1f2328", "#8c959f", "#54aeff", "#0a58ca"),
    "dark": Colors("#f0f6fc", "#7d8590", "#1f6feb", "#79c0ff"),
}
WIDTH, HALF, LEFT, TOP, ROW = 880, 440, 176, 62, 38
LONGEST = 176  # of a bar, so that its number fits beside it
BAR = 13
FONTS = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


def cpu_bars(runs: Mapping[str, Json]) -> list[Bars]:
    """Each cell's means over its grid of sizes, and the training of packed sequences."""
    found = []
    for name, cell in CPU_CELLS.items():
        rows = rows_of(runs[GRIDS.format(threads="2threads", cell=cell)])
        means = (geometric_mean([row.ratio for row in rows if row.problem.training is mode]) for mode in (False, True))
        found.append(Bars(name, *means))
    packed = [row["ratio_minimum"] for row in runs[FEATURES]["features"] if row["feature"] == "packed"]
    return [*found, Bars("packed sequences", None, geometric_mean(packed))]


def gpu_rows(runs: Mapping[str, Json]) -> list[Json]:
    """The problems of the stage `bench` whose schedule was chosen, not forced."""
    stages = [stage for stage in runs[GPU]["stages"] if stage["name"] == "bench"]
    records = [record for stage in stages for part in stage["parts"] for record in part["records"]]
    return [record for record in records if record["status"] == "ok" and not record["forced"]]


def gpu_bars(runs: Mapping[str, Json]) -> list[Bars]:
    """Means of groups of problems."""
    rows, found = gpu_rows(runs), []
    for name, holds in GPU_GROUPS.items():
        of_mode = {mode: [row for row in rows if holds(row) and row["mode"] == mode] for mode in ("infer", "train")}
        counted = f"{name} ({len(of_mode['infer'])})"
        means = (
            geometric_mean([row["theirs_us"]["min"] / row["ours_us"]["min"] for row in some])
            for some in of_mode.values()
        )
        found.append(Bars(counted, *means))
    return found


def _text(x: float, y: float, words: str, fill: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}"{more}>{words}</text>'


def _panel(left: float, title: str, under: str, rows: list[Bars], colors: Colors) -> Iterator[str]:
    """Bars from the line of torch.nn's own speed, which is at 1 of the panel's scale."""
    most = max(value for row in rows for value in (row.inference, row.training) if value is not None)
    begin, scale = left + LEFT, LONGEST / most
    yield _text(left, 20, title, colors.text, ' font-size="16" font-weight="600"')
    yield _text(left, 40, under, colors.faint)
    for index, row in enumerate(rows):
        y = TOP + index * ROW
        yield _text(begin - 8, y + 18, row.name, colors.text, ' text-anchor="end"')
        pairs = ((row.inference, colors.inference), (row.training, colors.training))
        shown = [(value, color) for value, color in pairs if value is not None]
        for place, (value, color) in enumerate(shown):
            top = y + place * (BAR + 1) + (BAR / 2 if len(shown) == 1 else 0)
            yield f'<rect x="{begin:g}" y="{top:g}" width="{value * scale:.1f}" height="{BAR}" fill="{color}"/>'
            yield _text(round(begin + value * scale + 5, 1), top + 11, ratio_text(value), colors.text)
    x, bottom = begin + scale, TOP + len(rows) * ROW - 4
    yield f'<path d="M{x:.1f} {TOP - 6}V{bottom}" stroke="{colors.text}" stroke-dasharray="3 3" fill="none"/>'
    yield _text(round(x, 1), bottom + 14, "torch.nn", colors.faint, ' text-anchor="middle"')


def picture(runs: Mapping[str, Json], colors: Colors) -> str:
    """The text of a version."""
    cpu, gpu = cpu_bars(runs), gpu_bars(runs)
    height = TOP + max(len(cpu), len(gpu)) * ROW + 38
    key, legend = height - 8, ""
    for x, words, color in ((0, "inference", colors.inference), (96, "training", colors.training)):
        legend += f'<rect x="{x}" y="{key - 11}" width="12" height="12" fill="{color}"/>'
        legend += _text(x + 18, key, words, colors.text)
    legend += _text(180, key, "times as fast as torch.nn, geometric means", colors.faint)
    legend += _text(HALF + 40, key, "* H 256 to 1024, B up to 32, one direction, not packed", colors.faint)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<g font-family="{FONTS}" font-size="13">',
        "<title>How many times as fast as torch.nn fused_rnn is, on a CPU and on a GPU</title>",
        *_panel(0, "CPU", "two cores of an AMD EPYC (Zen 4), float32, T = 100", cpu, colors),
        *_panel(HALF, "GPU", "NVIDIA H200, T = 1024 (number of problems)", gpu, colors),
        legend,
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def place(version: str) -> Path:
    """The file of a version."""
    return PICTURES / f"gain_{version}.svg"


def main() -> int:
    """Write both versions."""
    runs = kept_runs()
    for version, colors in VERSIONS.items():
        place(version).write_text(picture(runs, colors), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
