"""Tables: cells as text, for a terminal, for Markdown, and the figures behind them as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from .noise import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import JustifyMethod


@dataclass(frozen=True)
class Table:
    """Cells as text under named columns; `bad` holds the numbers of the rows that report a failure."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: int = 1  # how many leading columns are text, aligned left
    bad: frozenset[int] = field(default_factory=frozenset)
    note: str = ""

    def to_rich(self) -> RichTable:
        """For a console."""
        table = RichTable(
            title=Text(self.title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False
        )
        for index, column in enumerate(self.columns):
            justify: JustifyMethod = "left" if index < self.left else "right"
            table.add_column(Text(column), justify=justify, no_wrap=index == 0, overflow="fold")
        for index, row in enumerate(self.rows):
            table.add_row(*map(Text, row), style="bold red" if index in self.bad else None)
        return table

    def to_markdown(self) -> str:
        """The table without its title."""
        lines = [f"| {' | '.join(self.columns)} |"]
        lines.append("|" + "".join("---|" if index < self.left else "---:|" for index in range(len(self.columns))))
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.note] if self.note else lines)


def milliseconds(seconds: float) -> str:
    """A time in a cell, with three digits."""
    return f"{seconds * 1e3:.3g}" if seconds < 1.0 else f"{seconds * 1e3:.0f}"


def ratio_cell(ratio: float | None, noise: str | None = None) -> str:
    """A ratio in a cell, marked where it is noisy."""
    return "-" if ratio is None else f"{ratio:.2f}x{MARK * bool(noise)}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values by dotted names."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, "; ".join(map(str, value)) if isinstance(value, list) else value


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of JSON, one a line under the names of all; what is nested has dotted names, `peers.fused.minimum_s`."""
    flat = [dict(_flat(row)) for row in rows]
    written = io.StringIO()
    writer = csv.DictWriter(written, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return written.getvalue()
