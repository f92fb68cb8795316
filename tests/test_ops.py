"""The two operators against the oracle, their shape rules, and the properties that the kernels promise bit by bit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fused_rnn import _ops, _tensors
from tests import reference
from tests.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from torch import Tensor

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
DTYPES = tuple(TOLERANCES)
# 1 and 3: under every vector; 7, 8, 9 and 15, 16, 17: around vectors of 8 and 16; 31, 33: around two of 16 and four
# of 8; 64: whole tiles; 67: a prime above them.
HIDDEN_SIZES = (1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67)


@dataclass
class Arguments:
    """The tensors of one forward call; `call` and `expected` run the operator and the oracle on them."""

    cell: str
    gates: Tensor
    w_hh: Tensor
    b_hh: Tensor | None
    w_hr: Tensor | None
    h_0: Tensor | None
    c_0: Tensor | None
    lengths: Tensor | None = None
    resets: Tensor | None = None

    def tensors(self) -> list[Any]:
        return [self.gates, self.w_hh, self.b_hh, self.w_hr, self.h_0, self.c_0]

    def given(self) -> _tensors.Arguments:
        return _tensors.Arguments(*self.tensors(), **self.ends())

    def ends(self) -> dict[str, Any]:
        return {"lengths": self.lengths, "resets": self.resets}

    def call(self, *, save: bool = False) -> _ops.ForwardResult:
        return _ops.forward(self.cell, self.given(), save)

    def gradients(self, result: _ops.ForwardResult, *incoming: Tensor | None) -> _ops.BackwardResult:
        """From the gradients of output, h_n, c_n and cells."""
        return _ops.backward(self.cell, incoming, self.given(), result.output, result.cells, result.saved)

    def doubles(self) -> list[Any]:
        return [None if t is None else t.double().requires_grad_() for t in self.tensors()]

    def rows(self, rows: slice) -> Arguments:
        h_0 = None if self.h_0 is None else self.h_0[:, rows]
        c_0 = None if self.c_0 is None else self.c_0[:, rows]
        lengths = None if self.lengths is None else self.lengths[rows]
        resets = None if self.resets is None else self.resets[:, rows]
        return Arguments(self.cell, self.gates[:, rows], self.w_hh, self.b_hh, self.w_hr, h_0, c_0, lengths, resets)


def draw(
    cell: str,
    time_steps: int = 5,
    batch: int = 3,
    directions: int = 1,
    hidden_size: int = 9,
    proj: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    full: bool = True,
) -> Arguments:
    """Random arguments; `full` gives a bias and initial states.

    For relu, whose slope jumps at 0, all pre-activations keep away from 0: rounding could choose the other side there.
    """
    units = reference.GATES[cell] * hidden_size
    width = proj or hidden_size
    scale = hidden_size**-0.5
    gates = torch.randn(time_steps, batch, directions, reference.GATES[cell], hidden_size)
    if cell == "rnn_relu":
        gates, scale = gates + 3 * gates.sign(), scale / 4
    return Arguments(
        cell,
        gates.to(dtype),
        (torch.rand(directions, units, width) * 2 - 1).mul(scale).to(dtype),
        (torch.rand(directions, units) * 2 - 1).mul(scale).to(dtype) if full else None,
        torch.randn(directions, proj, hidden_size).mul(scale).to(dtype) if proj else None,
        torch.randn(directions, batch, width).to(dtype) if full else None,
        torch.randn(directions, batch, hidden_size).to(dtype) if full and cell == "lstm" else None,
    )


def with_padding(steps: Tensor, lengths: Tensor, value: float) -> Tensor:
    """Steps [T, B, ...] with a value beyond the lengths [B]."""
    padding = torch.arange(steps.shape[0])[:, None] >= lengths
    return steps.masked_fill(padding.view(*padding.shape, *[1] * (steps.dim() - 2)), value)


def assert_same_bits(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


def check_forward_and_backward(arguments: Arguments) -> None:
    """Outputs and gradients of the operators within the table, for gradients arriving everywhere."""
    cell, dtype = arguments.cell, arguments.gates.dtype
    tolerance = TOLERANCES[dtype]
    result = arguments.call(save=True)
    doubles = arguments.doubles()
    expected = reference.recurrence(cell, *doubles, **arguments.ends())
    pairs = [(result.output, expected.output), (result.h_n, expected.h_n)]
    if expected.c_n is not None and expected.cells is not None:
        pairs += [(result.c_n, expected.c_n), (result.cells, expected.cells)]
    for actual, wanted in pairs:
        assert relative_error(actual, wanted) <= tolerance.outputs
    incoming = [torch.randn(wanted.shape).to(dtype) for _, wanted in pairs]
    if arguments.lengths is not None:
        incoming = [with_padding(d, arguments.lengths, math.nan) if d.dim() == 4 else d for d in incoming]
    actual_gradients = arguments.gradients(result, *[*incoming, None, None][:4])
    wanted_tensors = [t for t in (doubles[0], doubles[4], doubles[5]) if t is not None]
    wanted_gradients = reference.gradients([wanted for _, wanted in pairs], wanted_tensors, incoming)
    given = [actual_gradients.d_gates, actual_gradients.d_h_0, actual_gradients.d_c_0]
    for actual, wanted in zip(given, wanted_gradients, strict=False):
        assert relative_error(actual, wanted) <= tolerance.gradients


@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_hidden_size_matches_the_oracle(cell: str, hidden_size: int) -> None:
    for directions, batch, full in ((1, 1, True), (1, 5, False), (2, 3, True)):
        check_forward_and_backward(draw(cell, 5, batch, directions, hidden_size, full=full))


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17])
@pytest.mark.parametrize("cell", CELLS)
def test_every_batch_size_matches_the_oracle(cell: str, batch: int) -> None:
    check_forward_and_backward(draw(cell, 3, batch, 1, 17))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_type_matches_the_oracle(cell: str, dtype: torch.dtype) -> None:
    for hidden_size in (1, 8, 33):
        check_forward_and_backward(draw(cell, 5, 4, 2, hidden_size, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("hidden_size", "proj"), [(2, 1), (9, 8), (17, 3), (33, 16)])
def test_projection_matches_the_oracle(hidden_size: int, proj: int, dtype: torch.dtype) -> None:
    for directions, batch in ((1, 1), (2, 5)):
        check_forward_and_backward(draw("lstm", 5, batch, directions, hidden_size, proj, dtype))


@pytest.mark.parametrize("time_steps", [0, 1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_short_and_empty_sequences_match_the_oracle(cell: str, time_steps: int) -> None:
    for directions, full in ((1, True), (2, False), (2, True)):
        check_forward_and_backward(draw(cell, time_steps, 3, directions, full=full))


@pytest.mark.parametrize("cell", CELLS)
def test_an_empty_sequence_returns_the_initial_state(cell: str) -> None:
    arguments = draw(cell, 0)
    result = arguments.call()
    assert result.output.shape == (0, 3, 1, 9)
    assert arguments.h_0 is not None
    assert torch.equal(result.h_n, arguments.h_0)
    if arguments.c_0 is not None:
        assert torch.equal(result.c_n, arguments.c_0)


@pytest.mark.parametrize("cell", CELLS)
def test_an_empty_batch_gives_empty_results(cell: str) -> None:
    result = draw(cell, 4, 0, 2).call(save=True)
    assert result.output.shape == (4, 0, 2, 9)
    assert result.h_n.shape == (2, 0, 9)
    check_forward_and_backward(draw(cell, 4, 0, 2))


@pytest.mark.parametrize("cell", CELLS)
def test_no_state_means_zeros(cell: str) -> None:
    arguments = draw(cell, full=False)
    zeros = draw(cell, full=False)
    zeros.gates, zeros.w_hh = arguments.gates, arguments.w_hh
    zeros.h_0 = torch.zeros(1, 3, 9)
    zeros.c_0 = torch.zeros(1, 3, 9) if cell == "lstm" else None
    zeros.b_hh = torch.zeros(1, reference.GATES[cell] * 9)
    assert_same_bits(arguments.call(save=True), zeros.call(save=True))


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_saved_unless_asked(cell: str) -> None:
    arguments = draw(cell)
    result = arguments.call(save=False)
    assert [t.shape for t in (result.cells, result.saved, result.hidden)] == [(0,)] * 3
    assert_same_bits(result[:3], arguments.call(save=True)[:3])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_alone_gives_the_bits_it_gives_in_a_batch(cell: str, dtype: torch.dtype) -> None:
    for hidden_size, batch in ((1, 3), (9, 7), (17, 13), (33, 6), (64, 17)):
        arguments = draw(cell, 4, batch, 2, hidden_size, dtype=dtype)
        whole = arguments.call()
        for row in range(batch):
            alone = arguments.rows(slice(row, row + 1)).call()
            assert torch.equal(alone.output, whole.output[:, row : row + 1])
            assert torch.equal(alone.h_n, whole.h_n[:, row : row + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_in_two_parts_gives_the_bits_of_the_whole(cell: str, dtype: torch.dtype) -> None:
    # Half types round the cell state between parts, so only types that are stored as they are computed are exact.
    arguments = draw(cell, 7, 5, 1, 17, dtype=dtype)
    whole = arguments.call()
    first = Arguments(**{**vars(arguments), "gates": arguments.gates[:3]}).call()
    c_n = first.c_n if cell == "lstm" else None
    rest = Arguments(**{**vars(arguments), "gates": arguments.gates[3:], "h_0": first.h_n, "c_0": c_n}).call()
    assert torch.equal(torch.cat([first.output, rest.output]), whole.output)
    assert_same_bits(rest[1:3], whole[1:3])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_the_reverse_direction_is_the_forward_one_on_the_flipped_sequence(cell: str, dtype: torch.dtype) -> None:
    both = draw(cell, 6, 3, 2, 17, dtype=dtype)
    result = both.call()
    for d in range(2):
        single: dict[str, Any] = {
            name: None if t is None else t[d : d + 1] for name, t in vars(both).items() if name not in ("cell", "gates")
        }
        gates = both.gates[:, :, d : d + 1]
        alone = Arguments(cell, gates if d == 0 else gates.flip(0), **single).call()
        output = alone.output if d == 0 else alone.output.flip(0)
        assert torch.equal(output, result.output[:, :, d : d + 1])
        assert torch.equal(alone.h_n, result.h_n[d : d + 1])


def _all_results(arguments: Arguments) -> list[Tensor]:
    result = arguments.call(save=True)
    d_output, d_h_n = torch.ones_like(result.output), torch.ones_like(result.h_n)
    return [*result, *arguments.gradients(result, d_output, d_h_n, None, None)]


@pytest.mark.parametrize("cell", CELLS)
def test_runs_repeat_bit_by_bit(cell: str) -> None:
    arguments = draw(cell, 20, 5, 2, 67)
    first = _all_results(arguments)
    for _ in range(3):
        assert_same_bits(tuple(_all_results(arguments)), tuple(first))


@pytest.mark.parametrize(("batch", "hidden_size"), [(1, 256), (2, 193), (32, 67)])
@pytest.mark.parametrize("cell", CELLS)
def test_one_thread_and_two_give_the_same_bits(cell: str, batch: int, hidden_size: int) -> None:
    for directions in (1, 2):
        arguments = draw(cell, 6, batch, directions, hidden_size)
        torch.set_num_threads(1)
        alone = _all_results(arguments)
        torch.set_num_threads(2)
        assert_same_bits(tuple(_all_results(arguments)), tuple(alone))


def test_some_problem_is_shared_between_threads() -> None:
    # Otherwise the test above compares one thread with one thread.
    for batch in (1, 32):
        problem = _ops.Problem(
            cell="lstm", dtype=torch.float32, time_steps=6, batch=batch, directions=1, hidden_size=256, proj_size=0
        )
        chosen = _ops.cpu_plan(problem, True, 2)
        assert chosen["forward"]["threads"] == 2
        assert chosen["backward"]["threads"] == 2


@pytest.mark.parametrize("cell", CELLS)
def test_strides_of_arguments_do_not_matter(cell: str) -> None:
    arguments = draw(cell, 5, 4, 2, 9)
    expected = arguments.call(save=True)
    batch_major = arguments.gates.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.zeros(*arguments.gates.shape[:-1], 18)
    wide[..., ::2] = arguments.gates
    transposed = arguments.w_hh.transpose(1, 2).contiguous().transpose(1, 2)
    for gates, w_hh in ((batch_major, transposed), (wide[..., ::2], arguments.w_hh)):
        changes: dict[str, Any] = {"gates": gates, "w_hh": w_hh}
        for name in ("h_0", "c_0"):
            state = getattr(arguments, name)
            changes[name] = None if state is None else state.transpose(0, 1).contiguous().transpose(0, 1)
        result = Arguments(**{**vars(arguments), **changes}).call(save=True)
        assert all(t.is_contiguous() for t in result)
        assert_same_bits(result, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_strides_of_incoming_gradients_do_not_matter(cell: str) -> None:
    arguments = draw(cell, 5, 4, 2, 9)
    result = arguments.call(save=True)
    one = torch.ones(())
    outcomes = []
    for d_output, d_h_n in (
        (torch.ones_like(result.output), torch.ones_like(result.h_n)),
        (one.expand_as(result.output), one.expand_as(result.h_n)),
    ):
        outcomes.append(arguments.gradients(result, d_output, d_h_n, None, None))
    assert_same_bits(outcomes[0], outcomes[1])


@pytest.mark.parametrize("full", [True, False], ids=["full", "plain"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])
def test_opcheck_passes(cell: str, proj: int, directions: int, full: bool) -> None:
    arguments = draw(cell, 3, 2, directions, 5, proj, full=full)
    ends = torch.tensor([1, 3]), torch.tensor([[False, True], [False, True], [True, False]])
    lengths, resets = ends if full else (None, None)
    arguments.lengths, arguments.resets = lengths, resets
    for save in (False, True):
        torch.library.opcheck(torch.ops.fused_rnn.forward.default, (cell, *arguments.given(), save, False))
    result = arguments.call(save=True)
    d_c_n, d_cells = (torch.randn_like(t) if full and cell == "lstm" else None for t in (result.c_n, result.cells))
    d_h_n = torch.randn_like(result.h_n) if full else None
    torch.library.opcheck(
        torch.ops.fused_rnn.backward.default,
        (cell, torch.randn_like(result.output), d_h_n, d_c_n, d_cells, arguments.w_hh, arguments.w_hr, result.output,
         result.cells, result.saved, *arguments.given()[4:], False),
    )  # fmt: skip


def ragged_lstm(directions: int, proj: int) -> tuple[Arguments, _ops.ForwardResult, Tensor, Tensor]:
    """Arguments of a forward pass with lengths and resets, its result, and gradients of output and cells."""
    arguments = draw("lstm", 4, 5, directions, 9, proj)
    arguments.lengths, arguments.resets = torch.tensor([4, 0, 2, 3, 1]), torch.rand(4, 5) < 0.3
    result = arguments.call(save=True)
    d_output, d_cells = torch.randn_like(result.output), torch.randn_like(result.cells)
    return arguments, result, d_output, d_cells


@pytest.mark.parametrize("proj", [0, 2])
@pytest.mark.parametrize("directions", [1, 2])
def test_gradients_can_take_the_place_of_what_is_saved(directions: int, proj: int) -> None:
    arguments, result, d_output, d_cells = ragged_lstm(directions, proj)
    given = arguments.given(), result.output, result.cells
    gradients = _ops.backward("lstm", (d_output, None, None, d_cells), *given, result.saved)
    saved = result.saved.clone()
    over = _ops.backward_in_place("lstm", (d_output, None, None, d_cells), *given, saved)
    assert_same_bits(over._replace(d_gates=saved), gradients)


@pytest.mark.parametrize("proj", [0, 2])
@pytest.mark.parametrize("directions", [1, 2])
def test_opcheck_of_gradients_in_place_passes(directions: int, proj: int) -> None:
    arguments, result, d_output, d_cells = ragged_lstm(directions, proj)
    torch.library.opcheck(
        torch.ops.fused_rnn.backward_in_place.default,
        ("lstm", d_output, None, None, d_cells, arguments.w_hh, arguments.w_hr, result.output, result.cells,
         result.saved, *arguments.given()[4:6], arguments.lengths, arguments.resets),
    )  # fmt: skip


def test_saved_values_that_cannot_be_written_over_are_refused() -> None:
    gru, lstm = draw("gru"), draw("lstm")
    for cell, arguments in (("gru", gru), ("lstm", lstm)):
        result = arguments.call(save=True)
        saved = result.saved if cell == "gru" else result.saved.transpose(3, 4).contiguous().transpose(3, 4)
        incoming = (torch.ones_like(result.output), None, None, None)
        with pytest.raises(RuntimeError, match="saved cannot be written over"):
            _ops.backward_in_place(cell, incoming, arguments.given(), result.output, result.cells, saved)


def test_errors_name_the_argument() -> None:
    good = draw("lstm")
    for name, bad in (
        ("gates", torch.zeros(5, 3, 1, 3, 9)),
        ("w_hh", torch.zeros(1, 36, 8)),
        ("b_hh", torch.zeros(36)),
        ("h_0", torch.zeros(1, 4, 9)),
        ("c_0", torch.zeros(1, 3, 9, dtype=torch.float64)),
    ):
        with pytest.raises(RuntimeError, match=name):
            Arguments(**{**vars(good), name: bad}).call()


def test_an_unknown_cell_is_refused() -> None:
    arguments = draw("gru")
    with pytest.raises(RuntimeError, match="cell must be one of"):
        _ops.forward("mlp", arguments.given(), False)


def test_cell_counts_are_those_of_the_formulas() -> None:
    assert {name: spec.gates for name, spec in _ops.CELLS.items() if name in reference.GATES} == reference.GATES
    assert _ops.CELLS["lstm"].states == 2
    assert _ops.CELLS["gru"].split
