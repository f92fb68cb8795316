"""The command line: run, features, memory, busy, step, explain, workload and all.

Exit codes: 0 when all is well, 1 when a verification failed, 2 for a usage error, which is one line on stderr. A missed
bar is shown, but the code stays 0: what else the machine does can make one missed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from rich.text import Text

import fused_rnn

from . import busy, memory, report, steps
from .case import rounding
from .console import make_console, measure_each, print_lines, print_tables, progress
from .environment import describe
from .features import FEATURE_NAMES, FEATURES, FeatureRow, run_feature
from .options import (
    PROBLEM_HELP,
    RATE,
    Number,
    OneLineErrors,
    against_option,
    as_problem,
    as_problems,
    json_option,
    new_file_option,
    report_option,
    seconds_option,
    threads_option,
)
from .peers import SUBJECT, chosen
from .problems import SUITE_NAMES, Problem, suite
from .runner import Row, run_problem, thread_count
from .workloads import char_lm, corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


@click.group(cls=OneLineErrors, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fused_rnn.__version__, package_name="fused_rnn", message="%(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Compare fused_rnn with torch.nn: accuracy and speed on named problems, and real workloads."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _show_run(console: Console, rows: Sequence[Row]) -> None:
    print_tables(console, *report.run_tables(rows))
    print_lines(console, report.problem_lines(rows))


def _show_features(console: Console, rows: Sequence[FeatureRow]) -> None:
    print_tables(console, report.features_table(rows))
    print_lines(console, report.feature_lines(rows))


@cli.command("run", epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, callback=as_problems)
@click.option(
    "--suite", "suite_name", type=click.Choice(SUITE_NAMES), help="Named problems (default without PROBLEMS: quick)."
)
@against_option
@threads_option
@seconds_option(2.0)
@json_option
@new_file_option("--chart", "chart_path", "Write a chart of the ratios (PNG).")
@report_option(None)
def run_command(
    problems: tuple[Problem, ...],
    suite_name: str | None,
    against: tuple[str, ...],
    threads: int | None,
    seconds: float,
    json_path: Path | None,
    chart_path: Path | None,
    folder: Path | None,
) -> int:
    """Verify PROBLEMS against float64, then time fused_rnn and torch.nn, or other peers, in turns."""
    if suite_name or not problems:
        problems += suite(suite_name or "quick")
    console = make_console()
    with thread_count(threads):
        environment = describe()
        print_tables(console, report.environment_table(environment))
        run = partial(run_problem, peers=chosen(against))
        rows = measure_each(tuple(dict.fromkeys(problems)), run, seconds)
    _show_run(console, rows)
    if json_path:
        report.write_json(json_path, report.run_json(environment, rows, seconds))
    if chart_path:
        report.draw_ratios(rows, chart_path, environment)
    if folder:
        _say_where(report.write_report(folder, environment, rows, seconds))
    return 0 if all(row.verified for row in rows) else 1


@cli.command("features", epilog=f"NAMES are among {', '.join(FEATURE_NAMES)}.")
@click.argument("names", nargs=-1, type=click.Choice(FEATURE_NAMES), metavar="[NAMES]...")
@threads_option
@seconds_option(2.0, what="row")
@json_option
@report_option(None)
def features_command(
    names: tuple[str, ...], threads: int | None, seconds: float, json_path: Path | None, folder: Path | None
) -> int:
    """Verify and time what torch.nn's kernels refuse (all, or NAMES), each against a bar."""
    console = make_console()
    with thread_count(threads):
        environment = describe()
        print_tables(console, report.environment_table(environment))
        chosen = [feature for feature in FEATURES if not names or feature.name in names]
        rows = measure_each(chosen, run_feature, seconds)
    _show_features(console, rows)
    if json_path:
        report.write_json(json_path, report.features_json(environment, rows, seconds))
    if folder:
        _say_where(report.write_report(folder, environment, features=rows, feature_seconds=seconds))
    return 0 if all(found.row.verified for found in rows) else 1


@cli.command("memory", epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, callback=as_problems)
@against_option
@threads_option
@json_option
def memory_command(
    problems: tuple[Problem, ...], against: tuple[str, ...], threads: int | None, json_path: Path | None
) -> int:
    """Peak memory of one pass over PROBLEMS (default: training of each cell), each in a process of its own."""
    console = make_console()
    names = [*against, SUBJECT]
    with thread_count(threads) as count:
        environment = describe()
        print_tables(console, report.environment_table(environment))
        chosen_problems = dict.fromkeys(problems or memory.PROBLEMS)
        rows = [memory.measure(problem, names, count) for problem in chosen_problems]
    print_tables(console, report.memory_table(rows, names))
    print_lines(console, [f"note {row.problem}: {name}: {why}" for row in rows for name, why in row.notes.items()])
    if json_path:
        report.write_json(json_path, report.memory_json(environment, rows))
    return 0 if all(SUBJECT in row.bytes for row in rows) else 1


def _failure_lines(rows: Sequence[busy.BusyRow] | Sequence[steps.StepRow]) -> list[str]:
    return [f"FAILED {row.problem}: {why}" for row in rows for why in row.failures]


@cli.command("busy", epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, callback=as_problems)
@click.option(
    "--neighbours",
    type=click.IntRange(0, 1024),
    multiple=True,
    default=busy.NEIGHBOURS,
    show_default=True,
    help="Busy processes beside the calls; may be repeated.",
)
@threads_option
@seconds_option(1.0, what="contender on a problem")
@json_option
def busy_command(
    problems: tuple[Problem, ...],
    neighbours: tuple[int, ...],
    threads: int | None,
    seconds: float,
    json_path: Path | None,
) -> int:
    """Time PROBLEMS (default: LSTMs of four sizes) beside busy processes, which it starts and ends."""
    console = make_console()
    with thread_count(threads):
        environment = describe()
        print_tables(console, report.environment_table(environment))
        situations = [(p, count) for p in dict.fromkeys(problems or busy.PROBLEMS) for count in neighbours]
        rows = measure_each(situations, lambda situation, budget: busy.measure(*situation, budget), seconds)
    print_tables(console, busy.table(rows))
    print_lines(console, _failure_lines(rows))
    if json_path:
        report.write_json(json_path, busy.as_json(environment, rows, seconds))
    return 1 if any(row.failures for row in rows) else 0


@cli.command("step", epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, callback=as_problems)
@threads_option
@seconds_option(1.0)
@json_option
def step_command(problems: tuple[Problem, ...], threads: int | None, seconds: float, json_path: Path | None) -> int:
    """Time single steps and blocks of PROBLEMS (default: LSTMs and GRUs of six sizes), T of them at a time."""
    for problem in problems:
        if why := steps.refuses(problem):
            raise click.UsageError(f"{problem}: {why}.")
    console = make_console()
    with thread_count(threads):
        environment = describe()
        print_tables(console, report.environment_table(environment))
        rows = measure_each(tuple(dict.fromkeys(problems or steps.PROBLEMS)), steps.measure_steps, seconds)
    print_tables(console, steps.table(rows))
    print_lines(console, _failure_lines(rows))
    if json_path:
        report.write_json(json_path, steps.as_json(environment, rows, seconds))
    return 1 if any(row.failures for row in rows) else 0


def _say_where(path: Path) -> None:
    click.echo(f"report: {path}")


@cli.command("explain", epilog=PROBLEM_HELP)
@click.argument("problem", callback=as_problem)
@threads_option
def explain_command(problem: Problem, threads: int | None) -> None:
    """Say how fused_rnn would run PROBLEM, and why."""
    if problem.factors == torch.int8:
        raise click.UsageError(f"{problem}: layers with int8 weights run in one way.")
    with thread_count(threads), torch.set_grad_enabled(problem.training), rounding(problem.factors):
        layer = problem.make_layer(fused_rnn)
        click.echo(str(fused_rnn.explain(layer, torch.zeros(problem.input_shape, dtype=problem.dtype))))


@cli.group("workload")
def workload_group() -> None:
    """Train a real model with torch.nn and with fused_rnn."""


_defaults = char_lm.Settings()
_default_sampling = char_lm.Sampling()


@workload_group.command("char_lm")
@click.option("--cell", type=click.Choice(list(char_lm.CELLS)), default=_defaults.cell, show_default=True)
@click.option("--impl", type=click.Choice([*char_lm.IMPLEMENTATIONS, "both"]), default="both", show_default=True)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text (default: CPython's documentation).",
)
@click.option(
    "--hidden",
    "hidden_size",
    type=click.IntRange(1),
    default=_defaults.hidden_size,
    show_default=True,
    help="Hidden size.",
)
@click.option("--batch", type=click.IntRange(1), default=_defaults.batch, show_default=True, help="Streams of text.")
@click.option(
    "--seq-len", type=click.IntRange(1), default=_defaults.seq_len, show_default=True, help="Characters of a step."
)
@click.option("--steps", type=click.IntRange(1), help="Train for so many steps instead of a time.")
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    help=f"Training time of all implementations together (default {_defaults.seconds:g}).",
)
@click.option(
    "--learning-rate",
    type=RATE,
    default=_defaults.learning_rate,
    show_default=True,
    help="Peak rate.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=_defaults.seed, show_default=True)
@click.option("--prompt", default=_default_sampling.prompt, show_default=True, help="What the text begins with.")
@click.option(
    "--temperature",
    type=Number(0),
    default=_default_sampling.temperature,
    show_default=True,
    help="0: the likeliest character.",
)
@click.option(
    "--generate",
    "length",
    type=click.IntRange(0),
    default=_default_sampling.length,
    show_default=True,
    help="Characters to write.",
)
@threads_option
@report_option(None)
def char_lm_command(
    impl: str,
    text: Path | None,
    prompt: str,
    temperature: float,
    length: int,
    threads: int | None,
    folder: Path | None,
    **settings: Any,
) -> int:
    """Train a character language model, compare the loss curves (bits per character), and let it write."""
    if settings["steps"] and settings["seconds"]:
        raise click.UsageError("--steps and --seconds exclude each other.")
    settings["seconds"] = settings["seconds"] or _defaults.seconds
    sampling = char_lm.Sampling(prompt, temperature, length)
    console = make_console()
    with thread_count(threads):
        environment = describe()
        names = list(char_lm.IMPLEMENTATIONS) if impl == "both" else [impl]
        outcome = _run_char_lm(console, names, text, char_lm.Settings(**settings), sampling)
    if folder and outcome:
        _say_where(report.write_report(folder, environment, outcome=outcome))
    return 0 if _agree(outcome) else 1


def _agree(outcome: char_lm.Outcome | None) -> bool:
    """Whether the workload trained, and alike where two implementations did."""
    return outcome is not None and (outcome.verdict is None or outcome.verdict.agree)


def _run_char_lm(
    console: Console, names: Sequence[str], text: Path | None, settings: char_lm.Settings, sampling: char_lm.Sampling
) -> char_lm.Outcome | None:
    """Run the workload and show what it found; None when the training diverged."""
    try:
        workload = char_lm.Workload(names, corpus.load(text), settings, sampling)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    try:
        with progress(1.0) as show:
            outcome = workload.run(lambda done, step: show(done, f"char_lm, {step} steps"))
    except char_lm.DivergedError as error:
        click.echo(f"error: {error}", err=True)
        return None
    print_tables(console, report.workload_table(outcome), report.curve_table(outcome))
    if outcome.verdict:
        console.print(Text(outcome.verdict.line, style="" if outcome.verdict.agree else "bold red"), soft_wrap=True)
    for name, written in outcome.texts.items():
        if written:
            console.print(Text(f"\n--- written by the {name} model ---", style="bold"))
            console.print(Text(sampling.prompt + written), soft_wrap=True)
    return outcome


@cli.command("all")
@report_option("bench-report")
@threads_option
@seconds_option(2.0)
@seconds_option(0.5, "--feature-seconds", "row of the features")
@click.option(
    "--workload-seconds",
    type=Number(0, min_open=True),
    default=_defaults.seconds,
    show_default=True,
    help="Training time.",
)
def all_command(
    folder: Path, threads: int | None, seconds: float, feature_seconds: float, workload_seconds: float
) -> int:
    """Environment, parity, speed over the quick suite, the features and char_lm: one report, in about five minutes."""
    console = make_console()
    settings = char_lm.Settings(seconds=workload_seconds)
    with thread_count(threads):
        environment = describe()
        print_tables(console, report.environment_table(environment))
        rows = measure_each(suite("quick"), run_problem, seconds)
        _show_run(console, rows)
        features = measure_each(FEATURES, run_feature, feature_seconds)
        _show_features(console, features)
        outcome = _run_char_lm(console, list(char_lm.IMPLEMENTATIONS), None, settings, char_lm.Sampling())
    path = report.write_report(folder, environment, rows, seconds, outcome, features, feature_seconds)
    verified = all(row.verified for row in (*rows, *(found.row for found in features))) and _agree(outcome)
    click.echo()
    if not verified:
        click.echo("verification FAILED: see above")
    _say_where(path)
    return 0 if verified else 1
