"""The workloads of the command line: real models trained with torch.nn and with fused_rnn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from . import report
from .console import make_console, print_tables, progress
from .environment import describe
from .options import RATE, Number, epilog, report_option, threads_option
from .runner import thread_count
from .workloads import char_lm, corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


@click.group("workload")
def workload_group() -> None:
    """Train a real model with torch.nn and with fused_rnn."""


_defaults = char_lm.Settings()
_default_sampling = char_lm.Sampling()


@workload_group.command(
    "char_lm", epilog=epilog("workload char_lm", "workload char_lm --cell gru --hidden 512 --seconds 120")
)
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
        outcome = run_char_lm(console, names, text, char_lm.Settings(**settings), sampling)
    if folder and outcome:
        click.echo(f"report: {report.write_report(folder, environment, outcome=outcome)}")
    return 0 if agree(outcome) else 1


def agree(outcome: char_lm.Outcome | None) -> bool:
    """Whether the workload trained, and alike where two implementations did."""
    return outcome is not None and (outcome.verdict is None or outcome.verdict.agree)


def run_char_lm(
    console: Console,
    names: Sequence[str],
    text: Path | None,
    settings: char_lm.Settings,
    sampling: char_lm.Sampling,
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
