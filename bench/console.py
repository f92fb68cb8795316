"""What the commands show on a terminal: tables, lines, and how much is done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from .features import BAD_VERDICTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .table import Table

Item = TypeVar("Item")
Found = TypeVar("Found")

_PLAIN_WIDTH = 144  # columns of the tables where there is no terminal to ask


def make_console() -> Console:
    """The terminal, or wide text where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


@contextmanager
def progress(total: float) -> Iterator[Callable[[float, str], None]]:
    """A function that shows how much is done and on what; silent where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)


def print_tables(console: Console, *tables: Table) -> None:
    """Tables that have rows, with their notes."""
    for table in tables:
        if table.rows:
            console.print(table.to_rich())
            if table.note:
                console.print(Text(table.note + "\n", style="dim"), soft_wrap=True)


def measure_each(items: Sequence[Item], run: Callable[[Item, float], Found], seconds: float) -> list[Found]:
    """What `run` finds of each item, showing how many are done."""
    found = []
    with progress(len(items)) as show:
        for done, item in enumerate(items):
            show(done, str(item))
            found.append(run(item, seconds))
    return found


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Lines, in red where they begin with a bad verdict."""
    for line in lines:
        console.print(Text(line, style="bold red" if line.startswith(BAD_VERDICTS) else ""), soft_wrap=True)
