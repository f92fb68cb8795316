"""Tests of what tools/gpu_check.sh runs, where that needs no GPU: grids, checks and timing, the micro programs."""

from __future__ import annotations

import itertools
import os
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from bench.case import Case, oracle
from bench.verify import TOLERANCES
from build_support import native
from tools import cuda_record
from tools.gpu_check import (
    events,
    grid,
    machine,
    peers,
    problems,
    stage_bench,
    stage_correctness,
    stage_cpu,
    stage_graph,
    stage_micro,
    stage_peers,
    stage_shapes,
    stages,
    tiny,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROOT = native.ROOT
MICRO = sorted((ROOT / "tools" / "micro").glob("*.cu"))


def test_tf32_is_a_type_of_a_problem() -> None:
    asked = problems.GpuProblem.parse("lstm:t4,b2,i3,h5,tf32,train", "grid")
    assert str(asked) == "lstm:t4,b2,i3,h5,tf32,train"
    assert asked.name == "lstm:t4,b2,i3,h5,tf32,train grid"
    assert (asked.problem.dtype, asked.tolerance_type, asked.type_name) == (torch.float32, torch.float16, "tf32")


def allows_tf32() -> bool:
    return torch.backends.cudnn.allow_tf32


def test_settings_are_made_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(problems.SCHEDULE_VARIABLE, "grid")
    before = allows_tf32()
    with problems.GpuProblem.parse("lstm:t4,b2,i3,h5,f32,infer").settings():
        assert problems.SCHEDULE_VARIABLE not in os.environ
        assert not allows_tf32()
    with problems.GpuProblem.parse("lstm:t4,b2,i3,h5,tf32,infer", "cluster").settings():
        assert os.environ[problems.SCHEDULE_VARIABLE] == "cluster"
        assert allows_tf32()
    assert os.environ[problems.SCHEDULE_VARIABLE] == "grid"
    assert allows_tf32() == before


def every_listed_problem() -> list[list[str]]:
    checked = [grid.checked_problems(schedule) for schedule in stages.SCHEDULES]
    forced = [f"{text} {schedule}" for text, schedule in grid.forced_problems()]
    return [grid.timed_problems(), grid.baseline_problems(), forced, *checked]


def test_a_packed_problem_is_one_with_an_option_and_its_results_agree_with_float64() -> None:
    text = "lstm:t1024,b3,i4,h5,packed,f32,train"
    asked = problems.GpuProblem.parse(text)
    assert (asked.packed, asked.problem.batch, str(asked)) == (True, 3, text)
    error, lines = stage_bench.verify(asked, "cpu")
    assert lines == []
    assert 0.0 < error < 1e-5


def test_the_grid_of_the_processor_is_one_of_problems_of_both_modes() -> None:
    listed = [text for hidden in stage_cpu.HIDDEN for text in stage_cpu.problems(hidden)]
    assert {problems.GpuProblem.parse(text).problem.mode for text in listed} == {"infer", "train"}
    assert len(set(listed)) == len(listed) == 18


@pytest.mark.parametrize("case", peers.CASES["flashrnn"][:2], ids=lambda case: case.name)
def test_what_peers_are_compared_with_runs(case: peers.Case) -> None:
    output, *_ = peers.ours(case, "cpu", time_steps=2)()
    assert output.shape[:2] == (2, peers.BATCH)
    assert output[0, 0].numel() == peers.SIZE


@pytest.mark.parametrize(
    ("installed", "reasons"),
    [(False, ["xlstm is not installed"]), (True, ["xlstm: it broke off"])],
)
def test_a_peer_that_is_not_there_or_breaks_off_is_skipped(
    installed: bool, reasons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    work: Any = SimpleNamespace(part="xlstm", left=9.0, record=lambda **record: found.append(record))
    monkeypatch.setattr(stage_peers, "find_spec", lambda _: installed or None)
    monkeypatch.setattr(stage_peers, "run_logged", lambda *_: (1, "Segmentation fault\n"))
    assert stage_peers.run(work) == 0
    assert [(record["status"], record["reason"]) for record in found] == [("skipped", reason) for reason in reasons]


def test_every_listed_problem_is_one_and_none_is_listed_twice() -> None:
    for listed in every_listed_problem():
        assert len(set(listed)) == len(listed)
        for text in listed:
            assert str(problems.GpuProblem.parse(text.split()[0])) == text.split()[0]


def test_both_modes_of_a_timed_size_follow_each_other() -> None:
    listed = grid.timed_problems()
    assert all(one.replace(",infer", ",train") == two for one, two in zip(listed[::2], listed[1::2], strict=True))


def test_every_cell_and_type_is_checked_and_float64_by_per_step_alone() -> None:
    for schedule in stages.SCHEDULES:
        asked = [problems.GpuProblem.parse(text) for text in grid.checked_problems(schedule)]
        types = {"f32", "tf32", "bf16", "f16"} | ({"f64"} if schedule == "per_step" else set())
        seen = {(one.problem.cell, one.type_name, one.problem.mode) for one in asked}
        assert seen == {(cell, name, mode) for cell in grid.CELLS for name in types for mode in ("infer", "train")}


def test_the_limit_is_that_of_the_table() -> None:
    assert grid.limit("lstm", 1024, 128, "bf16") == 2.76
    assert grid.limit("lstm", 512, 2, "bf16") is None
    assert grid.limit("gru", 512, 1, "bf16") is None


# Checks and timing, on the CPU


@pytest.mark.parametrize("type_name", ["f32", "bf16", "tf32"])
@pytest.mark.parametrize("cell", grid.CELLS)
def test_the_correctness_check_accepts_right_kernels(cell: str, type_name: str) -> None:
    asked = problems.GpuProblem.parse(f"{cell}:t5,b3,i4,h9,bi,{type_name},train")
    case = stage_correctness.draw(asked)
    found = stage_correctness.check(asked, case, stage_correctness.exact_results(case), "cpu")
    assert found["status"] == "ok", found
    assert 0 < found["error_gradients"] < 0.1


class WrongLSTM(fused_rnn.LSTM):
    """Its last cell state is off by one."""

    def forward(self, input: Any, hx: Any = None, **options: Any) -> Any:  # noqa: A002 - torch.nn's name
        output, (h_n, c_n) = super().forward(input, hx, **options)
        return output, (h_n, c_n + 1.0)


class RestlessLSTM(fused_rnn.LSTM):
    """Its output changes by a rounding error from call to call."""

    calls = itertools.count()

    def forward(self, input: Any, hx: Any = None, **options: Any) -> Any:  # noqa: A002 - torch.nn's name
        output, state = super().forward(input, hx, **options)
        return output * (1.0 + next(self.calls) % 2 * 2e-7), state


@pytest.mark.parametrize(("layer", "failure"), [(WrongLSTM, "c_n: error "), (RestlessLSTM, "3 runs differ")])
def test_the_correctness_check_rejects_wrong_kernels(
    layer: type[torch.nn.Module], failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SimpleNamespace(LSTM=layer)
    asked = problems.GpuProblem.parse("lstm:t5,b3,i4,h9,f32,infer")
    case = stage_correctness.draw(asked)
    monkeypatch.setattr(stage_correctness, "fused_rnn", wrong)
    found = stage_correctness.check(asked, case, stage_correctness.exact_results(case), "cpu")
    assert found["status"] == "failed"
    assert found["failures"][0].startswith(failure)


def test_a_schedule_that_was_forced_but_did_not_run_is_a_failure() -> None:
    asked = problems.GpuProblem.parse("lstm:t5,b3,i4,h9,f32,infer", "cluster")
    case = stage_correctness.draw(asked)
    found = stage_correctness.check(asked, case, stage_correctness.exact_results(case), "cpu")
    assert found["failures"][0].startswith("explain names ")


def test_runs_of_other_bits_are_told_apart() -> None:
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0000002])
    assert stage_correctness.same_bits({"h": one}, {"h": one.clone()})
    assert not stage_correctness.same_bits({"h": one}, {"h": other})
    assert 0 < stage_graph.largest_difference({"h": one}, {"h": other}) < 1e-6


def test_relu_cases_far_from_kinks_have_both_sides() -> None:
    asked = problems.GpuProblem.parse("rnn_relu:t9,b5,i33,h65,bi,bf16,train")
    case = stage_correctness.draw(asked)
    output = oracle(case, with_state=True)["output"]
    assert (output == 0).any()
    assert output[output > 0].min() > 0.1


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        (
            "fused_rnn: no CUDA schedule for lstm T=5 B=9 D=1 H=1030; cluster: needs at least 33 blocks, may have 16",
            True,
        ),
        ("mat1 and mat2 shapes cannot be multiplied (9x4 and 5x4)", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("fused_rnn: cudaLaunchKernelEx: too many resources requested for launch", False),
    ],
)
def test_refusals_are_told_from_errors_of_cuda(message: str, refused: bool) -> None:
    assert stage_correctness.is_refusal(RuntimeError(message)) == refused
    assert not stage_correctness.is_refusal(AssertionError(message))


def test_the_benchmark_verifies_what_it_times() -> None:
    error, lines = stage_bench.verify(problems.GpuProblem.parse("gru:t1024,b2,i8,h8,f32,train"), "cpu")
    assert lines == []
    assert 0 < error < TOLERANCES[torch.float32].gradients


def test_long_sequences_are_compared_with_float64() -> None:
    asked = problems.GpuProblem.parse("lstm:t70,b1,i4,h8,f32,train")
    case = Case.draw(asked.problem)
    found = stage_graph.check_long(asked, case, oracle(case, with_state=True), "cpu")
    assert found["status"] == "ok", found


@pytest.mark.parametrize("kernels", tiny.KERNELS, ids=str)
def test_the_tiny_problems_of_the_sanitizer_are_valid(kernels: tiny.Kernels) -> None:
    for shape in tiny.SHAPES:
        tiny.run_ops(kernels, shape, "cpu")


def test_tasks_are_timed_in_turns_after_a_warm_up() -> None:
    calls: list[str] = []

    def sample(task: Callable[[], object], repeats: int) -> float:
        for _ in range(repeats):
            task()
        return 2e-3

    timings = events.measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.0, sample)
    assert "".join(calls) == "aabb" + "aabb" + "bbaa" + "aabb"  # two calls make a sample of four milliseconds
    assert timings["a"].samples == (2e-3,) * events.LEAST_ROUNDS
    assert events.microseconds(timings["a"], 1000) == {"min": 2.0, "median": 2.0}


# The micro programs


@pytest.mark.skipif(machine.find_program("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", MICRO, ids=lambda path: path.stem)
def test_micro_programs_compile_and_link_without_warnings(source: Path, tmp_path: Path) -> None:
    nvcc = machine.find_program("nvcc")
    assert nvcc is not None
    if source != MICRO[0] and cuda_record.has_micro_programs():
        pytest.skip("tests/cuda_kernels.json is of these programs: they were compiled before")
    command = stage_micro.compile_command(nvcc, source, tmp_path / "micro", "9.0a")
    quick = ["-Xcompiler", "-O0"]
    done = subprocess.run([*command, *quick], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""


@pytest.mark.skipif(machine.find_program("nvcc") is None, reason="no nvcc")
def test_the_program_that_times_shapes_links_with_the_built_kernels(tmp_path: Path) -> None:
    nvcc, objects = machine.find_program("nvcc"), stage_shapes.built_objects()
    assert nvcc is not None
    if not fused_rnn.build_info()["cuda"].startswith("1"):
        pytest.skip("the kernels are not built")
    program = tmp_path / "shape_times"
    command = [*stage_shapes.compile_command(nvcc, program, objects, "9.0a"), "-Xptxas", "-O0", "-Xcompiler", "-O0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([program], capture_output=True, text=True, check=False).stderr.startswith(
        "usage: shape_times"
    )


def test_shapes_are_summed_up_by_problem() -> None:
    def line(schedule: str, us: float, model: float, hidden: int = 64, *, verified: bool = True) -> dict[str, Any]:
        problem = {"cell": "gru", "type": "bf16", "pass": "fwd", "hidden": hidden, "batch": 8}
        shape = {"schedule": schedule, "splits": 4, "column_tiles": 1, "us_min": us, "model_us": model}
        return {**problem, **shape, "verified": verified}

    lines = [
        line("grid", 2.0, 2.5),
        line("cluster", 1.5, 3.0),
        {"skipped": "no"},
        line("grid", 3.0, 3.0, 512, verified=False),
    ]
    first, second = stage_shapes.summaries(lines)
    assert (first["case"], first["status"], first["shapes"]) == ("gru bf16 fwd H=64 B=8", "ok", 2)
    assert (first["best"], first["best_us"], first["chosen"], first["chosen_us"]) == (
        "cluster 4x1",
        1.5,
        "grid 4x1",
        2.0,
    )
    assert (second["status"], second["best"]) == ("failed", "grid 4x1")


def test_shapes_of_small_block_are_named_by_their_rows_and_what_did_not_run_is_told() -> None:
    shape = {"schedule": "small_block", "splits": 0, "column_tiles": 0, "rows": 4, "us_min": 0.5, "model_us": 0.6}
    problem = {"cell": "lstm", "type": "f32", "pass": "back", "hidden": 64, "batch": 8, "verified": True}
    refused = {"skipped": "cudaLaunchKernelEx: too many resources requested"}
    (found,) = stage_shapes.summaries([{**problem, **shape}, refused])
    assert found["best"] == found["chosen"] == "small_block 4 rows"
    (told,) = stage_shapes.not_run([refused, {**problem, **shape}, refused])
    assert (told["status"], told["reason"]) == ("refused", f"2 shapes: {refused['skipped']}")


def test_micro_kernels_are_right_in_the_emulator(tmp_path: Path) -> None:
    emulator = ROOT / "tests" / "cuda_on_cpu"
    folders = [emulator, emulator.parent / "native", ROOT / "tools" / "micro"]
    flags = [word for folder in folders for word in ("-I", str(folder))]
    flags += ["-Wno-unknown-pragmas", '-DFUSED_RNN_EMULATED_DEVICE="emulated_device.h"']
    sources = [str(emulator / "test_micro.cpp"), str(emulator / "emulator.cpp")]
    program = native.compile_cpp([*native.common_flags(), "-O1", *flags, *sources], tmp_path / "test_micro")
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=native.PATIENCE, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
