"""The pieces of `make perf-check`: its programs run, and its judgement is right. Nothing here asserts a speed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from build_support import native
from tools import perf_check
from tools.perf_check import FLOOR, MARGIN, Tile

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

WIDEST = native.runnable_instruction_sets()[-1]
SCHEDULES = ["forward_sweep", "backward_sweep", "row_forward", "row_backward", "diagonal_forward", "diagonal_backward"]
SCHEDULES += ["input_gates", "single_step", "packed_step", "weight_gradients"]
PLAINLY = "-O0"  # compiles sooner, where nothing is counted or held to a speed


def test_every_tile_is_timed_beside_the_peak(tmp_path: Path) -> None:
    tiles = perf_check.tile_speeds(perf_check.build("tile_speed", WIDEST, tmp_path, PLAINLY), rounds=1)
    flags = native.processor_flags()
    in_pairs = "bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in flags)
    types = ["float", "double", *(["pairs"] if in_pairs else [])]
    assert {tile.name.split("x")[0] for tile in tiles} == {f"{t} {c}" for t in types for c in (2, 3, 4)}
    assert len({tile.name for tile in tiles}) == len(tiles)
    assert all(tile.gflops > 0.0 for tile in tiles)


def test_every_schedule_runs_its_problem(tmp_path: Path) -> None:
    program = perf_check.build("schedule_counts", WIDEST, tmp_path, PLAINLY)
    names = perf_check.schedules(program)
    assert names == SCHEDULES
    problems = {name: perf_check.run_schedule(program, name).stdout for name in names}
    assert [name for name, text in problems.items() if "layer_norm" in text] == ["row_forward", "row_backward"]
    backward = ["backward_sweep", "row_backward", "diagonal_backward", "weight_gradients"]
    assert [name for name, text in problems.items() if "backward" in text] == backward


def test_the_program_that_counts_has_every_schedule() -> None:
    folder = native.ROOT / "csrc/cpu/schedules"
    seen, left = set[str](), [perf_check.SOURCES / "schedule_counts.cpp"]
    while left:
        text = left.pop().read_text(encoding="utf-8")
        names = set(re.findall(r'^#include "cpu/schedules/(\w+\.h)"', text, re.MULTILINE)) - seen
        seen |= names
        left += [folder / name for name in names]
    assert seen == {path.name for path in folder.glob("*.h")}


def test_a_tile_fails_below_its_floor_alone() -> None:
    tiles = [Tile("a", 1.0, FLOOR * 0.8 - 0.01), Tile("b", 1.0, FLOOR * 0.8), Tile("new", 1.0, 0.01)]
    (line,) = perf_check.slow_tiles(tiles, {"a": 0.8, "b": 0.8})
    assert line.startswith("a: 0.39 of the peak, floor 0.40")


def test_a_count_fails_above_its_margin_alone() -> None:
    most = int(1000 * (1.0 + MARGIN))
    (line,) = perf_check.grown_counts({"a": most + 1, "b": most, "c": 1, "new": 9}, {"a": 1000, "b": 1000, "c": 1000})
    assert line == "a: 1,011 instructions, +1.1% of the recorded 1,000"
    assert perf_check.unrecorded(["a", "new"], ["a"]) == ["new"]


def test_without_valgrind_counting_is_skipped_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tools.perf_check.shutil.which", lambda _name: None)
    check = perf_check.Check({"tile_shares": {}, "instructions": {}}, tmp_path)
    check.counts()
    assert "SKIPPED" in capsys.readouterr().out
    assert check.failures == []


def test_what_is_recorded_is_shares_and_counts() -> None:
    recorded = json.loads(perf_check.EXPECTED.read_text(encoding="utf-8"))
    assert recorded.keys() == {"tile_shares", "instructions"}
    for shares in recorded["tile_shares"].values():
        assert all(0.0 < share < 1.1 for share in shares.values())
    for counts in recorded["instructions"].values():
        assert [name.split(":")[0] for name in counts] == SCHEDULES
