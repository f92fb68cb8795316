"""Problems on the command line: as strings, or by long options whose values make a grid."""

from __future__ import annotations

import functools
from itertools import product
from typing import TYPE_CHECKING, Any

import click

from .problems import CELLS, MODES, TYPES, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from click.shell_completion import CompletionItem

PROBLEM_HELP = (
    "PROBLEM is a string such as lstm:t100,b16,i128,h128,f32,train: CELL:FIELDS, where CELL is "
    f"{', '.join(CELLS)}, and FIELDS are tN bN iN hN (time steps, batch, input and hidden size), one of "
    f"{' '.join(TYPES)}, train or infer, and optionally lN (layers), bi (bidirectional), pN (projection). The long "
    "options name the same: every combination of their values is a problem, and one that is not given has its default. "
    "PROBLEMS and long options exclude each other."
)


class Several(click.ParamType):  # type: ignore[type-arg] # no generic before click 8.4
    """Values of one type, separated by commas."""

    def __init__(self, one: click.ParamType[Any, Any]) -> None:
        self.one = one
        self.name = one.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The values, each once, or a usage error."""
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(self.one.convert(part.strip(), param, ctx) for part in value.split(",")))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What may follow the last comma."""
        before, comma, last = incomplete.rpartition(",")
        found = self.one.shell_complete(ctx, param, last)
        for item in found:
            item.value = before + comma + item.value
        return found


_SIZE = click.IntRange(1)
_FIELDS: Mapping[str, tuple[str, click.ParamType[Any, Any], str]] = {
    "cell": ("--cell", click.Choice(CELLS), "Cells"),
    "type_name": ("--type", click.Choice(list(TYPES)), "Types"),
    "mode": ("--mode", click.Choice(list(MODES)), "Forward and backward, or forward alone"),
    "time_steps": ("--time-steps", _SIZE, "Time steps"),
    "hidden_size": ("--hidden", _SIZE, "Hidden sizes"),
    "input_size": ("--input", _SIZE, "Input sizes"),
    "batch": ("--batch", _SIZE, "Batches"),
    "layers": ("--layers", _SIZE, "Stacked layers"),
    "proj": ("--proj", _SIZE, "Sizes of a projection, of the LSTM"),
}
_DEFAULTS: Mapping[str, Any] = {
    "cell": "lstm",
    "type_name": "f32",
    "time_steps": 100,
    "hidden_size": 128,
    "input_size": None,
    "batch": 16,
    "layers": 1,
    "proj": 0,
}
_SHOWN = {"input_size": "the hidden size", "proj": "none"}


def _default(field: str, mode: str) -> Any:
    return mode if field == "mode" else _DEFAULTS[field]


def _parse(text: str) -> Problem:
    try:
        return Problem.parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _grid(values: Mapping[str, Sequence[Any]], *, bidirectional: bool) -> Iterator[Problem]:
    """The problem of every combination; without an input size it is that of the hidden state."""
    for combination in product(*values.values()):
        fields = dict(zip(values, combination, strict=True))
        fields |= TYPES[fields.pop("type_name")]._asdict()
        fields["training"] = MODES[fields.pop("mode")]
        fields["input_size"] = fields["input_size"] or fields["hidden_size"]
        try:
            yield Problem(**fields, bidirectional=bidirectional)
        except ValueError as error:
            raise click.UsageError(f"{error}.") from None


def _take(given: dict[str, Any], mode: str, *, timed: bool) -> tuple[Problem, ...]:
    """The problems that arguments name; they are taken out of the arguments."""
    problems = tuple(map(_parse, given.pop("problems")))
    values = {name: given.pop(name) for name in _FIELDS}
    bidirectional = given.pop("bidirectional")
    options = [option for name, (option, _, _) in _FIELDS.items() if values[name]]
    options += ["--bidirectional"] if bidirectional else []
    if problems and options:
        raise click.UsageError(f"PROBLEM names every field: give it without {', '.join(options)}.")
    if options:
        chosen = {name: values[name] or (_default(name, mode),) for name in _FIELDS}
        problems += tuple(_grid(chosen, bidirectional=bidirectional))
    for problem in problems:
        if timed and not (problem.time_steps and problem.batch):
            raise click.UsageError(f"problem {str(problem)!r} has nothing to time: t and b must be at least 1.")
    return tuple(dict.fromkeys(problems))


def problem_options(mode: str = "train", *, timed: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """PROBLEMS and the long options; the command gets each problem once, as `problems`.

    `mode` is the default of --mode. Where problems are `timed`, one without steps or rows is a usage error.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def take_problems(**given: Any) -> Any:
            problems = _take(given, mode, timed=timed)
            return command(problems=problems, **given)

        wrapped: Callable[..., Any] = take_problems
        wrapped = click.option("--bidirectional", is_flag=True, help="In two directions.")(wrapped)
        for name, (option, kind, text) in reversed(list(_FIELDS.items())):
            default = _SHOWN.get(name, _default(name, mode))
            metavar = "|".join(kind.choices) if isinstance(kind, click.Choice) else "N"
            help_text = f"{text}, separated by commas (default {default})."
            wrapped = click.option(option, name, type=Several(kind), metavar=metavar, help=help_text)(wrapped)
        return click.argument("problems", nargs=-1, metavar="[PROBLEM]...")(wrapped)

    return decorate
