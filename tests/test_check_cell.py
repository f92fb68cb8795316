"""The check of cells: what it passes, and what it does not."""

from __future__ import annotations

import math
import re
from itertools import cycle
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
    names = {check.name.removesuffix(": values") for check in report.checks}
    options = {"batch_first", "bias", "bidirectional", "dropout", "num_heads", "num_layers", "recompute"}
    options |= {"recurrent_dropout", "weight_dropout", "zoneout"}
    assert {name for case in _check_cell._cases(True) for name in case.options} == options
    assert {"lengths", "resets", "PackedSequence", "two heads", "NaN", "Stepper", "finite differences"} <= names
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


def test_a_nan_that_is_not_where_it_should_be_is_an_error() -> None:
    nan, number = torch.tensor([math.nan, 2.0]), torch.tensor([0.0, 2.0])
    assert _check_cell._error(_check_cell._marked(nan), _check_cell._marked(nan.clone())) == 0
    for one, other in ((nan, number), (number, nan), (nan, nan.flip(0))):
        assert _check_cell._error(_check_cell._marked(one), _check_cell._marked(other)) > 0.1


def test_every_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    run, off = _check_cell._values_and_gradients, cycle((0.0, 1e-9))  # of kernels and of plain torch, in turn

    def wrong(*arguments: Any) -> Any:
        error = next(off)
        return tuple([each + error for each in tensors] for tensors in run(*arguments))

    monkeypatch.setattr(_check_cell, "_values_and_gradients", wrong)
    checks = _check_cell._against_torch(Everything(), torch.float64, 3)
    assert [check.name for check in checks if check.passed] == ["Stepper"]
