"""The tables of docs/performance.md come from the JSON of runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tools import performance_tables as tables

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GRID = {
    "lstm:t100,b1,i64,h64,f32,infer": 4.0,
    "lstm:t100,b8,i64,h64,f32,infer": 1.0,
    "lstm:t100,b1,i512,h512,f32,train": 12.5,
}


def write_run(path: Path, ratios: dict[str, float]) -> str:
    problems = [{"problem": text, "ratio_minimum": ratio, "verified": True} for text, ratio in ratios.items()]
    problems.append({"problem": "lstm:t100,b2,i64,h64,f32,infer", "ratio_minimum": 9.0, "verified": False})
    path.write_text(json.dumps({"problems": problems}))
    return str(path)


def test_rows_are_those_that_every_run_has_and_verified(tmp_path: Path) -> None:
    first = write_run(tmp_path / "1.json", GRID)
    second = write_run(tmp_path / "2.json", dict(list(GRID.items())[:2]))
    assert [(str(row.problem), row.ratios) for row in tables.rows_of([first, second])] == [
        ("lstm:t100,b1,i64,h64,f32,infer", (4.0, 4.0)),
        ("lstm:t100,b8,i64,h64,f32,infer", (1.0, 1.0)),
    ]


def test_means_grids_and_named_rows(tmp_path: Path) -> None:
    rows = tables.rows_of([write_run(tmp_path / "1.json", GRID), write_run(tmp_path / "2.json", GRID)])
    assert "| H <= 64 | 2.00x / 2.00x | - |" in tables.regime_table(rows)
    assert "| H >= 512, B <= 2 | - | 12.50x / 12.50x |" in tables.regime_table(rows)
    assert tables.grid(rows, training=False).splitlines()[-1] == "| H = 64 | 4.00 / 4.00 | 1.00 / 1.00 |"
    assert tables.grid(rows, training=True).splitlines()[-1] == "| H = 512 | 12.5 / 12.5 |"
    assert tables.below(rows) == "1 of 3: `lstm:t100,b8,i64,h64,f32,infer` 1.00 / 1.00"


def test_without_runs_it_says_how_it_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["performance_tables"])
    assert tables.main() == 2
    assert "Usage" in capsys.readouterr().err
