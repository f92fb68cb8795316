"""`bench realtime` holds the outputs of the C library to those of Stepper, and times both."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from bench import realtime
from bench.commands import cli
from bench.problems import Problem

if TYPE_CHECKING:
    from pathlib import Path

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
PROBLEMS = ["lstm:t5,b2,i3,h6,f32,infer", "rnn_relu:t4,b1,i1,h5,f32,infer"]


def program_of(folder: Path, text: str) -> Path:
    """A program that stands in for step_times."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


@needs_cmake
def test_the_command_prints_and_writes_every_contender(built: Path, tmp_path: Path) -> None:
    path, program = tmp_path / "out.json", built / "examples/realtime/step_times"
    options = ["--program", str(program), "--seconds", "0.001", "--json", str(path)]
    result = CliRunner().invoke(cli, ["realtime", *PROBLEMS, *options])
    assert result.exit_code == 0, result.output
    assert "Real time: nanoseconds of one step" in result.stdout
    rows = json.loads(path.read_text(encoding="utf-8"))["realtime"]
    assert [row["problem"] for row in rows] == PROBLEMS
    for row in rows:
        assert row["contenders"].keys() == {"C, step", "C, block", "Stepper, step", "Stepper, block"}
        for times in row["contenders"].values():
            assert 0 < times["minimum_s"] <= times["median_s"] <= times["99_percent_s"] <= times["maximum_s"]


def test_other_outputs_are_a_failure(tmp_path: Path) -> None:
    zeros = program_of(tmp_path, 'head -c $((2 * 4 * 5 * 2 * 6)) /dev/zero > "$3"; echo "C, step: 1 2"; echo "peer: 3"')
    row = realtime.measure_realtime(Problem.parse(PROBLEMS[0]), zeros, 1e-3)
    first, second = row.failures
    assert first.startswith("outputs of C, step differ by ")
    assert second.startswith("outputs of peer differ by ")
    assert not row.timings


def test_a_program_that_fails_is_a_failure_in_its_words(tmp_path: Path) -> None:
    broken = program_of(tmp_path, "echo broken >&2; exit 1")
    assert realtime.measure_realtime(Problem.parse(PROBLEMS[0]), broken, 1e-3).failures == ["broken"]
    result = CliRunner().invoke(cli, ["realtime", PROBLEMS[0], "--program", str(broken)])
    assert result.exit_code == 1
    assert "broken" in result.stdout


# In the place of a compiler: it keeps its words, and what it "links" is a program that says two contenders.
COMPILER = """
echo "$@" >> "$WORDS"
while [ "$1" != -o ]; do shift; done
cp "$STEPS" "$2"
"""


def test_peers_are_compiled_once_and_linked_for_each_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "compiler").mkdir()
    steps = program_of(tmp_path / "steps", 'ls "$1.onnx" >&2; exit 1')
    monkeypatch.setenv("CXX", str(program_of(tmp_path / "compiler", COMPILER)))
    monkeypatch.setenv("STEPS", str(steps))
    monkeypatch.setenv("WORDS", str(tmp_path / "words"))
    monkeypatch.setenv("ONNXRUNTIME_DIR", str(tmp_path))
    options = ["--program", str(steps), "--against", "torch", "--against", "onnxruntime"]
    result = CliRunner().invoke(cli, ["realtime", *PROBLEMS, *options])
    assert result.exit_code == 1
    assert result.stdout.count("model.frnn.onnx") == len(PROBLEMS)
    of_torch, of_onnxruntime, *of_problems = (tmp_path / "words").read_text().splitlines()
    assert "torch_steps.cpp" in of_torch
    assert f"{tmp_path}/include" in of_onnxruntime
    assert len(of_problems) == len(PROBLEMS)
    for words in of_problems:
        assert "-DWITH_TORCH -DWITH_ONNXRUNTIME" in words
        assert {"-ltorch", "-lonnxruntime", f"-L{tmp_path}/lib"} < {*words.split()}


def test_a_peer_that_is_not_there_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONNXRUNTIME_DIR", raising=False)
    program = str(program_of(tmp_path, "exit 1"))
    result = CliRunner().invoke(cli, ["realtime", PROBLEMS[0], "--program", program, "--against", "onnxruntime"])
    assert result.exit_code == 2
    assert "ONNXRUNTIME_DIR must name" in result.stderr


def test_a_program_that_is_not_built_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["realtime", PROBLEMS[0], "--program", str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert "absent" in result.stderr


def test_what_has_no_steps_is_a_usage_error(tmp_path: Path) -> None:
    program = str(program_of(tmp_path, "exit 1"))
    result = CliRunner().invoke(cli, ["realtime", "gru:t5,b2,i3,h6,l2,f32,infer", "--program", program])
    assert result.exit_code == 2
    assert "steps are of one layer" in result.stderr
