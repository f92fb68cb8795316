"""Options of the command line: grids of problems, formats of stdout, examples in the help, and shell completion."""

from __future__ import annotations

import csv
import io
import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

import fused_rnn
from bench import commands, memory
from bench.commands import cli
from bench.options import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench.problems import Problem

TINY = "lstm:t3,b2,i4,h5,f32,train"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


SIZES = ("--time-steps", "3", "--batch", "2", "--input", "4", "--hidden", "5")


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (("run", *SIZES), ["lstm:t3,b2,i4,h5,f32,train"]),
        (
            ("run", *SIZES, "--cell", "gru,rnn_tanh", "--mode", "infer"),
            ["gru:t3,b2,i4,h5,f32,infer", "rnn_tanh:t3,b2,i4,h5,f32,infer"],
        ),
        (("run", TINY, TINY), [TINY]),
        (
            ("run", "--batch", "1,2,1", "--hidden", "5", "--time-steps", "3"),
            ["lstm:t3,b1,i5,h5,f32,train", "lstm:t3,b2,i5,h5,f32,train"],
        ),
        (("run", *SIZES, "--layers", "2", "--proj", "3", "--bidirectional"), ["lstm:t3,b2,i4,h5,l2,bi,p3,f32,train"]),
        (("run", *SIZES, "--type", "i8", "--mode", "infer"), ["lstm:t3,b2,i4,h5,i8,infer"]),
        (("step", "--cell", "gru"), ["gru:t100,b16,i128,h128,f32,infer"]),
        (("memory", "--hidden", "64"), ["lstm:t100,b16,i64,h64,f32,train"]),
    ],
)
def test_long_options_are_a_grid_of_problems(
    options: tuple[str, ...], problems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def keep(problem: Problem, *_: object, **__: object) -> None:
        timed.append(str(problem))
        raise KeyboardInterrupt

    def keep_all(items: Sequence[Problem], *_: object) -> None:
        timed.extend(map(str, items))
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "measure_each", keep_all)
    monkeypatch.setattr(memory, "measure", keep)
    assert invoke(*options).exit_code == 130
    assert timed == problems


@pytest.mark.parametrize("command", ["run", "memory", "busy", "step", "explain"])
def test_a_problem_and_long_options_exclude_each_other(command: str) -> None:
    result = invoke(command, TINY.replace("train", "infer"), "--hidden", "64", "--bidirectional")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: PROBLEM names every field: give it without --hidden, --bidirectional.\n"


def test_json_and_chart_are_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("run", TINY, "--json", "run.svg", "--chart", str(tmp_path / "run.svg"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: --json and --chart name the same file, {str(tmp_path / 'run.svg')!r}.\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", "explain", "step"])
def test_an_unknown_instruction_set_is_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ValueError('FUSED_RNN_CPU_ISA must be one of baseline on this machine, got "nope"')

    monkeypatch.setattr(fused_rnn, "build_info", refuse)
    result = invoke(command, TINY)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == 'error: FUSED_RNN_CPU_ISA must be one of baseline on this machine, got "nope".\n'


def test_json_on_stdout_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    result = invoke("run", TINY, "--seconds", "0.001", "--output", "json", "--json", str(path))
    assert result.exit_code == 0, result.output
    assert result.stdout == path.read_text(encoding="utf-8")


def test_csv_has_the_figures_of_each_problem_and_nothing_else(tmp_path: Path) -> None:
    options = ("--seconds", "0.001", "--output", "csv", "--report", str(tmp_path))
    result = invoke("run", TINY, TINY.replace("lstm", "gru"), *options)
    first, second = csv.DictReader(io.StringIO(result.stdout))
    assert (first["problem"], second["problem"]) == (TINY, TINY.replace("lstm", "gru"))
    assert float(first["peers.fused.minimum_s"]) > 0.0
    assert result.stderr.splitlines()[-1] == f"report: {tmp_path / 'report.md'}"


def test_markdown_has_the_tables() -> None:
    lines = invoke("run", TINY, "--seconds", "0.001", "--output", "markdown").stdout.splitlines()
    assert lines[0] == "## Environment"
    assert "## Speed, 1 thread" in lines
    assert any(line.startswith(f"| {TINY} |") for line in lines)


def every_command() -> Iterator[click.Command]:
    groups: list[click.Group] = [cli]
    while groups:
        for command in groups.pop().commands.values():
            if isinstance(command, click.Group):
                groups.append(command)
            else:
                yield command


@pytest.mark.parametrize("command", list(every_command()), ids=lambda command: command.name)
def test_every_command_has_examples_that_parse(
    command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old.json", "new.json", "run.json"):
        (tmp_path / name).write_text('{"problems": []}', encoding="utf-8")
    lines = re.findall(rf"^ +{PROGRAM} (.*)$", command.get_help(click.Context(command)), re.MULTILINE)
    assert any(command.name in line.split() for line in lines)
    for line in lines:
        found: click.Command = cli
        words = shlex.split(line)
        while isinstance(found, click.Group):
            found = found.commands[words.pop(0)]
        found.make_context(found.name, words)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("ru", ["run"]), ("run --cel", ["--cell"]), ("run --cell lstm,g", ["lstm,gru"]), ("step --output j", ["json"])],
)
def test_the_shell_completes(typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [PROGRAM])
    words = f"{PROGRAM} {typed}"
    environment = {
        "_FUSED_RNN_BENCH_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    result = CliRunner().invoke(cli, [], env=environment, prog_name=PROGRAM)
    assert [line.partition(",")[2] for line in result.stdout.splitlines()] == offered


def test_the_help_tells_how_to_complete_and_the_version_is_that_of_the_package() -> None:
    assert "_FUSED_RNN_BENCH_COMPLETE=bash_source" in invoke("--help").stdout
    assert invoke("--version").stdout == f"{fused_rnn.__version__}\n"
