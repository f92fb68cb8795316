"""What is shown and written of runs, features, memory and workloads: tables, lines, JSON, and the report folder.

`ratio` is one thing in all tables: the other's time over fused_rnn's, so that fused_rnn is faster above 1.
"""

from __future__ import annotations

import json
from statistics import fmean
from typing import TYPE_CHECKING, Any

from .charts import Bar, loss_chart, ratio_chart
from .features import BAD_VERDICTS
from .noise import MARK, noise_lines
from .peers import BASELINE, PEERS, SUBJECT
from .runner import Mean, Row, geometric_means
from .table import Table, milliseconds, ratio_cell
from .verify import Errors, tolerance_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .environment import Environment
    from .features import FeatureRow
    from .memory import MemoryRow
    from .workloads.char_lm import Outcome

_CURVE_ROWS = 12


def environment_table(environment: Environment) -> Table:
    """One line per fact."""
    return Table("Environment", ("what", "value"), [(key, str(value)) for key, value in environment.items()], left=2)


def peers_of(rows: Sequence[Row]) -> list[str]:
    """The names of what was compared, the subject last."""
    return [*dict.fromkeys(name for row in rows for name in row.against), SUBJECT] if rows else [BASELINE, SUBJECT]


def parity_table(rows: Sequence[Row]) -> Table:
    """The errors of every peer against float64, and whether fused_rnn is within tolerance.

    Outputs and gradients have columns of their own where there are two peers.
    """
    names = peers_of(rows)
    kinds: tuple[bool | None, ...] = (False, True) if len(names) == 2 else (None,)
    cells = []
    for row in rows:
        ours = row.errors.get(SUBJECT)
        worst = ours.worst(gradients=row.problem.training) if ours else None
        line = [str(row.problem)]
        for gradients in kinds:
            line += [_worst(row.errors.get(name), gradients=gradients) for name in names]
        cells.append((*line, worst[0] if worst else "-", "ok" if row.verified else "FAILED"))
    two = (f"outputs: {names[0]}", *names[1:], f"gradients: {names[0]}", *names[1:])
    columns = ("problem", *(two if len(names) == 2 else names))
    used = {row.problem.dtype_name: tolerance_of(row.problem) for row in rows}
    limits = "; ".join(
        f"{name} {' and '.join(f'{limit:.0e}' for limit in tolerance if limit)}" for name, tolerance in used.items()
    )
    return Table(
        "Parity: largest error against float64, relative to the largest value",
        (*columns, "largest in", "verdict"),
        cells,
        bad=frozenset(index for index, row in enumerate(rows) if not row.verified),
        note=f"Allowed for outputs and gradients: {limits}; or twice torch.nn's own error where that is more.",
    )


def _worst(errors: Errors | None, *, gradients: bool | None) -> str:
    worst = errors.worst(gradients=gradients) if errors else None
    return f"{worst[1]:.1e}" if worst else "-"


def speed_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Times and ratios: one table in detail for two peers, and two tables of minimums for more."""
    names = peers_of(rows)
    return (speed_table(rows),) if len(names) == 2 else (times_table(rows), ratios_table(rows))


def speed_table(rows: Sequence[Row]) -> Table:
    """Minimum and median times of every peer, operations a second, and the ratios to fused_rnn."""
    *against, _ = names = peers_of(rows)
    columns = ["problem"]
    for name in names:
        columns += [f"{name} min ms", "median", "GFLOP/s"]
    cells = []
    for row in rows:
        line = [str(row.problem)]
        for name in names:
            timing = row.timings.get(name)
            times = (
                (milliseconds(timing.minimum), milliseconds(timing.median), f"{row.gflops(name):.1f}")
                if timing
                else ("-",) * 3
            )
            line += times
        ratios = (row.ratio(name, median=median) for name in against for median in (False, True))
        cells.append((*line, *(ratio_cell(ratio, row.noise) for ratio in ratios)))
    return Table(
        f"Speed, {_threads(rows)}",
        (*columns, *("ratio min", "median") * len(against)),
        cells,
        bad=_untimed(rows),
        note=f"ratio: {_full_name(against[0])}'s time over fused_rnn's. Training is forward and backward."
        + _noise_note(rows),
    )


def times_table(rows: Sequence[Row]) -> Table:
    """Minimum times, a column for each peer."""
    names = peers_of(rows)
    cells = [
        (str(row.problem), *(milliseconds(row.timings[n].minimum) if n in row.timings else "-" for n in names))
        for row in rows
    ]
    note = (
        "-: not run, refused, or not timed because it is inaccurate; JSON says why. Training is forward and backward."
    )
    return Table(f"Speed: minimum ms, {_threads(rows)}", ("problem", *names), cells, bad=_untimed(rows), note=note)


def ratios_table(rows: Sequence[Row]) -> Table:
    """The ratios by minimums, a column for each other peer."""
    *against, _ = peers_of(rows)
    cells = [(str(row.problem), *(ratio_cell(row.ratio(name), row.noise) for name in against)) for row in rows]
    note = "ratio: each one's time over fused_rnn's." + _noise_note(rows)
    return Table("Ratios of minimums", ("problem", *against), cells, note=note)


def _threads(rows: Sequence[Row]) -> str:
    threads = ", ".join(sorted({str(row.threads) for row in rows}))
    return f"{threads} thread{'' if threads == '1' else 's'}"


def _untimed(rows: Sequence[Row]) -> frozenset[int]:
    return frozenset(index for index, row in enumerate(rows) if not row.timings)


def _full_name(peer: str) -> str:
    return "torch.nn" if peer == BASELINE else peer


def _noise_note(rows: Sequence[Row]) -> str:
    return f" {MARK}: noisy, left out of the means." * any(row.noise for row in rows)


def features_table(rows: Sequence[FeatureRow]) -> Table:
    """What each feature costs or gains beside the other run, and whether its bar is met."""
    cells = []
    for found in rows:
        feature, timings = found.feature, [found.row.timings.get(name) for name in (SUBJECT, BASELINE)]
        times = [f"{milliseconds(t.minimum)} / {milliseconds(t.median)}" if t else "-" for t in timings]
        ratios = " / ".join(ratio_cell(ratio, found.row.noise) for ratio in (found.ratio_minimum, found.ratio_median))
        line = (feature.name, str(feature.problem), feature.other.name, *times, ratios)
        cells.append((*line, str(feature.bar), found.verdict))
    return Table(
        f"Features: minimum / median, {_threads([found.row for found in rows])}",
        ("feature", "problem", "against", "ours ms", "other ms", "ratio", "bar", "verdict"),
        cells,
        left=3,
        bad=frozenset(index for index, found in enumerate(rows) if found.verdict in BAD_VERDICTS),
        note="ratio: the other's time over ours; the bar is the least ratio of minimums, below 1 where a feature may "
        f"cost time. torch: torch.nn; plain: our layer without it.{_noise_note([found.row for found in rows])}",
    )


def feature_lines(rows: Sequence[FeatureRow]) -> list[str]:
    """What went wrong, one line each."""
    lines = []
    for found in rows:
        lines += [f"FAILED {found.feature}: {failure}" for failure in found.row.failures]
        lines += [f"note {found.feature}: {note}" for note in found.row.notes]
        if found.met is False and found.ratio_minimum is not None:
            lines.append(f"MISSED {found.feature}: {found.ratio_minimum:.2f}x, {found.feature.bar}")
    met = [found.met for found in rows]
    lines.append(f"bars: {met.count(True)} met, {met.count(False)} missed")
    return lines + noise_lines({str(found.feature): found.row.noise for found in rows})


def run_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Everything about a run."""
    return parity_table(rows), *speed_tables(rows), means_table(geometric_means(rows))


def means_table(means: Sequence[Mean]) -> Table:
    """The geometric means of the regimes; of several peers the minimums, a column for each."""
    peers = list(dict.fromkeys(mean.peer for mean in means))
    title = "Geometric means of the ratios"
    if len(peers) < 2:
        cells = [(m.regime, str(m.problems), ratio_cell(m.ratio_minimum), ratio_cell(m.ratio_median)) for m in means]
        return Table(title, ("regime", "problems", "of minimums", "of medians"), cells)
    found = {(mean.regime, mean.peer): f"{ratio_cell(mean.ratio_minimum)} ({mean.problems})" for mean in means}
    regimes = dict.fromkeys(mean.regime for mean in sorted(means, key=lambda mean: (mean.regime == "all", mean.regime)))
    lines = [(regime, *(found.get((regime, peer), "-") for peer in peers)) for regime in regimes]
    return Table(f"{title} of minimums (and of how many)", ("regime", *peers), lines)


def workload_table(outcome: Outcome) -> Table:
    """Speed and final losses of each implementation."""
    cells = []
    for name, curve in outcome.curves.items():
        last = curve.losses[-max(1, len(curve.losses) // 20) :]
        cells.append(
            (
                name,
                str(len(curve.losses)),
                f"{outcome.tokens_per_second(name):,.0f}",
                f"{curve.losses[0]:.4f}",
                f"{fmean(last):.4f}",
                f"{curve.validation[-1][1]:.4f}",
            )
        )
    ratio = f" fused_rnn trains on {outcome.ratio:.2f} times as many characters a second." if outcome.ratio else ""
    return Table(
        f"char_lm: {outcome.title}",
        ("implementation", "steps", "characters/s", "first loss", "last losses", "validation loss"),
        cells,
        note=f"Losses are in bits per character; last losses: mean of the last twentieth of the steps.{ratio}",
    )


def curve_table(outcome: Outcome) -> Table:
    """Both curves at the steps where the models were validated: training loss since the last one, validation loss."""
    names = list(outcome.curves)
    marks = [step for step, _ in outcome.curves[names[0]].validation]
    cells = []
    for index in _spread(len(marks), _CURVE_ROWS):
        since, step = marks[index - 1] if index else 0, marks[index]
        training = [f"{fmean(outcome.curves[name].losses[since:step]):.4f}" for name in names]
        validation = [f"{outcome.curves[name].validation[index][1]:.4f}" for name in names]
        cells.append((str(step), *training, *validation))
    columns = ("steps", *(f"training: {name}" for name in names), *(f"validation: {name}" for name in names))
    note = "Training: mean of the steps since the validation before."
    return Table("Loss in bits per character", columns, cells, left=0, note=note)


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread, with the last one."""
    if count <= most:
        return list(range(count))
    return [round((index + 1) * count / most) - 1 for index in range(most)]


def problem_lines(rows: Sequence[Row]) -> list[str]:
    """What went wrong, one line each."""
    lines = []
    for row in rows:
        lines += [f"FAILED {row.problem}: {failure}" for failure in row.failures]
        lines += [f"note {row.problem}: {note}" for note in row.notes]
    return lines + noise_lines({str(row.problem): row.noise for row in rows})


def run_json(environment: Environment, rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """Everything about a run."""
    return {
        "environment": environment,
        "peers": {name: PEERS[name].describe() for name in peers_of(rows)},
        "seconds_per_problem": seconds,
        "problems": [row.to_json() for row in rows],
        "geometric_means": [mean.to_json() for mean in geometric_means(rows)],
    }


def features_json(environment: Environment, rows: Sequence[FeatureRow], seconds: float) -> dict[str, Any]:
    """Everything about a run of the features."""
    return {
        "environment": environment,
        "seconds_per_feature": seconds,
        "features": [row.to_json() for row in rows],
    }


def memory_table(rows: Sequence[MemoryRow], peers: Sequence[str]) -> Table:
    """Bytes per step, row and unit, and in all, a column for each peer."""

    def cell(row: MemoryRow, peer: str) -> str:
        per_unit = row.per_unit(peer)
        return "-" if per_unit is None else f"{per_unit:.1f} ({row.bytes[peer] / 2**20:.0f} MiB)"

    return Table(
        "Memory: growth of the peak in a pass, bytes per step, row and unit",
        ("problem", *peers),
        [(str(row.problem), *(cell(row, peer) for peer in peers)) for row in rows],
        bad=frozenset(index for index, row in enumerate(rows) if SUBJECT not in row.bytes),
    )


def memory_json(environment: Environment, rows: Sequence[MemoryRow]) -> dict[str, Any]:
    """Everything about a measurement of memory."""
    return {"environment": environment, "memory": [row.to_json() for row in rows]}


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Readable JSON."""
    path.write_text(as_text(data), encoding="utf-8")


def as_text(data: Mapping[str, Any]) -> str:
    """Readable JSON."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def draw_ratios(rows: Sequence[Row], path: Path, environment: Environment) -> None:
    """The chart of a run, against the first of its peers."""
    subtitle = f"{environment['processor']}, threads: {environment['threads']}, torch {environment['torch']}"
    first = peers_of(rows)[0]
    bars = [Bar(row.problem, ratio, noisy=bool(row.noise)) for row in rows if (ratio := row.ratio(first)) is not None]
    ratio_chart(bars, path, subtitle, _full_name(first))


def write_report(
    folder: Path,
    environment: Environment,
    rows: Sequence[Row] = (),
    seconds: float = 0.0,
    outcome: Outcome | None = None,
    features: Sequence[FeatureRow] = (),
    feature_seconds: float = 0.0,
) -> Path:
    """Write report.md with its tables, and the JSON and charts of what was run, into an existing folder."""
    against = _full_name(peers_of(rows)[0])
    parts = [f"# fused_rnn against {against}", environment_table(environment).to_markdown()]
    if rows:
        write_json(folder / "results.json", run_json(environment, rows, seconds))
        draw_ratios(rows, folder / "speed.png", environment)
        for table in run_tables(rows):
            parts += [f"## {table.title}", table.to_markdown()]
        parts += [f"- {line}" for line in problem_lines(rows)]
        parts += [f"![How many times faster than {against}](speed.png)", "All figures: [results.json](results.json)"]
    if features:
        write_json(folder / "features.json", features_json(environment, features, feature_seconds))
        parts += ["## What torch.nn's kernels refuse", features_table(features).to_markdown()]
        parts += [f"- {line}" for line in feature_lines(features)]
        parts += ["All figures: [features.json](features.json)"]
    if outcome:
        write_json(folder / "char_lm.json", {"environment": environment, **outcome.to_json()})
        loss_chart(outcome.curves, folder / "char_lm.png", outcome.title)
        table = workload_table(outcome)
        parts += ["## Workload: a character language model", outcome.title + ".", table.to_markdown()]
        parts += [curve_table(outcome).to_markdown()]
        parts += [outcome.verdict.line + "."] if outcome.verdict else []
        parts += ["![Loss curves](char_lm.png)", "All figures: [char_lm.json](char_lm.json)"]
        for name, text in outcome.texts.items():
            if text:
                opening = f"Written by the {name} model after {len(outcome.curves[name].losses)} steps (temperature "
                parts += [f"{opening}{outcome.sampling.temperature:g}):", _fenced(outcome.sampling.prompt + text)]
    path = folder / "report.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _fenced(text: str) -> str:
    """A block of code whose fence is longer than any in the text."""
    fence = "~~~"
    while fence in text:
        fence += "~"
    return f"{fence}text\n{text}\n{fence}"
