"""The kept runs are small, and tables and pictures are those of the kept runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bench.saved import rows_of
from tools import performance_tables as tables

if TYPE_CHECKING:
    from pathlib import Path

GRID = {
    "lstm:t100,b1,i64,h64,f32,infer": 4.0,
    "lstm:t100,b8,i64,h64,f32,infer": 1.0,
    "lstm:t100,b1,i512,h512,f32,train": 12.5,
}
ENVIRONMENT = {
    "processor": "P",
    "threads": 2,
    "torch": "2.13.0",
    "build: active_instruction_set": "avx2",
    "commit": "c",
    "date": "d",
}
LARGEST = 400_000  # bytes of bench/results


def peer(seconds: float) -> dict[str, Any]:
    errors = {"output": 1.23456e-7, "h_n": 2e-8}
    return {"errors": errors, "minimum_s": seconds, "median_s": 2 * seconds, "samples": 5, "gflops": 1.0}


def row(text: str, ratio: float) -> dict[str, Any]:
    return {
        "problem": text,
        "flops": 100,
        "verified": True,
        "failures": [],
        "notes": [],
        "refusals": {},
        "peers": {"torch": peer(ratio * 1e-3), "fused": peer(1e-3)},
        "ratio_minimum": ratio,
    }


def run_of(ratios: dict[str, float]) -> dict[str, Any]:
    problems = [row(text, ratio) for text, ratio in ratios.items()]
    problems.append(row("lstm:t100,b2,i64,h64,f32,infer", 9.0) | {"verified": False, "failures": ["wrong"]})
    return {"environment": ENVIRONMENT, "peers": {"torch": "", "fused": ""}, "problems": problems}


def test_what_is_kept_fits_and_has_each_problem_once() -> None:
    assert sum(path.stat().st_size for path in tables.RESULTS.iterdir()) <= LARGEST
    for name, run in tables.kept_runs().items():
        problems = [each["problem"] for each in run.get("problems", ())]
        assert len(problems) == len(set(problems)), name


def test_the_tables_are_those_of_the_runs_beside_them() -> None:
    assert (tables.RESULTS / tables.TABLES).read_text() == tables.tables(tables.kept_runs())


def test_the_page_has_the_means_of_the_runs() -> None:
    runs, page = tables.kept_runs(), (tables.ROOT / "docs" / "performance.md").read_text()
    assert tables.means_table(runs) in page
    for threads in tables.THREADS:
        rows = rows_of(runs[tables.GRIDS.format(threads=threads, cell="lstm")])
        assert tables.regime_table(rows) in page


@pytest.mark.parametrize("cell", tables.CELLS)
def test_a_picture_shows_the_kept_runs(cell: str) -> None:
    assert tables.digest(tables.kept_runs(), cell).encode() in tables.picture(cell).read_bytes()


def test_a_run_is_kept_with_one_row_a_line_and_nothing_that_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("RESULTS", "PICTURES"):
        monkeypatch.setattr(tables, folder, tmp_path / folder)
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(tables, "CELLS", ("lstm",))
    for name in ("cpu-epyc4-2threads-lstm-full", "cpu-epyc4-1thread-lstm-full"):
        (tmp_path / f"{name}.json").write_text(json.dumps(run_of(GRID)))
    monkeypatch.setattr("sys.argv", ["performance_tables", *map(str, tmp_path.glob("*.json"))])
    assert tables.main() == 0
    text = (tmp_path / "RESULTS" / "cpu-epyc4-2threads-lstm-full.json").read_text()
    problem = json.loads(text)["problems"][0]
    assert json.dumps(problem, separators=(",", ":")) in text.replace(",\n", "\n").splitlines()
    assert problem.keys() == {"problem", "verified", "peers", "ratio_minimum"}
    assert problem["peers"]["fused"] == {"minimum_s": 0.001, "median_s": 0.002, "error": 1.235e-07}
    assert json.loads(text)["problems"][-1]["failures"] == ["wrong"]
    assert (tmp_path / "RESULTS" / tables.TABLES).read_text() == tables.tables(tables.kept_runs())
    assert tables.picture("lstm").read_bytes().startswith(b"\x89PNG")


def test_a_kept_run_is_kept_as_it_is() -> None:
    once = tables.kept(run_of(GRID))
    assert tables.kept(once) == once


def test_an_error_that_is_not_finite_stays() -> None:
    assert tables.kept_peer({"errors": {"output": 1.0, "h_n": "not finite"}}) == {"error": "not finite"}


def test_rows_are_those_that_were_verified() -> None:
    assert [(str(found.problem), found.ratio) for found in rows_of(run_of(GRID))] == list(GRID.items())


def test_means_grids_and_named_rows() -> None:
    rows = rows_of(run_of(GRID))
    assert "| H <= 64 | 2.00x | - |" in tables.regime_table(rows)
    assert "| H >= 512, B <= 2 | - | 12.5x |" in tables.regime_table(rows)
    assert tables.grid_table(tables.grid_of(rows, training=False)).splitlines()[-1] == "| H = 64 | 4.00x | 1.00x |"
    assert tables.grid_table(tables.grid_of(rows, training=True)).splitlines()[-1] == "| H = 512 | 12.5x |"
    assert tables.below(rows) == "Below 1.1x: 1 of 3.\n\n- `lstm:t100,b8,i64,h64,f32,infer` 1.00x"


def test_a_problem_is_held_against_the_fastest_other() -> None:
    run = run_of({"gru:t100,b1,i64,h64,f32,infer": 4.0})
    run["peers"]["jax"] = ""
    run["problems"][0]["peers"]["jax"] = peer(2e-3)
    assert "| `gru:t100,b1,i64,h64,f32,infer` | 4 | 1 | 2 | 2.00x (jax) |" in tables.peers_table(run)


def test_another_argument_gets_the_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["performance_tables", "lstm=run"])
    assert tables.main() == 2
    assert "Usage" in capsys.readouterr().err
