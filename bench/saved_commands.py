"""Commands on runs that `--json` wrote: compare two of them, and draw the heat map of one."""

from __future__ import annotations

from pathlib import Path

import click

from . import compare
from .heat_map import draw
from .options import FILE, epilog, new_picture
from .output import Output, output_options
from .saved import Json, read_problems

_RUN = click.Path(exists=True, dir_okay=False, path_type=Path)


def _as_run(_context: click.Context, _parameter: click.Parameter, path: Path) -> Json:
    """The run in a file, or a usage error."""
    try:
        return read_problems(path)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@click.command("compare", epilog=epilog("compare old.json new.json", "compare old.json new.json --output markdown"))
@click.argument("old", type=_RUN, callback=_as_run)
@click.argument("new", type=_RUN, callback=_as_run)
@output_options
def compare_command(old: Json, new: Json, output: Output) -> None:
    """Compare two runs that `run --json` wrote: ratios of each problem, means, and what one of them lacks."""
    found = compare.compare(old, new)
    if not found.pairs:
        raise click.UsageError("the runs have timed no problem in common.")
    output.finish(compare.tables(found), compare.lines(found), compare.as_json(found))


@click.command("heatmap", epilog=epilog("run --suite lstm-full --json run.json", "heatmap run.json picture.svg"))
@click.argument("run", type=_RUN, callback=_as_run)
@click.argument("picture", type=FILE, callback=new_picture)
def heatmap_command(run: Json, picture: Path) -> None:
    """Draw the ratios of RUN, which `run --json` wrote, by hidden size and batch into PICTURE (.png, .svg or .pdf)."""
    try:
        panels = draw(run, picture)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    click.echo(f"{panels} panel{'s' * (panels != 1)}: {picture}")
    for row in run["problems"]:
        if row.get("noise"):
            click.echo(f"left out as noisy: {row['problem']}", err=True)
