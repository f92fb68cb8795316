"""Tests of tools/gpu_check.sh as far as no GPU is needed: stages, limits, grids, records, report, micro programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import torch

from build_support import native
from tools.gpu_check import (
    __main__ as entry,
)
from tools.gpu_check import (
    machine,
    records,
    report,
    stage_sanitizer,
    stage_tests,
    stages,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROOT = native.ROOT
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


# The command


def test_list_names_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [one.name for one in stages.STAGES]


def test_an_unknown_stage_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["micro", "macro"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown stage macro: use build, micro")


@needs_no_gpu
def test_without_a_gpu_the_script_says_so_in_one_line_and_exits_with_2() -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    script = [str(ROOT / "tools" / "gpu_check.sh"), "micro"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu_check: no GPU: torch ")


def test_without_torch_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ASK_TORCH", "raise ModuleNotFoundError('no torch')")
    says = machine.ask_torch()
    assert says == {"available": False, "error": "torch does not run: ModuleNotFoundError: no torch"}


@pytest.mark.parametrize(
    ("capability", "name", "target"),
    [
        ((8, 0), "8.0", "arch=compute_80,code=sm_80"),
        ((8, 9), "8.9", "arch=compute_89,code=sm_89"),
        ((9, 0), "9.0a", "arch=compute_90a,code=sm_90a"),
        ((12, 0), "12.0", "arch=compute_120,code=sm_120"),
    ],
)
def test_architectures_have_the_names_that_nvcc_knows(capability: tuple[int, int], name: str, target: str) -> None:
    assert machine.architecture(capability) == name
    assert machine.nvcc_target(name) == target


def test_what_is_missing_is_named_with_what_goes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "rich" else object())
    monkeypatch.setattr(machine, "find_program", lambda name: None if name == "nvcc" else "/bin/" + name)
    assert machine.missing() == {"rich": "the CPU benchmark", "nvcc": "build, micro"}


# Stages


def test_every_stage_has_a_module() -> None:
    assert all(find_spec(f"tools.gpu_check.stage_{stage.name}") for stage in stages.STAGES)


def test_the_least_times_fit_into_eight_minutes() -> None:
    assert sum(stage.least for stage in stages.STAGES) <= stages.TOTAL_SECONDS < 480
    assert all(0 < stage.least <= stage.limit for stage in stages.STAGES)


def test_all_stages_at_their_limits_end_in_eight_minutes() -> None:
    left, taken = stages.TOTAL_SECONDS, []
    for index, stage in enumerate(stages.STAGES):
        taken.append(stages.time_for(stage, stages.STAGES[index + 1 :], left))
        left -= taken[-1]
    assert left >= 0
    assert all(seconds >= stage.least for seconds, stage in zip(taken, stages.STAGES, strict=True))


# Of stages that an H200 has run, the seconds that they took (bench/results/cuda-h200.json); the others at their limits,
# but for a build by sixteen cores.
TAKEN = {"baseline": 12, "correctness": 52, "sanitizer": 32, "graph": 24, "tests": 30, "build": 90, "micro": 30}


def test_what_an_h200_took_leaves_the_benchmarks_most_of_their_time() -> None:
    left, given = stages.TOTAL_SECONDS, {}
    for index, stage in enumerate(stages.STAGES):
        given[stage.name] = stages.time_for(stage, stages.STAGES[index + 1 :], left)
        left -= TAKEN.get(stage.name, given[stage.name])
    assert given["bench"] >= 140  # of an H200: 141
    assert given["shapes"] >= 20


def test_stages_are_chosen_by_name_in_their_own_order() -> None:
    assert [stage.name for stage in stages.choose(["bench", "build"])] == ["build", "bench"]
    assert stages.choose([]) == list(stages.STAGES)


def test_a_stage_leaves_the_least_of_the_later_ones() -> None:
    first, second = stages.Stage("a", "", limit=100, least=10), stages.Stage("b", "", limit=100, least=40)
    assert stages.time_for(first, [second], left=300) == 100
    assert stages.time_for(first, [second], left=90) == 50
    assert stages.time_for(first, [second], left=45) == 10
    assert stages.time_for(first, [second], left=5) == 5
    assert stages.time_for(second, [], left=30) == 30


def scripted(code: str) -> Callable[[str, str, Path, float], list[str]]:
    """A stage's process that runs `code` with `record(...)`, `part` and `path`."""
    head = (
        "import subprocess, sys, time\nfrom pathlib import Path\nfrom tools.gpu_check.records import Recorder\n"
        "part, path = sys.argv[1], Path(sys.argv[2])\nrecord = Recorder(path)\n"
    )
    return lambda _stage, part, path, _seconds: [sys.executable, "-c", head + code, part, str(path)]


STAGE = stages.Stage("trial", "", limit=60, least=1, parts=("a", "b"))


def test_parts_run_beside_each_other_and_their_records_come_together(tmp_path: Path) -> None:
    result = stages.run_stage(STAGE, 60, tmp_path, scripted("record(case=part, status='ok')"))
    assert result.status == "ok"
    assert [record["case"] for record in result.records] == ["a", "b"]


def test_one_failing_part_fails_the_stage_and_shows_its_log(tmp_path: Path) -> None:
    result = stages.run_stage(STAGE, 60, tmp_path, scripted("print('why'); sys.exit(part == 'b')"))
    assert result.status == "failed"
    assert [(part.status, part.log) for part in result.parts] == [("ok", ""), ("failed", "why\n")]


def test_a_failed_record_fails_the_stage_whatever_the_exit_code(tmp_path: Path) -> None:
    result = stages.run_stage(STAGE, 60, tmp_path, scripted("record(case='x', status='failed')"))
    assert result.status == "failed"


def test_a_hanging_stage_is_stopped_with_its_children_and_keeps_its_records(tmp_path: Path) -> None:
    code = (
        "record(case='one', status='ok')\nrecord(case='two', status='started')\n"
        "child = subprocess.Popen(['sleep', '600'])\npath.with_suffix('.pid').write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    started = time.monotonic()
    result = stages.run_stage(stages.Stage("trial", "", 5, 1), 5, tmp_path, scripted(code))
    assert time.monotonic() - started < 20
    assert result.status == "timed out"
    assert [(record["case"], record["status"]) for record in result.records] == [("one", "ok"), ("two", "started")]
    child = int((tmp_path / "trial.all.pid").read_text())
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True, check=False).stdout
    assert not state.strip() or state.startswith("Z")
    assert "FAILED two: did not end" in "\n".join(report.stage_lines(result))


def test_a_command_within_a_stage_is_stopped_in_time_and_keeps_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]
    assert stages.run_logged(command, tmp_path / "log", 1.0) == (None, "begun\n")
    assert stages.run_logged([sys.executable, "-c", "exit(3)"], tmp_path / "log", 20.0) == (3, "")


# Records


def test_records_survive_what_json_lacks_and_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    recorder = records.Recorder(path)
    recorder(case="a", status="started")
    recorder(value=float("nan"), parts=[float("inf"), {"x": 1.5}])
    recorder(case="a", status="ok")
    with path.open("a") as file:
        file.write('{"case": "b", "sta')
    assert records.read_records(path) == [
        {"value": "nan", "parts": ["inf", {"x": 1.5}]},
        {"case": "a", "status": "ok"},
    ]


def test_micro_output_is_parsed_among_other_lines() -> None:
    text = 'warming up\n{"micro": "grid_barrier", "blocks": 132, "ns_min": 1234.5, "verified": true}\n[1]\n'
    assert records.parse_lines(text) == [{"micro": "grid_barrier", "blocks": 132, "ns_min": 1234.5, "verified": True}]


# What tools say


def test_the_sanitizers_summaries_are_counted() -> None:
    assert stage_sanitizer.errors_in("========= ERROR SUMMARY: 3 errors\n") == 3
    assert stage_sanitizer.errors_in("========= ERROR SUMMARY: 0 errors\n") == 0
    assert stage_sanitizer.errors_in("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n") == 2
    assert stage_sanitizer.errors_in("killed") is None


def test_what_the_sanitizer_tells_is_seen_without_its_summary() -> None:
    quiet = "========= COMPUTE-SANITIZER\n{}\n========= \n"
    assert stage_sanitizer.told_by(quiet + "========= ERROR SUMMARY: 0 errors\n") == []
    race = "Error: Race reported between Write access at Kernel+0x10 and Read access at Kernel+0x20"
    assert stage_sanitizer.told_by(f"{quiet}========= {race} [16 hazards]\n") == [f"{race} [16 hazards]"]


def test_what_the_tests_lack_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_tests, "find_spec", lambda name: None if name == "hypothesis" else object())
    assert stage_tests.plan("default")[2] == "needs hypothesis"
    assert stage_tests.plan("cuda")[2] == "needs hypothesis"
    assert stage_tests.plan("cpu_bench")[2] == ""
    monkeypatch.setattr(machine, "ask_torch", lambda: {"gpus": 1})
    assert stage_tests.plan("nccl")[2] == "needs two GPUs"
    monkeypatch.setattr(machine, "ask_torch", lambda: {"gpus": 2})
    assert stage_tests.plan("nccl")[2] == "needs hypothesis"
    monkeypatch.setattr(stage_tests, "processor_flags", set)
    assert stage_tests.plan("avx512")[2] == "the processor has no AVX-512"


# The report


def timed(mode: str, ours: float, theirs: float, **fields: Any) -> records.Record:
    shown = {"cell": "lstm", "hidden": 512, "batch": 16, "type": "bf16", "options": "", "forced": "", "status": "ok"}
    times = {"ours_us": {"min": ours, "median": ours}, "theirs_us": {"min": theirs, "median": theirs}}
    return {**shown, "mode": mode, "schedule": "cluster/cluster", "error": 0.0031, **times, **fields}


ENVIRONMENT = {
    "gpu": "GPU",
    "capability": [9, 0],
    "multiprocessors": 132,
    "cudnn": 91000,
    "driver": "580",
    "torch": "2.11",
    "cuda": "13.0",
    "commit": "abc",
    "date": "2026-11-21",
    "python": "3.12",
    "cores": 16,
    "nvcc": "13.0",
    "missing": {"rich": "the CPU benchmark"},
}


def test_the_table_joins_both_modes_and_shows_ratio_limit_and_error() -> None:
    failed = {"cell": "gru", "hidden": 64, "batch": 1, "type": "f32", "options": "bi", "forced": "", "mode": "infer"}
    rows = [
        timed("infer", 1.36, 6.8),
        timed("train", 3.0, 18.0, error=0.02),
        {**failed, "status": "failed"},
        timed("infer", 9.0, 0.0, forced="grid"),
    ]
    title, *lines = report.speed_table(rows)
    assert title.endswith("limit: share of the modelled limit, LSTM bf16 H200")
    assert [line.split() for line in lines[1:]] == [
        ["gru", "64", "1", "f32", "bi", "-", "-", "FAILED", "-", "-", "-", "-", "-", "-"],
        [
            *("lstm", "512", "16", "bf16", "-", "1.36", "6.80", "5.0x", "3.00", "18.00", "6.0x", "50%", "2e-02"),
            "cluster/cluster",
        ],
    ]
    assert len({line.index("ratio") for line in lines[:1]}) == 1


def test_forced_schedules_stand_beside_each_other() -> None:
    rows = [timed("infer", 9.0, 0.0, forced="per_step"), timed("infer", 0, 0, forced="one_block", status="refused")]
    assert report.forced_lines(rows) == ["lstm bf16 infer H=512 B=16: per_step 9.00, one_block refused"]


def test_refusals_are_counted_by_reason() -> None:
    part = stages.Part(
        "all", "ok", 1.0, [{"case": str(i), "status": "refused", "reason": "too large"} for i in range(3)]
    )
    lines = report.stage_lines(stages.StageResult("correctness", "ok", 1.0, [part]))
    assert lines == ["correctness: ok in 1 s (3 refused)", "  refused 3x: too large"]


def test_correctness_is_summed_up_by_schedule_and_type() -> None:
    found = {"type": "bf16", "status": "ok", "error_outputs": 2e-3, "error_gradients": None}
    lines = report.correctness_lines(
        [{"case": "p cluster", **found}, {"case": "q cluster", **found, "status": "failed"}]
    )
    assert lines == ["cluster    bf16  1 failed, 1 ok; outputs 2.0e-03, gradients -"]


def test_the_summary_ends_with_the_table_and_the_json_holds_everything(tmp_path: Path) -> None:
    micro = [
        {"micro": "grid_barrier", "blocks": b, "ns_median": 900.0, "verified": True, "status": "ok"} for b in (2, 8)
    ]
    results = [
        stages.StageResult("micro", "ok", 9.0, [stages.Part("all", "ok", 9.0, micro)]),
        stages.StageResult("bench", "ok", 99.0, [stages.Part("all", "ok", 9.0, [timed("infer", 1.36, float("inf"))])]),
        stages.StageResult("peers", "no time left"),
    ]
    lines = report.summary_lines(ENVIRONMENT, results)
    assert "grid_barrier: blocks 2 ns_median 900; blocks 8 ns_median 900;" in lines
    assert "missing: rich (the CPU benchmark)" in lines
    assert lines[-1].split()[:4] == ["lstm", "512", "16", "bf16"]
    data = json.loads(report.write_json(tmp_path / "out", ENVIRONMENT, results).read_text())
    assert data["environment"]["gpu"] == "GPU"
    assert [stage["status"] for stage in data["stages"]] == ["ok", "ok", "no time left"]
    assert data["stages"][1]["parts"][0]["records"][0]["theirs_us"]["min"] == "inf"
