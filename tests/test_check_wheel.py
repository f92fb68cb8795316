"""How a wheel is tried: beside which versions of torch, without a compiler, and that a failure counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import check_wheel


@pytest.mark.parametrize("failing", [None, "pip", "-c"])
def test_a_wheel_is_installed_and_run_where_no_compiler_is(
    failing: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[list[str], str]] = []

    def run(command: list[str], env: dict[str, str] | None = None, **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append((command, (env or {}).get("PATH", "")))
        return subprocess.CompletedProcess(command, int(failing in command))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["check_wheel", "fused_rnn-1-any.whl"])
    assert check_wheel.main() == (failing is not None)
    assert ("fails beside torch==2.11.*, torch" if failing else "works") in capsys.readouterr().out
    tried = [(command, path) for command, path in calls if command[1:3] != ["-m", "venv"]]
    assert all(path == str(Path(command[0]).parent) for command, path in tried)
    installed = [command[-2:] for command, _ in tried if "pip" in command]
    assert installed == [[torch, str(Path("fused_rnn-1-any.whl").resolve())] for torch in check_wheel.TORCHES]


def test_what_runs_beside_each_torch_has_the_example_of_readme() -> None:
    program = check_wheel.program()
    compile(program, "program", "exec")
    assert "fused_rnn.convert(model)" in program
    assert "torch.testing.assert_close" in program
