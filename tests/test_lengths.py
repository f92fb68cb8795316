"""Lengths and resets: the operators against the oracle, what padding may hold, and the way in through the layers."""

from __future__ import annotations

import math

import pytest
import torch

from tests.test_ops import CELLS, DTYPES, Arguments, assert_same_bits, check_forward_and_backward, draw, with_padding


def drawn(
    cell: str, time_steps: int, batch: int, directions: int, hidden_size: int, proj: int = 0,
    dtype: torch.dtype = torch.float32, *, full: bool = True, lengths: bool = True, resets: bool = True,
) -> Arguments:  # fmt: skip
    """Random arguments with NaN in the padding; lengths 0 and T are among those of two rows and more."""
    arguments = draw(cell, time_steps, batch, directions, hidden_size, proj, dtype, full=full)
    if lengths:
        arguments.lengths = torch.randint(time_steps + 1, (batch,))
        arguments.lengths[:2] = torch.tensor([time_steps, 0])[:batch]
        arguments.gates = with_padding(arguments.gates, arguments.lengths, math.nan)
    if resets:
        arguments.resets = torch.rand(time_steps, batch) < 0.3
        arguments.resets[:1, ::2] = True  # the first step of some rows: a given state must not matter
    return arguments


GIVEN = pytest.mark.parametrize(
    ("lengths", "resets"), [(True, False), (False, True), (True, True)], ids=["lengths", "resets", "both"]
)


@GIVEN
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 3)])
def test_every_type_matches_the_oracle(cell: str, proj: int, dtype: torch.dtype, lengths: bool, resets: bool) -> None:
    # 9 and 33 units: whole and partial vectors; 7 rows: pairs, and one alone.
    for hidden_size, directions in ((9, 1), (33, 2)):
        arguments = drawn(cell, 5, 7, directions, hidden_size, proj, dtype, lengths=lengths, resets=resets)
        check_forward_and_backward(arguments)


@GIVEN
@pytest.mark.parametrize("full", [True, False], ids=["full", "plain"])
@pytest.mark.parametrize("time_steps", [0, 1, 2, 6])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 3)])
def test_every_number_of_steps_and_rows_matches_the_oracle(
    cell: str, proj: int, time_steps: int, full: bool, lengths: bool, resets: bool
) -> None:
    for batch in (1, 2, 5):
        arguments = drawn(cell, time_steps, batch, 2, 9, proj, full=full, lengths=lengths, resets=resets)
        check_forward_and_backward(arguments)


@pytest.mark.parametrize("cell", CELLS)
def test_an_empty_batch_gives_empty_results(cell: str) -> None:
    arguments = drawn(cell, 4, 0, 2, 9)
    assert arguments.call(save=True).output.shape == (4, 0, 2, 9)


@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 3)])
def test_results_in_the_padding_are_zero_and_the_state_is_that_of_the_last_step(cell: str, proj: int) -> None:
    arguments = drawn(cell, 6, 5, 2, 33, proj, resets=False)
    assert arguments.lengths is not None
    result = arguments.call(save=True)
    gradients = arguments.gradients(result, torch.ones_like(result.output), None, None, None)
    for steps in (result.output, result.cells, result.saved, result.hidden, gradients.d_gates, gradients.d_gates_h,
                  gradients.d_projected):  # fmt: skip
        if steps.dim() > 1:
            assert torch.equal(steps, with_padding(steps, arguments.lengths, 0.0))
    for row, length in enumerate(arguments.lengths.tolist()):
        first = result.output[length - 1, row, 0] if length else arguments.rows(slice(row, row + 1)).h_0[0, 0]  # type: ignore[index]
        assert torch.equal(result.h_n[0, row], first)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_gives_the_bits_of_its_steps_alone(cell: str, dtype: torch.dtype) -> None:
    whole = drawn(cell, 6, 5, 2, 33, dtype=dtype, resets=False)
    assert whole.lengths is not None
    result = whole.call()
    for row, length in enumerate(whole.lengths.tolist()):
        alone = whole.rows(slice(row, row + 1))
        alone.gates, alone.lengths = alone.gates[:length], None
        steps = alone.call()
        assert torch.equal(steps.output, result.output[:length, row : row + 1])
        assert torch.equal(steps.h_n, result.h_n[:, row : row + 1])
        assert cell != "lstm" or torch.equal(steps.c_n, result.c_n[:, row : row + 1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_reset_gives_the_bits_of_a_start_from_zero(cell: str) -> None:
    arguments = draw(cell, 6, 3, 1, 33)
    arguments.resets = torch.zeros(6, 3, dtype=torch.bool)
    arguments.resets[4] = True
    result = arguments.call()
    fresh = Arguments(**{**vars(arguments), "gates": arguments.gates[4:], "h_0": None, "c_0": None, "resets": None})
    alone = fresh.call()
    assert torch.equal(alone.output, result.output[4:])
    assert_same_bits(alone[1:3], result[1:3])


@pytest.mark.parametrize("cell", CELLS)
def test_full_lengths_and_no_resets_give_the_bits_of_neither(cell: str) -> None:
    plain = draw(cell, 5, 6, 2, 33)
    given = Arguments(**vars(plain))
    given.lengths, given.resets = torch.full((6,), 5), torch.zeros(5, 6, dtype=torch.bool)
    results = [each.call(save=True) for each in (plain, given)]
    assert_same_bits(*results)
    d_output = torch.randn_like(results[0].output)
    assert_same_bits(*(each.gradients(results[0], d_output, None, None, None) for each in (plain, given)))


@pytest.mark.parametrize("cell", CELLS)
def test_lengths_beyond_the_sequence_mean_its_ends(cell: str) -> None:
    arguments = drawn(cell, 4, 4, 2, 9)
    outcomes: list[tuple[torch.Tensor, ...]] = []
    for lengths in ([-3, 4, 9, 2], [0, 4, 4, 2]):
        arguments.lengths = torch.tensor(lengths)
        arguments.gates = draw(cell, 4, 4, 2, 9).gates if not outcomes else arguments.gates
        result = arguments.call(save=True)
        gradients = arguments.gradients(result, torch.ones_like(result.output), None, None, None)
        outcomes.append((*result, *gradients))
    assert_same_bits(*outcomes)


def test_strides_of_lengths_and_resets_do_not_matter() -> None:
    arguments = drawn("gru", 5, 4, 2, 9)
    assert arguments.lengths is not None
    assert arguments.resets is not None
    expected = arguments.call(save=True)
    arguments.lengths = torch.stack([arguments.lengths, arguments.lengths], 1)[:, 0]
    arguments.resets = arguments.resets.t().contiguous().t()
    assert_same_bits(arguments.call(save=True), expected)


def test_errors_of_the_operators_name_the_argument() -> None:
    good = drawn("gru", 5, 4, 2, 9)
    for name, bad in (
        ("lengths must have shape", torch.ones(5, dtype=torch.int64)),
        ("lengths must have type int64", torch.ones(4, dtype=torch.int32)),
        ("resets must have shape", torch.zeros(4, 5, dtype=torch.bool)),
        ("resets must have type bool", torch.zeros(5, 4, dtype=torch.uint8)),
    ):
        with pytest.raises(RuntimeError, match=name):
            Arguments(**{**vars(good), name.split()[0]: bad}).call()
