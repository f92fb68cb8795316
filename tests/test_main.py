"""`python -m fused_rnn` says what is installed and what it runs on."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import pytest
import torch

import fused_rnn
from build_support.native import ROOT
from fused_rnn import __main__ as program
from tests.warm_python import python


def printed(**environment: str) -> dict[str, str]:
    """The lines of the program by their names."""
    result = python("-m", "fused_rnn", cwd=ROOT, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    return {name: value.strip() for name, _, value in (line.partition("  ") for line in result.stdout.splitlines())}


def test_everything_that_build_info_says_is_printed() -> None:
    lines = printed()
    for name, value in fused_rnn.build_info().items():
        assert any(value in line for line in lines.values()), name


def test_the_processor_its_instruction_sets_and_the_settings_are_printed() -> None:
    lines = printed(FUSED_RNN_CPU_ISA="baseline")
    assert list(lines)[:3] == ["fused_rnn", "Python", "torch"]
    assert lines["fused_rnn"] == f"{fused_rnn.__version__}, in {ROOT / 'fused_rnn'}"
    assert lines["torch"].startswith(torch.__version__)
    assert f"{os.cpu_count()} logical cores" in lines["processor"]
    assert lines["instruction sets"].endswith("; in use: baseline")
    assert "FUSED_RNN_CPU_ISA=baseline" in lines["settings"]


@pytest.mark.parametrize("module", ["fused_rnn", "bench"])
def test_an_unknown_instruction_set_is_one_line(module: str) -> None:
    result = python("-m", module, *(["run"] if module == "bench" else []), FUSED_RNN_CPU_ISA="nope")
    assert result.returncode in {1, 2}
    assert not result.stdout
    assert re.fullmatch(r'error: FUSED_RNN_CPU_ISA must be one of baseline, .* machine, got "nope"\.?\n', result.stderr)


def test_each_visible_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(index: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"GPU {index}", major=9, minor=0, multi_processor_count=132, total_memory=2**37)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert program.describe()["visible GPUs"] == ", ".join(
        f"GPU {index} (9.0, 132 multiprocessors, 128 GiB)" for index in range(2)
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert program.describe()["visible GPUs"] == "none"


def test_a_processor_that_linux_does_not_describe_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_CPU_INFO", ROOT / "absent")
    assert program._processor()


def test_help_says_what_is_printed_and_other_arguments_are_refused() -> None:
    result = python("-m", "fused_rnn", "--help")
    assert result.returncode == 0
    assert "what is installed and what it runs on" in result.stdout
    assert python("-m", "fused_rnn", "explain").returncode == 2
