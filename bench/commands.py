"""The command line: run, features, memory, busy, step, realtime, compare, heatmap, explain, workload and all.

Exit codes: 0 when all is well, 1 when a verification failed, 2 for a usage error, which is one line on stderr. A missed
bar and a noisy row are shown, but the code stays 0: other work of the machine makes them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
import torch

import fused_rnn

from . import busy, memory, realtime, report, steps
from .case import rounding
from .console import make_console, measure_each, print_lines, print_tables
from .environment import describe
from .features import FEATURE_NAMES, FEATURES, FeatureRow, run_feature
from .noise import noise_lines
from .options import (
    PROGRAM,
    Number,
    OneLineErrors,
    against_option,
    chart_option,
    epilog,
    report_option,
    seconds_option,
    threads_option,
)
from .output import Output, output_options
from .peers import SUBJECT, chosen
from .problem_options import PROBLEM_HELP, problem_options
from .problems import SUITE_NAMES, Problem, suite
from .runner import Row, run_problem, thread_count
from .saved_commands import compare_command, heatmap_command
from .workload_commands import agree, run_char_lm, workload_group
from .workloads import char_lm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

_COMPLETION = "_FUSED_RNN_BENCH_COMPLETE"
_ABOUT = f"""`{PROGRAM} COMMAND --help` has examples of each. In a checkout, `python -m bench` is the same.

\b
Shell completion, by a line in ~/.bashrc, ~/.zshrc or fish's config.fish:
  eval "$({_COMPLETION}=bash_source {PROGRAM})"
  eval "$({_COMPLETION}=zsh_source {PROGRAM})"
  {_COMPLETION}=fish_source {PROGRAM} | source
"""


@click.group(
    cls=OneLineErrors,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog("all", "run", "run --cell gru --batch 1,16 --hidden 64,256 --output markdown", text=_ABOUT),
)
@click.version_option(fused_rnn.__version__, package_name="fused_rnn", message="%(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Compare fused_rnn with torch.nn: accuracy and speed on named problems, and real workloads."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return
    try:
        fused_rnn.build_info()
    except ValueError as error:  # FUSED_RNN_CPU_ISA is none of this machine's
        raise click.ClickException(f"{error}.") from None


for command in (compare_command, heatmap_command, workload_group):
    cli.add_command(command)


def _show_run(console: Console, rows: Sequence[Row]) -> None:
    print_tables(console, *report.run_tables(rows))
    print_lines(console, report.problem_lines(rows))


def _show_features(console: Console, rows: Sequence[FeatureRow]) -> None:
    print_tables(console, report.features_table(rows))
    print_lines(console, report.feature_lines(rows))


_RUN_EXAMPLES = (
    "run",
    "run lstm:t100,b16,i128,h128,f32,train --threads 1",
    "run --cell lstm,gru --batch 1,16 --hidden 64,256 --mode infer --chart speed.png",
    "run --suite lstm --json new.json",
    "run --cell lstm --mode infer --against torch,onnxruntime,openvino --output csv",
)


@cli.command("run", epilog=epilog(*_RUN_EXAMPLES, text=PROBLEM_HELP))
@problem_options()
@click.option(
    "--suite", "suite_name", type=click.Choice(SUITE_NAMES), help="Named problems (default without PROBLEMS: quick)."
)
@against_option
@threads_option
@seconds_option(2.0)
@output_options
@chart_option
@report_option(None)
def run_command(
    problems: tuple[Problem, ...],
    suite_name: str | None,
    against: tuple[str, ...],
    threads: int | None,
    seconds: float,
    output: Output,
    chart_path: Path | None,
    folder: Path | None,
) -> int:
    """Verify PROBLEMS against float64, then time fused_rnn and torch.nn, or other peers, in turns.

    A row that other work of the machine disturbed is marked as noisy and left out of the means.
    """
    if chart_path and output.json_path and chart_path.resolve() == output.json_path.resolve():
        raise click.UsageError(f"--json and --chart name the same file, {str(chart_path)!r}.")
    if suite_name or not problems:
        problems += suite(suite_name or "quick")
    with thread_count(threads):
        environment = describe()
        output.begin(environment)
        run = partial(run_problem, peers=chosen(against))
        rows = measure_each(tuple(dict.fromkeys(problems)), run, seconds)
    data = report.run_json(environment, rows, seconds)
    output.finish(report.run_tables(rows), report.problem_lines(rows), data)
    if chart_path:
        report.draw_ratios(rows, chart_path, environment)
    if folder:
        output.say(f"report: {report.write_report(folder, environment, rows, seconds)}")
    return 0 if all(row.verified for row in rows) else 1


_FEATURE_EXAMPLES = ("features", "features packed resets --seconds 5", "features --output json")


@cli.command("features", epilog=epilog(*_FEATURE_EXAMPLES, text=f"NAMES are among {', '.join(FEATURE_NAMES)}."))
@click.argument("names", nargs=-1, type=click.Choice(FEATURE_NAMES), metavar="[NAMES]...")
@threads_option
@seconds_option(2.0, what="row")
@output_options
@report_option(None)
def features_command(
    names: tuple[str, ...], threads: int | None, seconds: float, output: Output, folder: Path | None
) -> int:
    """Verify and time what torch.nn's kernels refuse (all, or NAMES), each against a bar."""
    with thread_count(threads):
        environment = describe()
        output.begin(environment)
        chosen = [feature for feature in FEATURES if not names or feature.name in names]
        rows = measure_each(chosen, run_feature, seconds)
    data = report.features_json(environment, rows, seconds)
    output.finish([report.features_table(rows)], report.feature_lines(rows), data)
    if folder:
        written = report.write_report(folder, environment, features=rows, feature_seconds=seconds)
        output.say(f"report: {written}")
    return 0 if all(found.row.verified for found in rows) else 1


_MEMORY_EXAMPLES = ("memory", "memory --cell lstm --time-steps 500,2000 --against torch,loop")


@cli.command("memory", epilog=epilog(*_MEMORY_EXAMPLES, text=PROBLEM_HELP))
@problem_options()
@against_option
@threads_option
@output_options
def memory_command(problems: tuple[Problem, ...], against: tuple[str, ...], threads: int | None, output: Output) -> int:
    """Peak memory of one pass over PROBLEMS (default: training of each cell), each in a process of its own."""
    names = [*against, SUBJECT]
    with thread_count(threads) as count:
        environment = describe()
        output.begin(environment)
        rows = [memory.measure(problem, names, count) for problem in problems or memory.PROBLEMS]
    lines = [f"note {row.problem}: {name}: {why}" for row in rows for name, why in row.notes.items()]
    output.finish([report.memory_table(rows, names)], lines, report.memory_json(environment, rows))
    return 0 if all(SUBJECT in row.bytes for row in rows) else 1


def _failure_lines(
    rows: Sequence[busy.BusyRow] | Sequence[steps.StepRow] | Sequence[realtime.RealtimeRow],
) -> list[str]:
    return [f"FAILED {row.problem}: {why}" for row in rows for why in row.failures]


_BUSY_EXAMPLES = ("busy", "busy --hidden 64,256 --batch 4 --mode infer --neighbours 0 --neighbours 2")


@cli.command("busy", epilog=epilog(*_BUSY_EXAMPLES, text=PROBLEM_HELP))
@problem_options()
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
@output_options
def busy_command(
    problems: tuple[Problem, ...],
    neighbours: tuple[int, ...],
    threads: int | None,
    seconds: float,
    output: Output,
) -> int:
    """Time PROBLEMS (default: LSTMs of four sizes) beside busy processes, which it starts and ends."""
    with thread_count(threads):
        environment = describe()
        output.begin(environment)
        situations = [(problem, count) for problem in problems or busy.PROBLEMS for count in neighbours]
        rows = measure_each(situations, lambda situation, budget: busy.measure(*situation, budget), seconds)
    output.finish([busy.table(rows)], _failure_lines(rows), busy.as_json(environment, rows, seconds))
    return 1 if any(row.failures for row in rows) else 0


_STEP_EXAMPLES = ("step", "step --cell lstm,gru --hidden 32,256 --batch 1 --threads 1")


@cli.command("step", epilog=epilog(*_STEP_EXAMPLES, text=PROBLEM_HELP))
@problem_options("infer")
@threads_option
@seconds_option(1.0)
@output_options
def step_command(problems: tuple[Problem, ...], threads: int | None, seconds: float, output: Output) -> int:
    """Time single steps and blocks of PROBLEMS (default: LSTMs and GRUs of six sizes), T of them at a time."""
    for problem in problems:
        if why := steps.refuses(problem):
            raise click.UsageError(f"{problem}: {why}.")
    with thread_count(threads):
        environment = describe()
        output.begin(environment)
        rows = measure_each(problems or steps.PROBLEMS, steps.measure_steps, seconds)
    lines = _failure_lines(rows) + noise_lines({str(row.problem): row.noise for row in rows})
    output.finish([steps.table(rows)], lines, steps.as_json(environment, rows, seconds))
    return 1 if any(row.failures for row in rows) else 0


_REALTIME_EXAMPLES = ("realtime", "realtime --cell lstm,gru --input 1 --hidden 8,64 --batch 1 --against torch")


@cli.command("realtime", epilog=epilog(*_REALTIME_EXAMPLES, text=PROBLEM_HELP))
@problem_options("infer")
@click.option(
    "--program",
    type=click.Path(dir_okay=False, path_type=Path),
    default=realtime.PROGRAM,
    show_default=True,
    help="What CMake builds of examples/realtime/step_times.cpp.",
)
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(list(realtime.PEERS)),
    help="Also torch's C++, or ONNX Runtime's C API, of a release that ONNXRUNTIME_DIR names; may be repeated.",
)
@seconds_option(1.0)
@output_options
def realtime_command(
    problems: tuple[Problem, ...], program: Path, against: tuple[str, ...], seconds: float, output: Output
) -> int:
    """Time steps and blocks of PROBLEMS by the C library and by Stepper, which must have the same bits.

    Where RTNEURAL_DIR names a checkout of RTNeural, LSTMs and GRUs of one row are also timed by its compile-time model.
    """
    if not program.is_file():
        raise click.UsageError(f"--program {program} is no file: CMake builds it (docs/guides/realtime.md).")
    for problem in problems:
        if why := steps.refuses(problem):
            raise click.UsageError(f"{problem}: {why}.")
    with thread_count(1), TemporaryDirectory() as folder:
        peers = [realtime.compiled_peer(name, Path(folder)) for name in dict.fromkeys(against)]
        environment = describe()
        output.begin(environment)
        run = partial(_measure_realtime, program, peers)
        rows = measure_each(problems or realtime.PROBLEMS, run, seconds)
    lines = _failure_lines(rows) + noise_lines({str(row.problem): row.noise for row in rows})
    output.finish([realtime.table(rows)], lines, realtime.as_json(environment, rows, seconds))
    return 1 if any(row.failures for row in rows) else 0


def _measure_realtime(
    program: Path, peers: Sequence[realtime.Peer], problem: Problem, seconds: float
) -> realtime.RealtimeRow:
    return realtime.measure_realtime(problem, program, seconds, peers)


_EXPLAIN_EXAMPLES = ("explain lstm:t100,b16,i128,h128,f32,train", "explain --cell gru --batch 1 --mode infer")


@cli.command("explain", epilog=epilog(*_EXPLAIN_EXAMPLES, text=PROBLEM_HELP))
@problem_options(timed=False)
@threads_option
def explain_command(problems: tuple[Problem, ...], threads: int | None) -> None:
    """Say how fused_rnn would run each PROBLEM, and why."""
    if not problems:
        raise click.UsageError("Missing argument 'PROBLEM', or a long option such as --cell.")
    for problem in problems:
        if problem.factors == torch.int8:
            raise click.UsageError(f"{problem}: layers with int8 weights run in one way.")
        with thread_count(threads), torch.set_grad_enabled(problem.training), rounding(problem.factors):
            layer = problem.make_layer(fused_rnn)
            click.echo(str(fused_rnn.explain(layer, torch.zeros(problem.input_shape, dtype=problem.dtype))))


@cli.command("all", epilog=epilog("all", "all --report out --seconds 5 --threads 1"))
@report_option("bench-report")
@threads_option
@seconds_option(2.0)
@seconds_option(0.5, "--feature-seconds", "row of the features")
@click.option(
    "--workload-seconds",
    type=Number(0, min_open=True),
    default=char_lm.Settings().seconds,
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
        outcome = run_char_lm(console, list(char_lm.IMPLEMENTATIONS), None, settings, char_lm.Sampling())
    path = report.write_report(folder, environment, rows, seconds, outcome, features, feature_seconds)
    verified = all(row.verified for row in (*rows, *(found.row for found in features))) and agree(outcome)
    click.echo()
    if not verified:
        click.echo("verification FAILED: see above")
    click.echo(f"report: {path}")
    return 0 if verified else 1
