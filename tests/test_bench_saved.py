"""Runs that were written: two are compared, and one is drawn as a heat map."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from bench.commands import cli
from bench.compare import compare, lines, tables
from bench.heat_map import grids_of
from bench.saved import rows_of

if TYPE_CHECKING:
    from pathlib import Path

SMALL, LARGE, GRU = (
    "lstm:t100,b1,i64,h64,f32,train",
    "lstm:t100,b4,i128,h128,f32,train",
    "gru:t100,b1,i64,h64,f32,train",
)


def row(problem: str, fused: float | None, torch: float = 8.0, noise: str | None = None) -> dict[str, Any]:
    peers = {"torch": {"minimum_s": torch}, "fused": {} if fused is None else {"minimum_s": fused}}
    ratio = None if fused is None else torch / fused
    return {"problem": problem, "verified": True, "noise": noise, "peers": peers, "ratio_minimum": ratio}


def run_of(*rows: dict[str, Any], **environment: Any) -> dict[str, Any]:
    return {"environment": {"processor": "P", "threads": 2} | environment, "problems": list(rows)}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    runs = {"old": run_of(row(SMALL, 4.0), row(GRU, 1.0)), "new": run_of(row(SMALL, 2.0), row(LARGE, 1.0))}
    for name, run in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    return [str(tmp_path / f"{name}.json") for name in runs]


def test_a_ratio_is_the_old_time_over_the_new() -> None:
    found = compare(run_of(row(SMALL, 4.0)), run_of(row(SMALL, 2.0, torch=10.0)))
    assert [(pair.problem, pair.ratio, pair.torch_ratio) for pair in found.pairs] == [(SMALL, 2.0, 0.8)]
    assert tables(found)[0].rows == [(SMALL, "4000", "2000", "2.00x", "0.80x")]


def test_means_are_geometric_and_of_the_quiet_pairs() -> None:
    old = run_of(row(SMALL, 4.0), row(LARGE, 1.0), row(GRU, 9.0, noise="busy"))
    found = compare(old, run_of(row(SMALL, 1.0), row(LARGE, 1.0), row(GRU, 1.0)))
    regimes = ["lstm train", "lstm train H 128..256, B <= 4", "lstm train H <= 64", "all"]
    assert [(mean.regime, mean.problems) for mean in found.means] == list(zip(regimes, (2, 1, 1, 2), strict=True))
    assert [mean.ratio for mean in found.means] == pytest.approx([2.0, 1.0, 4.0, 2.0])
    assert tables(found)[0].rows[2][3] == "9.00x*"
    assert lines(found) == [f"noisy {GRU}: OLD: busy"]


def test_what_one_run_lacks_and_where_they_ran_is_told() -> None:
    old = run_of(row(SMALL, 4.0), row(GRU, None))
    found = compare(old, run_of(row(LARGE, 2.0), row(GRU, 1.0), threads=1))
    assert not found.pairs
    assert not found.means
    assert lines(found) == [
        "differs threads: 2 in OLD, 1 in NEW",
        f"missing {SMALL}: not in NEW",
        f"missing {GRU}: not timed in OLD",
        f"missing {LARGE}: not in OLD",
    ]


def test_the_command_compares_two_files(files: list[str]) -> None:
    result = CliRunner().invoke(cli, ["compare", *files, "--output", "json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert [pair["ratio"] for pair in data["compared"]] == [2.0]
    assert data["missing"] == [f"{GRU}: not in NEW", f"{LARGE}: not in OLD"]
    assert "missing" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"features": []}', '{"problems": [1]}', '{"problems": [{}]}'),
        '{"problems": [{"problem": "x", "verified": true, "peers": {}}]}',
        json.dumps({"problems": [{"problem": SMALL, "verified": True, "peers": {"fused": {"minimum_s": 0}}}]}),
        '{"problems": [], "environment": null}',
    ],
)
def test_a_file_that_is_no_run_is_one_line_and_exit_code_2(content: str, files: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(content)
    for arguments in (["compare", files[0], str(wrong)], ["heatmap", str(wrong), str(tmp_path / "a.svg")]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2
        assert "wrong.json" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_heat_map_has_a_panel_for_each_kind_of_problem(files: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "map.svg"
    result = CliRunner().invoke(cli, ["heatmap", files[0], str(picture)])
    assert result.stdout == f"2 panels: {picture}\n"
    assert "<svg" in picture.read_text(encoding="utf-8")


def test_a_heat_map_names_the_noisy_problems_that_it_leaves_out(tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    run.write_text(json.dumps(run_of(row(SMALL, 4.0), row(LARGE, 2.0, noise="busy"))))
    result = CliRunner().invoke(cli, ["heatmap", str(run), str(tmp_path / "map.svg")])
    assert result.exit_code == 0
    assert result.stdout.startswith("1 panel: ")
    assert result.stderr == f"left out as noisy: {LARGE}\n"


def test_runs_without_a_common_problem_are_not_compared(tmp_path: Path) -> None:
    for name, problem in (("a", SMALL), ("b", LARGE)):
        (tmp_path / f"{name}.json").write_text(json.dumps(run_of(row(problem, 2.0))))
    result = CliRunner().invoke(cli, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert result.exit_code == 2
    assert "no problem in common" in result.stderr


def test_a_grid_has_the_ratios_by_size_and_batch_without_the_noisy() -> None:
    run = run_of(row(SMALL, 4.0), row(LARGE, 2.0), row(SMALL.replace("b1", "b2"), 1.0, noise="busy"))
    (grid,) = grids_of(rows_of(run))
    assert grid.name == "lstm, f32, training, T = 100, I = H"
    assert grid.ratios == {(64, 1): 2.0, (128, 4): 4.0}
    assert (grid.sizes, grid.batches) == ((64, 128), (1, 4))


@pytest.mark.parametrize("name", ["map.nothing", "map", "file/map.svg"])
def test_a_picture_that_cannot_be_written_is_one_line_and_exit_code_2(
    name: str, files: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(cli, ["heatmap", files[0], str(tmp_path / name)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
