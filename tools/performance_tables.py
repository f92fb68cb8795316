"""Keeps runs of the benchmark in bench/results, and makes the tables and pictures of what is kept.

Usage: python -m tools.performance_tables [RUN.json ...]

Each run (what `python -m bench ... --json RUN.json` wrote; its name says machine, threads and suite) takes the place of
the one of its name, one row a line. Then tables.md is written beside the runs, and a heat map for each cell into
docs/images. Ratios are those of the minimums: torch.nn's time over fused_rnn's.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.heat_map import Grid, draw_grid
from bench.problems import Problem
from bench.regimes import REGIMES, Regime
from bench.saved import Json, Row, ratio_text, read, rows_of
from bench.timing import geometric_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PICTURES = ROOT / "docs" / "images"
TABLES = "tables.md"
LEAST = 1.1  # rows of a grid with less are named
GRIDS = "cpu-epyc4-{threads}-{cell}-full"  # the runs of the pictures
THREADS = {"2threads": "two threads", "1thread": "one thread"}
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
KEPT_OF_PEER = ("minimum_s", "median_s", "bytes", "bytes_per_step_row_unit", "error")
# Of a row: what follows from the rest, and what is empty.
NOT_KEPT = ("flops", "failures", "notes", "refusals", "noise")

ROWS_OF_A_TABLE = (*REGIMES, Regime("all", lambda _: True))


def rounded(value: Any) -> Any:
    """With the four digits that a measurement has at most."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def kept_peer(peer: Json) -> Json:
    """Times and the largest error of one implementation on a problem."""
    found = {key: peer[key] for key in KEPT_OF_PEER if key in peer}
    if errors := list(peer.get("errors", {}).values()):
        words = [error for error in errors if isinstance(error, str)]  # "not finite"
        found["error"] = words[0] if words else max(errors)
    return found


def kept_row(row: Json) -> Json:
    """A row without what is empty or follows from the rest."""
    found = {key: value for key, value in row.items() if key not in NOT_KEPT or (value and key != "flops")}
    return found | {"peers": {name: kept_peer(peer) for name, peer in row["peers"].items()}}


def kept(run: Json) -> Json:
    """What stays of a run."""
    lists = {name: [kept_row(row) for row in run[name]] for name in ("problems", "features", "memory") if name in run}
    found: Json = rounded({key: value for key, value in run.items() if key != "geometric_means"} | lists)
    return found


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def compact(value: Any) -> str:
    """JSON with one row a line."""
    if _is_rows(value):
        return "[\n" + ",\n".join(compact(each) for each in value) + "]"
    if isinstance(value, dict) and any(_is_rows(each) for each in value.values()):
        return "{" + ",\n".join(f"{json.dumps(key)}:{compact(each)}" for key, each in value.items()) + "}"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def table(columns: Sequence[str], cells: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Markdown."""
    head = f"| {' | '.join(columns)} |\n|" + "---|" * text_columns + "---:|" * (len(columns) - text_columns)
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in cells)])


def regime_table(rows: Sequence[Row]) -> str:
    """Geometric means."""
    cells = []
    for regime in ROWS_OF_A_TABLE:
        line = [regime.name]
        for training in (False, True):
            some = [row.ratio for row in rows if regime.holds(row.problem) and row.problem.training is training]
            line.append(ratio_text(geometric_mean(some)) if some else "-")
        cells.append(line)
    return table(("regime", "inference", "training"), cells)


def grid_of(rows: Sequence[Row], *, training: bool) -> Grid:
    """The rows of a mode."""
    found = {
        (row.problem.hidden_size, row.problem.batch): row.ratio for row in rows if row.problem.training is training
    }
    return Grid.of("training" if training else "inference", found)


def grid_table(grid: Grid) -> str:
    """Hidden sizes by batches."""
    found = grid.ratios
    cells = (
        (f"H = {size}", *(ratio_text(found[size, b]) if (size, b) in found else "-" for b in grid.batches))
        for size in grid.sizes
    )
    return table((grid.name, *(f"B = {batch}" for batch in grid.batches)), cells)


def below(rows: Sequence[Row]) -> str:
    """The rows that are named."""
    named = [f"- `{row.problem}` {ratio_text(row.ratio)}" for row in rows if row.ratio < LEAST]
    return "\n".join([f"Below {LEAST}x: {len(named)} of {len(rows)}.", *([""] if named else []), *named])


def milliseconds(peer: Json | None, key: str = "minimum_s") -> str:
    """A time."""
    return f"{peer[key] * 1e3:.3g}" if peer and key in peer else "-"


def peers_table(run: Json) -> str:
    """Every problem with the times of all implementations, and the ratio to the fastest other."""
    names = list(run["peers"])
    cells = []
    for row in run["problems"]:
        times = {name: peer["minimum_s"] for name, peer in row["peers"].items() if "minimum_s" in peer}
        ours, ratio = times.pop("fused", None), "-"
        if times and ours:
            fastest = min(times, key=lambda name: times[name])
            ratio = f"{times[fastest] / ours:.2f}x" + (f" ({fastest})" if len(names) > 2 else "")
        cells.append((f"`{row['problem']}`", *(milliseconds(row["peers"].get(name)) for name in names), ratio))
    return table(("problem", *(f"{name} ms" for name in names), "ratio to the fastest other"), cells)


def features_table(run: Json) -> str:
    """What a feature gains or costs."""
    cells = []
    for row in run["features"]:
        peers, ratio, bar = row["peers"], row["ratio_minimum"], row["bar"]
        times = (
            f"{milliseconds(peers.get(name))} / {milliseconds(peers.get(name), 'median_s')}"
            for name in ("fused", "torch")
        )
        limit, found = ("-" if value is None else f"{value:.2f}x" for value in (bar, ratio))
        cells.append((row["feature"], f"`{row['problem']}`", row["against"], *times, found, limit, row["verdict"]))
    columns = ("feature", "problem", "against", "ours ms", "other ms", "ratio", "bar", "verdict")
    told = "Minimum / median; the bar is the least ratio of minimums, below 1 where a feature may cost time."
    return f"{told}\n\n{table(columns, cells, 3)}"


def memory_table(run: Json) -> str:
    """The growth of the peak in a pass."""
    names = list(run["memory"][0]["peers"])
    cells = (
        (f"`{row['problem']}`", *(f"{row['peers'][name]['bytes_per_step_row_unit']:.1f}" for name in names))
        for row in run["memory"]
    )
    return f"Bytes per step, row and unit.\n\n{table(('problem', *names), cells)}"


def is_grid(run: Json) -> bool:
    """Whether the problems of a run differ in nothing but hidden size, batch and mode."""
    if list(run.get("peers", ())) != ["torch", "fused"]:
        return False
    problems = [Problem.parse(row["problem"]) for row in run["problems"]]
    return len({(p.hidden_size, p.batch, p.training) for p in problems}) == len(problems) > 8


def section(name: str, run: Json) -> str:
    """A run."""
    environment = run["environment"]
    facts = ("processor", "threads", "torch", "build: active_instruction_set", "commit", "date")
    parts = [f"## {name}", ", ".join(f"{key.removeprefix('build: ')} {environment[key]}" for key in facts) + "."]
    if is_grid(run):
        rows = rows_of(run)
        parts += [
            regime_table(rows),
            *(grid_table(grid_of(rows, training=mode)) for mode in (False, True)),
            below(rows),
        ]
    elif "problems" in run:
        parts.append(peers_table(run))
    else:
        parts.append(features_table(run) if "features" in run else memory_table(run))
    return "\n\n".join(parts)


def tables(runs: Mapping[str, Json]) -> str:
    """The text of tables.md: every run on a CPU."""
    about = "Made by performance_tables.py from the JSON beside it."
    ratio = "Ratios are the other's time over fused_rnn's, by minimums."
    parts = [section(name, run) for name, run in runs.items() if "stages" not in run]
    return "\n\n".join(["# Runs", f"{about} {ratio}", *parts]) + "\n"


def means_table(runs: Mapping[str, Json]) -> str:
    """Geometric means of the grids, a line for each cell and number of threads; it stands in docs/performance.md."""
    cells = []
    for threads, words in THREADS.items():
        for cell in CELLS:
            rows = rows_of(runs[GRIDS.format(threads=threads, cell=cell)])
            ratios = ([row.ratio for row in rows if row.problem.training is training] for training in (False, True))
            cells.append((f"{cell}, {words}", *(ratio_text(geometric_mean(some)) for some in ratios)))
    return table(("cell", "inference", "training"), cells)


def kept_runs() -> dict[str, Json]:
    """All that stay, by name."""
    return {path.stem: read(path) for path in sorted(RESULTS.glob("*.json"))}


def digest(runs: Mapping[str, Json], cell: str) -> str:
    """Of what the picture of a cell shows; its file names it."""
    shown = [rows_of(runs[GRIDS.format(threads=threads, cell=cell)]) for threads in THREADS]
    text = repr([[(str(row.problem), row.ratio) for row in rows] for rows in shown])
    return hashlib.sha256(text.encode()).hexdigest()


def picture(cell: str) -> Path:
    """The file of a cell's heat map."""
    return PICTURES / f"speed_{cell}.png"


def draw_heat_map(runs: Mapping[str, Json], cell: str) -> None:
    """The ratios of a cell: inference and training, two threads and one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 5.0), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 2)
    for row, (threads, words) in enumerate(THREADS.items()):
        rows = rows_of(runs[GRIDS.format(threads=threads, cell=cell)])
        for training in (False, True):
            grid = grid_of(rows, training=training)
            draw_grid(axes[row, int(training)], grid, f"{grid.name}, {words}")
    figure.suptitle(f"{cell}: how many times faster than torch.nn (T = 100, I = H, float32)")
    figure.savefig(picture(cell), dpi=84, metadata={"Source": digest(runs, cell)})


def main() -> int:
    """Keep the runs that are named, then write everything."""
    if any(not argument.endswith(".json") for argument in sys.argv[1:]):
        print(__doc__, file=sys.stderr)
        return 2
    for argument in map(Path, sys.argv[1:]):
        (RESULTS / argument.name).write_text(compact(kept(read(argument))) + "\n", encoding="utf-8")
    runs = kept_runs()
    (RESULTS / TABLES).write_text(tables(runs), encoding="utf-8")
    for cell in CELLS:
        draw_heat_map(runs, cell)
    return 0


if __name__ == "__main__":
    sys.exit(main())
