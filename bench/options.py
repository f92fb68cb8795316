"""What the commands share of the command line: errors of one line, examples, types of arguments, common options."""

from __future__ import annotations

import os
import sys
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .peers import BASELINE, PEERS, RIVALS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "fused-rnn-bench"
PICTURES = (".png", ".svg", ".pdf")


class OneLineErrors(click.Group):
    """A group whose errors are one line on stderr with exit code 2; a command returns its exit code, None for 0."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
            sys.exit(2)
        except click.Abort:
            click.echo("stopped", err=True)
            sys.exit(130)
        sys.exit(code or 0)


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a usage error."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def _as_peers(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    """The peers that a list names, each once, or a usage error for one that is unknown or cannot be imported."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in RIVALS:
            raise click.BadParameter(f"unknown peer {name!r}: use {', '.join(RIVALS)}.")
        if missing := PEERS[name].missing():
            raise click.BadParameter(f"{name} needs {', '.join(missing)}: pip install 'fused_rnn[peers]'.")
    return names


def _new_file(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Check before a long run that its result can be written."""
    if path is not None:
        _make_folder(path.resolve().parent)
    return path


def new_picture(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """The same for a picture, whose name says the format."""
    if path is not None and path.suffix not in PICTURES:
        raise click.BadParameter(f"the name of a picture ends with {', '.join(PICTURES)}, got {path.name!r}.")
    return _new_file(context, parameter, path)


def _new_folder(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        _make_folder(path)
    return path


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"cannot make the folder {str(path)!r}: {error.strerror}.") from None
    if not os.access(path, os.W_OK):
        raise click.BadParameter(f"cannot write into the folder {str(path)!r}.")


def epilog(*examples: str, text: str = "") -> str:
    """The end of a command's help: examples as they are typed, and what else there is to say."""
    lines = "\n".join(f"  {PROGRAM} {example}" for example in examples)
    return f"\b\nExamples:\n{lines}\n\n{text}"


RATE = Number(0, 1e30, min_open=True)  # a step must fit float32
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
against_option = click.option(
    "--against",
    default=BASELINE,
    show_default=True,
    callback=_as_peers,
    metavar="PEERS",
    help=f"Comma-separated peers: {', '.join(RIVALS)}.",
)
threads_option = click.option("--threads", type=click.IntRange(1, 1024), help="Threads of torch (default: its own).")


chart_option = click.option(
    "--chart",
    "chart_path",
    type=FILE,
    callback=new_picture,
    help=f"Draw the ratios into this file ({', '.join(PICTURES)}).",
)


def new_file_option(name: str, variable: str, text: str) -> Callable[[Any], Any]:
    """An option for a file to write, whose folder is made."""
    return click.option(name, variable, type=FILE, callback=_new_file, help=text)


def report_option(default: str | None) -> Callable[[Any], Any]:
    """--report: the folder of the report, which is made."""
    text = "Folder for report.md, JSON and charts."
    return click.option(
        "--report", "folder", type=_FOLDER, default=default, show_default=bool(default), callback=_new_folder, help=text
    )


def seconds_option(default: float, name: str = "--seconds", what: str = "problem") -> Callable[[Any], Any]:
    """How long each problem is timed."""
    text = f"Timing budget of each {what}."
    return click.option(name, type=Number(0, min_open=True), default=default, show_default=True, help=text)
