"""The command line: what it writes, its exit codes, and that every usage error is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner, Result

import bench.__main__ as entry
from bench import commands, runner
from bench.case import Case, ModuleRun
from bench.commands import cli
from bench.features import FEATURES
from bench.peers import PEERS, Peer
from bench.problems import Problem
from bench.runner import thread_count
from bench.workloads import corpus
from tests.warm_python import python

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
TINY = "lstm:t3,b2,i4,h5,f32,train"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where the machine has other work."""
    with thread_count(1):
        yield


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_run_verifies_times_and_writes_json_and_chart(tmp_path: Path) -> None:
    json_path, chart_path = tmp_path / "new" / "out.json", tmp_path / "out.png"
    result = invoke(
        "run", TINY, "--seconds", "0.001", "--threads", "1", "--json", str(json_path), "--chart", str(chart_path)
    )
    assert result.exit_code == 0, result.output
    assert TINY in result.stdout
    assert "1 thread" in result.stdout
    data = json.loads(json_path.read_text(encoding="utf-8"))
    assert data["environment"]["threads"] == 1
    assert [problem["problem"] for problem in data["problems"]] == [TINY]
    assert chart_path.stat().st_size > 0


def test_run_names_each_problem_once(tmp_path: Path) -> None:
    json_path = tmp_path / "out.json"
    assert invoke("run", TINY, TINY, "--seconds", "0.001", "--json", str(json_path)).exit_code == 0
    assert len(json.loads(json_path.read_text(encoding="utf-8"))["problems"]) == 1


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    assert invoke("run", TINY, "--seconds", "0.001", "--threads", str(before + 1)).exit_code == 0
    assert torch.get_num_threads() == before


def test_a_failed_verification_exits_1_and_the_other_problems_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_lstm(case: Case) -> ModuleRun:
        if case.problem.cell == "lstm":
            raise RuntimeError("broken")
        return ModuleRun(torch.nn, case)

    monkeypatch.setitem(PEERS, "fused", Peer("fused", "broken for the LSTM", refuse_lstm))
    monkeypatch.setattr(runner, "noise_of", lambda *_: None)  # the machine may be busy
    result = invoke("run", TINY, TINY.replace("lstm", "gru"), "--seconds", "0.001")
    assert result.exit_code == 1
    assert f"FAILED {TINY}: fused cannot run it: RuntimeError: broken" in result.stdout
    assert "gru train" in result.stdout


def test_explain_prints_what_the_package_says() -> None:
    result = invoke("explain", TINY)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


def test_the_bare_command_and_help_list_the_commands() -> None:
    for arguments in ((), ("--help",), ("-h",)):
        result = invoke(*arguments)
        assert result.exit_code == 0
        assert all(name in result.stdout for name in ("run", "features", "memory", "explain", "workload", "all"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "lstn:t1,b1,i1,h1,f32,train"), "unknown cell 'lstn'"),
        (("run", "lstm:t1,b1,i1,h1,f32,train,x"), "bad field 'x'"),
        (("run", "lstm:t0,b1,i1,h1,f32,train"), "nothing to time"),
        (("run", "--suite", "slow"), "'slow' is not one of"),
        (("run", TINY, "--seconds", "0"), "--seconds"),
        (("run", TINY, "--seconds", "nan"), "--seconds"),
        (("run", TINY, "--seconds", "inf"), "not a finite number"),
        (("run", TINY, "--threads", "0"), "--threads"),
        (("run", TINY, "--nope"), "--nope"),
        (("run", TINY, "--chart", "chart.txt"), "ends with .png, .svg, .pdf, got 'chart.txt'"),
        (("run", TINY, "--output", "xml"), "'xml' is not one of"),
        (("run", "--cell", "lstm,qrnn"), "'qrnn' is not one of"),
        (("run", "--hidden", "64,x"), "'x' is not a valid integer"),
        (("run", "--cell", "gru", "--proj", "4"), "needs the cell lstm"),
        (("run", "--type", "i8"), "i8 is for inference"),
        (("step", "--layers", "2"), "steps are of one layer"),
        (("compare", "no-such.json", "no-such.json"), "no-such.json"),
        (("run", TINY, "--against", "torch,tensorflow"), "unknown peer 'tensorflow'"),
        (("run", TINY, "--against", "fused"), "unknown peer 'fused'"),
        (("memory", "--against", ""), "unknown peer ''"),
        (("run", TINY, "--report", "/dev/null/folder"), "cannot make the folder"),
        (("run", TINY, "--json", "/dev/null/out.json"), "cannot make the folder"),
        (("features", "lengthz"), "'lengthz' is not one of"),
        (("features", "--seconds", "0"), "--seconds"),
        (("explain", "gru"), "has no ':'"),
        (("explain",), "PROBLEM"),
        (("nonsense",), "nonsense"),
        (("workload", "nonsense"), "nonsense"),
        (("workload", "char_lm", "--cell", "qrnn"), "'qrnn' is not one of"),
        (("workload", "char_lm", "--impl", "jax"), "'jax' is not one of"),
        (("workload", "char_lm", "--text", "no-such-file.txt"), "no-such-file.txt"),
        (("workload", "char_lm", "--steps", "1", "--seconds", "1"), "exclude each other"),
        (("workload", "char_lm", "--prompt", ""), "at least one character"),
        (("workload", "char_lm", "--prompt", "\u2603"), "does not have '\u2603'"),
        (("workload", "char_lm", "--batch", "100000"), "too few"),
        (("workload", "char_lm", "--temperature", "-1"), "--temperature"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(arguments: tuple[str, ...], named: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"aaaa", b"\xff\xfe\xff", b"abc"])
def test_a_text_that_cannot_be_learned_is_one_line_and_exit_code_2(content: bytes, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    result = invoke("workload", "char_lm", "--text", str(text))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "text.txt" in result.stderr or "too few" in result.stderr


def test_char_lm_writes_text_curves_and_report(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    sizes = ["--hidden", "8", "--batch", "4", "--seq-len", "8", "--steps", "3", "--generate", "20", "--prompt", "the "]
    result = invoke("workload", "char_lm", "--text", str(text), *sizes, "--report", str(tmp_path / "report"))
    assert result.exit_code == 0, result.output
    assert "loss curves agree" in result.stdout
    assert "bits per character" in result.stdout
    assert "written by the fused model" in result.stdout
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "loss curves agree" in report
    assert (tmp_path / "report" / "char_lm.png").stat().st_size > 0
    data = json.loads((tmp_path / "report" / "char_lm.json").read_text(encoding="utf-8"))
    assert data["loss_unit"] == "bits per character"
    assert len(data["implementations"]["fused"]["losses"]) == 3
    assert len(data["implementations"]["fused"]["text"]) == 20


def test_a_training_that_diverges_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = torch.full((), float("nan"), requires_grad=True)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *_arguments: nan)
    result = invoke("workload", "char_lm", "--hidden", "8", "--impl", "fused")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the training diverged: the loss is nan after 0 steps of fused_rnn")
    assert len(result.stderr.splitlines()) == 1


def test_all_makes_one_report_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 100
    monkeypatch.setattr(corpus, "load", lambda _path: corpus.Corpus.from_text(text, "fox"))
    monkeypatch.setattr(commands, "suite", lambda _name: (Problem.parse(TINY),))
    monkeypatch.setattr(commands, "FEATURES", (replace(FEATURES[0], problem=Problem.parse(TINY)),))
    folder = tmp_path / "report"
    seconds = [f"--{what}seconds=0.001" for what in ("", "feature-", "workload-")]
    result = invoke("all", "--report", str(folder), *seconds)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"report: {folder / 'report.md'}"
    assert {path.name for path in folder.iterdir()} == {
        "features.json",
        "report.md",
        "results.json",
        "speed.png",
        "char_lm.json",
        "char_lm.png",
    }
    assert "Written by the fused model" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_missing_optional_package_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name == "rich" else find_spec(name))
    with pytest.raises(SystemExit) as exit_code:
        entry.main()
    assert exit_code.value.code == 2
    assert capsys.readouterr().err == "error: the benchmark needs rich: pip install 'fused_rnn[bench]'\n"


def test_the_module_runs_as_a_program_without_a_traceback() -> None:
    done = python("-m", "bench", "run", "lstm")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
