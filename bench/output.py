"""Where a command's findings go: tables, JSON, CSV or Markdown to stdout, and JSON into a file."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .console import make_console, print_lines, print_tables
from .options import new_file_option
from .report import as_text, environment_table, write_json
from .table import to_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .environment import Environment
    from .table import Table

FORMATS = ("table", "json", "csv", "markdown")
_ROWS = ("problems", "features", "memory", "busy", "steps", "compared")  # the lists of rows in JSON, one a command


@dataclass(frozen=True)
class Output:
    """The format of stdout, and a file for JSON."""

    format: str = "table"
    json_path: Path | None = None

    def begin(self, environment: Environment) -> None:
        """Show the environment where the format is one for readers; JSON has it among the rest."""
        self._tables(environment_table(environment))

    def finish(self, tables: Sequence[Table], lines: Sequence[str], data: Mapping[str, Any]) -> None:
        """Show what was found. Beside JSON and CSV, the lines that say what went wrong go to stderr."""
        self._tables(*tables)
        self._lines(lines)
        if self.format == "json":
            click.echo(as_text(data), nl=False)
        if self.format == "csv":
            click.echo(to_csv(next(data[name] for name in _ROWS if name in data)), nl=False)
        if self.json_path:
            write_json(self.json_path, data)

    def say(self, line: str) -> None:
        """A line for readers."""
        click.echo(line, err=self.format in {"json", "csv"})

    def _tables(self, *tables: Table) -> None:
        if self.format == "table":
            print_tables(make_console(), *tables)
        if self.format == "markdown":
            for table in tables:
                if table.rows:
                    click.echo(f"## {table.title}\n\n{table.to_markdown()}\n")

    def _lines(self, lines: Sequence[str]) -> None:
        if self.format == "table":
            print_lines(make_console(), lines)
            return
        for line in lines:
            self.say(f"- {line}" if self.format == "markdown" else line)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--output and --json; the command gets both as `output`."""

    @functools.wraps(command)
    def with_output(*, output_format: str, json_path: Path | None, **given: Any) -> Any:
        return command(output=Output(output_format, json_path), **given)

    wrapped: Callable[..., Any] = click.option(
        "--output",
        "output_format",
        type=click.Choice(FORMATS),
        default=FORMATS[0],
        show_default=True,
        help="What stdout gets; json and csv have every figure.",
    )(with_output)
    wrapped = new_file_option("--json", "json_path", "Write what `--output json` shows into this file.")(wrapped)
    return wrapped  # noqa: RET504 - the type says that it is a command
