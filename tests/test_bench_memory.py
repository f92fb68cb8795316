"""Peak memory is that of the pass alone, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from click.testing import CliRunner

from bench import memory
from bench.commands import cli
from bench.memory import MemoryRow
from bench.problems import Problem

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# Large enough that the results (1 value per step, row and unit) and what is saved weigh more than anything else.
PROBLEM = "rnn_tanh:t2000,b4,i64,h128,f32,train"


def test_the_command_writes_bytes_per_step_row_and_unit(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    result = CliRunner().invoke(cli, ["memory", PROBLEM, "--against", "onnxruntime", "--json", str(path)])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(path.read_text(encoding="utf-8"))["memory"]
    assert row["problem"] == PROBLEM
    assert row["notes"] == {"onnxruntime": "it has no backward pass"}
    fused = row["peers"]["fused"]
    assert fused["bytes"] == fused["bytes_per_step_row_unit"] * 2000 * 4 * 128
    # At least two of output, input projection and gates' gradients, since memory that a first pass left free is taken
    # again; at most a few more of their size.
    assert 8 <= fused["bytes_per_step_row_unit"] <= 40


def test_a_process_that_fails_is_noted_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "Traceback:\n ...\nRuntimeError: no memory\n")

    monkeypatch.setattr("bench.memory.subprocess.run", run)
    row = memory.measure(Problem.parse(PROBLEM), ["fused"], threads=1)
    assert (row.bytes, row.notes) == ({}, {"fused": "RuntimeError: no memory"})


def test_units_of_all_layers_and_directions_count() -> None:
    row = MemoryRow(Problem.parse("lstm:t2,b3,i1,h5,l2,bi,f32,train"), {"fused": 240})
    assert row.per_unit("fused") == 2.0
    assert row.per_unit("torch") is None
