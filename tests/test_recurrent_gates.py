"""Gates that read x alone: cells with some, and diagonal cells, whose gates all do."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from fused_rnn import _ops
from fused_rnn._autograd import recurrence
from fused_rnn._check_cell import in_plain_torch
from fused_rnn._published_cells import MinLSTMCell
from fused_rnn._tensors import Arguments
from tests.own_cells import Everything
from tests.test_recurrent import LENGTHS, PUBLISHED, SIZE, assert_same, results

if TYPE_CHECKING:
    from torch import Tensor


def test_diagonal_cells_pass_the_check_of_cells_and_say_their_schedule() -> None:
    report = fused_rnn.check_cell(MinLSTMCell)
    assert report.passed, str(report)
    layer = fused_rnn.MinLSTM(5, SIZE, dtype=torch.float64)
    explanation = fused_rnn.explain(layer, torch.randn(6, 4, 5, dtype=torch.float64))
    assert {each.schedule for each in explanation.layers[0].passes} == {"cpu_diagonal"}
    assert "barrier" not in str(explanation)


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ({"zoneout": 0.3}, {"lengths": LENGTHS}),
        (
            {"bidirectional": True, "num_layers": 2},
            {"lengths": LENGTHS, "resets": torch.arange(24).view(6, 4) % 5 == 2},
        ),
        ({"recompute": True, "bias": False}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["diagonal", "partly recurrent"])
def test_gates_of_x_alone_have_the_gradients_of_plain_torch(
    kind: str, options: dict[str, Any], keywords: dict[str, Any]
) -> None:
    cell = MinLSTMCell if kind == "diagonal" else Everything()
    layer = fused_rnn.Recurrent(cell, 7, SIZE, dtype=torch.float64, **options)
    x = torch.randn(6, 4, 7, dtype=torch.float64)
    torch.manual_seed(3)
    with fused_rnn.strict():
        found = results(layer, x, **keywords)
    torch.manual_seed(3)
    with in_plain_torch(layer.cell):
        assert_same(found, results(layer, x, **keywords), 1e-10)


def diagonal_recurrence(rows: slice) -> list[Tensor]:
    """Results and gradients of a recurrence whose gates are given, for some rows of a batch; 4 MB for all of them."""
    generator = torch.Generator().manual_seed(3)
    gates = torch.randn(64, 16, 1, 3, 512, dtype=torch.float64, generator=generator)[:, rows].requires_grad_()
    h_0 = torch.randn(1, 16, 512, dtype=torch.float64, generator=generator)[:, rows].requires_grad_()
    w_hh = torch.empty(1, 0, 512, dtype=torch.float64)
    cell = fused_rnn.MinLSTM(1, 1, dtype=torch.float64)
    cell(torch.zeros(1, 1, 1, dtype=torch.float64))  # which has the kernels loaded
    found = recurrence(cell.cell, Arguments(gates.contiguous(), w_hh, h_0=h_0.contiguous()))
    d_output = torch.linspace(-1, 1, found.output[:, 0].numel(), dtype=torch.float64).view_as(found.output[:, :1])
    gradients = torch.autograd.grad((found.output * d_output).sum(), (gates, h_0))
    return [found.output.detach(), found.h_n.detach(), *gradients]


def test_results_that_go_past_the_caches_are_the_same_bits() -> None:
    parts = zip(diagonal_recurrence(slice(0, 7)), diagonal_recurrence(slice(7, 16)), strict=True)
    for all_rows, halves in zip(diagonal_recurrence(slice(0, 16)), parts, strict=True):
        assert torch.equal(all_rows, torch.cat(halves, 1))


def test_operators_take_weights_of_the_gates_that_read_h() -> None:
    layer: Any = fused_rnn.Recurrent(Everything(), 3, 4, dtype=torch.float64)
    x = torch.zeros(2, 1, 3, dtype=torch.float64)
    layer(x)
    assert layer.weight_hh_l0.shape == (4, 4)
    units = torch.zeros(1, 1, 4, dtype=torch.float64)
    gates = torch.zeros(2, 1, 1, 2, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"w_hh must have shape \[D, 1\*H, H\]"):
        _ops.forward(layer.cell, Arguments(gates, torch.zeros(1, 8, 4, dtype=torch.float64), unit_weights=units), False)
    diagonal = fused_rnn.MinLSTM(3, 4, dtype=torch.float64)
    diagonal(x)
    gates, none = torch.zeros(2, 1, 1, 3, 4, dtype=torch.float64), torch.zeros(1, 0, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"w_hh must have shape \[D, 0\*H, P\], got \[1, 12, 4\]"):
        _ops.forward(diagonal.cell, Arguments(gates, torch.zeros(1, 12, 4, dtype=torch.float64)), False)
    mask = torch.ones(1, 1, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"recurrent_mask must be None for cell .* whose gates do not read h"):
        _ops.forward(diagonal.cell, Arguments(gates, none, recurrent_mask=mask), False)


def test_inference_of_diagonal_cells_sees_changed_weights() -> None:
    layer: Any = fused_rnn.MinLSTM(7, SIZE, dtype=torch.float64)
    x = torch.randn(6, 4, 7, dtype=torch.float64)
    with torch.no_grad():
        first = [layer(x)[0] for _ in range(3)]
        layer.weight_ih_l0.mul_(0.5)
        changed = layer(x)[0]
    assert all(torch.equal(each, first[0]) for each in first)
    assert torch.equal(changed, copy.deepcopy(layer)(x)[0].detach())
    assert not torch.equal(changed, first[0])


def test_errors_of_published_layers_name_their_class() -> None:
    kind: Any
    for kind, *_ in PUBLISHED:
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) .*'zonout': did you mean zoneout"):
            kind(3, 4, zonout=0.1)
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) missing 1 required .*'hidden_size'"):
            kind(3)

    class Own(fused_rnn.MinGRU):
        def __init__(self) -> None:
            super().__init__(3, 4, num_layers=2)

    assert Own().num_layers == 2
    assert inspect.signature(fused_rnn.SLSTM) == inspect.signature(fused_rnn.MinGRU)
    assert "num_heads" in inspect.signature(fused_rnn.SLSTM).parameters
