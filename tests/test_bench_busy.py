"""`bench busy` times calls beside processes that it starts and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from bench import busy
from bench.busy import CONTENDERS, BusyRow
from bench.commands import cli
from bench.problems import Problem
from bench.runner import Row
from bench.timing import Timing

if TYPE_CHECKING:
    from pathlib import Path

PROBLEM = "gru:t3,b2,i4,h5,f32,train"


def test_neighbours_run_inside_and_are_ended_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command))
        return started[-1]

    monkeypatch.setattr("bench.busy.subprocess", type("Subprocess", (), {"Popen": staticmethod(start)}))

    def fail_inside() -> None:
        with busy.busy_processes(2):
            assert [process.poll() for process in started] == [None, None]
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_neighbours_end_after_a_parent_that_was_killed() -> None:
    program = (
        "import os, signal\n"
        "from bench.busy import busy_processes\n"
        "with busy_processes(1):\n"
        "    print('ready', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    # The neighbour has the same stdout, so that run() returns when it has ended.
    assert (killed.stdout, killed.returncode) == ("ready\n", -signal.SIGKILL)


def test_the_ratio_is_to_the_best_median_of_the_others() -> None:
    times = ((8.0, 1.0, 4.0), (2.0, 2.0, 9.0), (1.0, 1.6, 7.0), (3.0, 5.0, 5.0))
    row = BusyRow(Problem.parse(PROBLEM), 1, dict(zip(CONTENDERS, map(Timing, times), strict=True)))
    assert row.ratio() == 1.6 / 4.0
    assert row.ratio(0.9) == 1.6 / 8.0
    assert BusyRow(row.problem, 1).ratio() is None


def test_the_command_prints_and_writes_every_situation(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    options = ["--neighbours", "0", "--neighbours", "1", "--seconds", "0.01", "--json", str(path)]
    result = CliRunner().invoke(cli, ["busy", PROBLEM, *options])
    assert result.exit_code == 0, result.output
    assert "Beside busy processes" in result.stdout
    rows = json.loads(path.read_text(encoding="utf-8"))["busy"]
    assert [(row["problem"], row["neighbours"], row["failures"]) for row in rows] == [
        (PROBLEM, 0, []),
        (PROBLEM, 1, []),
    ]
    for row in rows:
        assert row["contenders"].keys() == set(CONTENDERS)
        assert all(timing["calls"] >= 9 for timing in row["contenders"].values())
        assert row["ratio_median"] > 0.0


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(problem: Problem, _seconds: float) -> Row:
        return Row(problem, 1, failures=["output: wrong"])

    monkeypatch.setattr("bench.busy.run_problem", run)
    result = CliRunner().invoke(cli, ["busy", PROBLEM, "--neighbours", "0"])
    assert result.exit_code == 1
    assert f"FAILED {PROBLEM}: output: wrong" in result.stdout
