"""The shares of the peak: what is counted, and the table. Nothing here asserts a speed."""

from __future__ import annotations

import pytest

from bench.timing import Timing
from tools import peak_share
from tools.peak_share import Share


def test_the_table_has_a_row_for_each_size_and_a_column_for_each_batch() -> None:
    shares = [Share(64, 1, 10.0, 0.251, 0.249), Share(64, 16, 30.0, 0.75, 0.7), Share(256, 16, 36.0, 0.9, 0.88)]
    assert peak_share.as_table(shares).splitlines() == [
        "| H | B = 1 | B = 16 |",
        "|---|---:|---:|",
        "| 64 | 25% (25%) | 75% (70%) |",
        "| 256 |  | 90% (88%) |",
    ]


def test_operations_are_those_of_both_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        peak_share, "measure", lambda tasks, _seconds, **_options: {name: Timing((2.0, 0.5, 1.0)) for name in tasks}
    )
    peaks = iter([40.0, 80.0])
    share = peak_share.share_of(8, 4, 0.0, lambda: next(peaks))
    gflop = 100 * 4 * (4 * 8) * (8 + 8) * 2e-9
    assert share.gflops == pytest.approx(gflop / 0.5)
    assert share.of_peak == pytest.approx(gflop / 0.5 / 80.0)
    assert share.median_of_peak == pytest.approx(gflop / 1.0 / 80.0)
