"""Verification, means and the written report, from problems small enough to run here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from bench.case import Case, ModuleRun, Results
from bench.charts import Bar, ratio_chart, ticks
from bench.environment import describe
from bench.peers import Peer, chosen
from bench.problems import CELLS, Problem
from bench.regimes import regimes
from bench.report import parity_table, problem_lines, run_json, speed_table, write_json, write_report
from bench.runner import Row, geometric_means, run_problem, thread_count
from bench.table import Table, to_csv
from bench.timing import Timing
from bench.verify import TOLERANCES, Errors, failures, relative_error

if TYPE_CHECKING:
    from pathlib import Path

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Wrong(ModuleRun):
    """torch.nn with one gradient (in training) or the output (in inference) off by a little."""

    def __init__(self, case: Case) -> None:
        super().__init__(torch.nn, case)

    def results(self, *, with_state: bool) -> Results:
        results = super().results(with_state=with_state)
        name = "d_weight_hh_l0" if "d_weight_hh_l0" in results else "output"
        return results | {name: results[name] * 1.001}


def timed_row(problem: str, torch_seconds: float, fused_seconds: float) -> Row:
    timings = {"torch": Timing((torch_seconds,)), "fused": Timing((fused_seconds,))}
    return Row(Problem.parse(problem), 1, timings=timings)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    texts = [f"{cell}:t3,b2,i4,h5,f32,{mode}" for cell in CELLS for mode in ("infer", "train")]
    texts += [
        "lstm:t3,b2,i4,h5,l2,bi,p3,f32,train",
        "rnn_relu:t3,b2,i4,h5,l2,bi,f32,train",
        "gru:t3,b2,i4,h5,f64,train",
    ]
    with thread_count(1):
        found = [run_problem(Problem.parse(text), 1e-3) for text in texts]
    return [replace(row, noise=None) for row in found]  # the machine may be busy


def test_every_cell_and_mode_is_verified_and_timed(rows: list[Row]) -> None:
    assert problem_lines(rows) == []
    for row in rows:
        assert row.timings.keys() == {"torch", "fused"}
        assert row.ratio_minimum is not None
        assert row.gflops("fused") > 0.0


def test_all_gradients_are_compared(rows: list[Row]) -> None:
    by_problem = {str(row.problem): row.errors["fused"].by_name for row in rows}
    lstm = by_problem["lstm:t3,b2,i4,h5,f32,train"]
    parameters = {f"d_{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    assert lstm.keys() == {"output", "h_n", "c_n", "d_x", "d_h_0", "d_c_0"} | parameters
    assert by_problem["gru:t3,b2,i4,h5,f32,infer"].keys() == {"output", "h_n"}


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_wrong_result_fails_the_problem_and_is_not_timed(mode: str) -> None:
    peers = {**chosen(), "fused": Peer("fused", "a wrong one", Wrong)}
    row = run_problem(Problem.parse(f"lstm:t3,b2,i4,h5,f32,{mode}"), 1e-3, peers)
    assert not row.verified
    assert not row.timings
    assert row.failures[0].startswith("d_weight_hh_l0: error 1.0e-03" if mode == "train" else "output: error 1.0e-03")
    assert "FAILED" in parity_table([row]).to_markdown()


def test_an_implementation_that_raises_fails_the_problem_but_another_peer_is_only_noted() -> None:
    def refuse(_case: Case) -> ModuleRun:
        raise NotImplementedError("no such cell\nhere")

    problem = Problem.parse("gru:t3,b2,i4,h5,f32,train")
    failed = run_problem(problem, 1e-3, {**chosen(), "fused": Peer("fused", "", refuse)})
    assert failed.failures == ["fused cannot run it: NotImplementedError: no such cell"]
    noted = run_problem(problem, 1e-3, {**chosen(), "torch": Peer("torch", "", refuse)})
    assert noted.verified
    assert noted.notes == ["torch cannot run it: NotImplementedError: no such cell"]
    assert noted.ratio_minimum is None


def test_an_error_is_relative_to_the_largest_exact_value() -> None:
    exact = torch.tensor([1.0, -4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([1.0, -4.5]), exact) == 0.125
    assert relative_error(torch.tensor([math.nan, -4.0]), exact) == math.inf
    assert relative_error(torch.tensor([1.0]), exact) == math.inf
    assert relative_error(torch.zeros(0), torch.zeros(0, dtype=torch.float64)) == 0.0


def test_a_missing_result_is_infinitely_wrong() -> None:
    errors = Errors()
    errors.add({}, {"output": torch.zeros(1)})
    assert failures(errors, None, TOLERANCES[torch.float32])


def test_twice_the_baseline_error_is_allowed_where_it_is_above_the_tolerance() -> None:
    limit = TOLERANCES[torch.float32][1]
    ours, theirs = Errors({"d_x": 6 * limit}), Errors({"d_x": 4 * limit})
    assert failures(ours, theirs, TOLERANCES[torch.float32]) == []
    assert failures(ours, Errors({"d_x": 2 * limit}), TOLERANCES[torch.float32])
    assert failures(ours, None, TOLERANCES[torch.float32])
    assert failures(Errors({"d_x": math.inf}), Errors({"d_x": math.inf}), TOLERANCES[torch.float32])


def test_a_relu_case_keeps_away_from_the_kink() -> None:
    problem = Problem.parse("rnn_relu:t20,b4,i16,h32,bi,l2,f32,train")
    first, again = Case.draw(problem), Case.draw(problem)
    assert torch.equal(first.x, again.x)


def test_drawing_a_case_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    Case.draw(Problem.parse("lstm:t2,b2,i2,h2,f32,train"))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lstm:t100,b1,i64,h64,f32,train", ["lstm train", "lstm train H <= 64"]),
        ("lstm:t100,b4,i128,h128,f32,infer", ["lstm infer", "lstm infer H 128..256, B <= 4"]),
        ("lstm:t100,b8,i128,h256,f32,infer", ["lstm infer", "lstm infer H 128..256, B >= 8"]),
        ("lstm:t100,b8,i128,h512,f32,infer", ["lstm infer", "lstm infer H >= 512, B >= 4"]),
        ("lstm:t100,b8,i128,h100,f32,infer", ["lstm infer"]),
        ("lstm:t100,b8,i128,h512,bf16,infer", ["lstm infer bf16"]),
        ("rnn_relu:t100,b8,i128,h512,f32,train", ["rnn train"]),
    ],
)
def test_regimes_are_cell_mode_and_size(text: str, names: list[str]) -> None:
    assert regimes(Problem.parse(text)) == names


def test_means_are_geometric_per_regime_and_over_all() -> None:
    fast = timed_row("gru:t1,b1,i1,h1,f32,train", 4.0, 1.0)
    slow = timed_row("gru:t2,b1,i1,h1,f32,train", 1.0, 1.0)
    other = timed_row("rnn_tanh:t1,b1,i1,h1,f32,train", 1.0, 4.0)
    unmeasured = Row(Problem.parse("lstm:t1,b1,i1,h1,f32,train"), 1)
    means = {mean.regime: mean for mean in geometric_means([fast, slow, other, unmeasured])}
    assert list(means) == ["gru train", "rnn train", "all"]
    assert means["gru train"].ratio_minimum == pytest.approx(2.0)
    assert means["all"].ratio_median == pytest.approx(1.0)
    assert means["all"].problems == 3


def test_a_noisy_row_is_marked_told_and_left_out_of_the_means() -> None:
    quiet = timed_row("gru:t1,b1,i1,h1,f32,train", 4.0, 1.0)
    noisy = replace(timed_row("gru:t2,b1,i1,h1,f32,train", 393.0, 1.0), noise="torch got 0.40 of a core")
    (mean, _) = geometric_means([quiet, noisy])
    assert mean.problems == 1
    assert mean.ratio_minimum == pytest.approx(4.0)
    table = speed_table([quiet, noisy])
    assert [row[-1] for row in table.rows] == ["4.00x", "393.00x*"]
    assert table.note.endswith("*: noisy, left out of the means.")
    first, last = problem_lines([quiet, noisy])
    assert first == "noisy gru:t2,b1,i1,h1,f32,train: torch got 0.40 of a core"
    assert last.startswith("noisy: 1 of 2 rows, marked *, are left out of the means")


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0.8, 2.9, [1.0, 2.0]),
        (0.7, 30.0, [1.0, 2.0, 5.0, 10.0, 20.0]),
        (0.05, 10.0, [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]),
        (0.05, 400.0, [0.1, 1.0, 10.0, 100.0]),
        (1e-6, 1e6, [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6]),
    ],
)
def test_an_axis_has_at_most_eight_marks_at_1_2_and_5(low: float, high: float, marks: list[float]) -> None:
    assert ticks(low, high) == marks


def test_a_chart_marks_what_is_noisy(tmp_path: Path) -> None:
    problem = Problem.parse("gru:t1,b1,i1,h1,f32,train")
    ratio_chart([Bar(problem, 393.0, noisy=True), Bar(problem, 0.06)], tmp_path / "out.svg", "s")
    assert "<svg" in (tmp_path / "out.svg").read_text(encoding="utf-8")


def test_csv_has_a_line_for_each_row_and_a_dotted_name_for_what_is_nested() -> None:
    rows = [{"a": 1, "b": {"c": 2.5, "d": {"e": None}}, "notes": ["x", "y"]}, {"a": 3, "f": "g,h"}]
    assert to_csv(rows).splitlines() == ["a,b.c,b.d.e,notes,f", "1,2.5,,x; y,", '3,,,,"g,h"']


def test_without_timed_problems_there_are_no_means() -> None:
    assert geometric_means([]) == []


def test_markdown_has_a_line_for_each_row_and_escapes_bars() -> None:
    table = Table("t", ("a", "b"), [("x|y", "1")], note="n")
    assert table.to_markdown() == "| a | b |\n|---|---:|\n| x\\|y | 1 |\n\nn"


def test_the_speed_table_shows_every_peer_and_both_ratios() -> None:
    (row,) = speed_table([timed_row("lstm:t1,b1,i1,h1,f32,infer", 3e-3, 2e-3)]).rows
    assert row == ("lstm:t1,b1,i1,h1,f32,infer", "3", "3", "0.0", "2", "2", "0.0", "1.50x", "1.50x")


def test_the_environment_says_what_a_measurement_depends_on() -> None:
    environment = describe()
    assert environment.keys() >= {"processor", "cores", "threads", "torch", "fused_rnn", "commit", "date"}
    assert any(key.startswith("build: ") for key in environment)


def test_the_report_folder_holds_tables_figures_and_chart(rows: list[Row], tmp_path: Path) -> None:
    path = write_report(tmp_path, describe(), rows, 1e-3)
    text = path.read_text(encoding="utf-8")
    assert all(str(row.problem) in text for row in rows)
    assert "](speed.png)" in text
    assert (tmp_path / "speed.png").read_bytes().startswith(PNG_SIGNATURE)
    data = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    first = data["problems"][0]
    assert first["verified"]
    assert first["peers"]["fused"]["minimum_s"] <= first["peers"]["fused"]["median_s"]
    assert data["geometric_means"][-1]["regime"] == "all"


def test_a_failed_row_is_valid_json_and_charts_nothing(tmp_path: Path) -> None:
    row = Row(Problem.parse("lstm:t1,b1,i1,h1,f32,infer"), 1, errors={"fused": Errors({"output": math.inf})})
    write_json(tmp_path / "out.json", run_json(describe(), [row], 1.0))
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert data["problems"][0]["peers"]["fused"]["errors"]["output"] == "not finite"
    ratio_chart([], tmp_path / "out.png", "nothing timed")
    assert (tmp_path / "out.png").read_bytes().startswith(PNG_SIGNATURE)
