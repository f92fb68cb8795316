"""The check of cells: what it passes, and what it does not."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

import fused_rnn
from fused_rnn import _check_cell
from tests.own_cells import Everything


def test_every_operation_by_the_check_of_cells() -> None:
    report = fused_rnn.check_cell(Everything())
    assert report.passed, str(report)
    assert "Everything: all checks passed" in str(report)
    with pytest.raises(ValueError, match="dtype must be"):
        fused_rnn.check_cell(Everything, dtype=torch.float16)


def test_a_cell_that_is_not_a_number_somewhere_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    class Root(fused_rnn.Cell):
        gates = ("a",)

        def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override] # noqa: ARG002
            return {"h": fused_rnn.cells.sqrt(gate.a)}

    monkeypatch.setattr(fused_rnn.Recurrent, "_prepare_kernels", lambda _: None)
    check = _check_cell._finite_differences(Root())
    assert not check.passed
    report = fused_rnn.CellReport("Root", (_check_cell.CellCheck("values", 1e-16, 1e-10), check))
    assert str(report).splitlines()[0] == "Root: FAILED"
    assert re.search(r"values .* ok\n  finite differences  error      nan .* FAILED: NaN or infinity$", str(report))
    for errors in ([0.5, math.nan], [math.nan, 0.5]):
        assert math.isnan(_check_cell._largest(errors))
