"""Lengths and resets: the operators against the oracle, what padding may hold, and the way in through the layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import fused_rnn
from tests import reference
from tests.test_modules import LAYERS, assert_same, flat, make, state_of, total
from tests.test_ops import CELLS, DTYPES, Arguments, assert_same_bits, check_forward_and_backward, draw, with_padding
from tests.tolerances import TOLERANCES, relative_error


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


# --- Through the layers ---

STACKS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in LAYERS),
    *((name, {"num_layers": 2, "bidirectional": True, "batch_first": True}) for name in LAYERS),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False}),
)
LENGTHS = torch.tensor([3, 0, 6, 1])


@pytest.mark.parametrize(("name", "options"), STACKS, ids=str)
def test_a_stack_matches_the_oracle_with_all_gradients(name: str, options: dict[str, Any]) -> None:
    layer = make(fused_rnn, name, 3, 5, dtype=torch.float64, **options)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    x = with_padding(torch.randn(6, 4, 3, dtype=torch.float64), LENGTHS, math.nan)
    resets = torch.rand(6, 4) < 0.3
    h_0 = torch.randn(rows, 4, layer.proj_size or 5, dtype=torch.float64, requires_grad=True)
    c_0 = torch.randn(rows, 4, 5, dtype=torch.float64, requires_grad=True)
    hx = (h_0, c_0) if name == "LSTM" else h_0
    inputs = [x.requires_grad_(), *flat(hx), *layer.parameters()]
    given = (x.transpose(0, 1), resets.t()) if layer.batch_first else (x, resets)
    options = {"return_cells": True} if name == "LSTM" else {}
    output, state, *cells = layer(given[0], hx, lengths=LENGTHS, resets=given[1], **options)
    actual = [output, *flat(state), *cells]
    if layer.batch_first:
        actual = [actual[0].transpose(0, 1), *actual[1:]]
        actual[3:] = [each.transpose(0, 1) for each in actual[3:]]
    clean = x.nan_to_num()
    expected = reference.stack(
        layer.cell, clean, dict(layer.named_parameters()), h_0, c_0 if name == "LSTM" else None, LENGTHS, resets
    )
    wanted = [each for each in expected if each is not None]
    for one, other in zip(actual, wanted, strict=True):
        assert relative_error(one, other) <= TOLERANCES[torch.float64].outputs
    incoming = [torch.randn_like(each) for each in actual]
    found = torch.autograd.grad(actual, inputs, incoming)
    for one, other in zip(found, reference.gradients(wanted, inputs, incoming), strict=True):
        assert relative_error(one, other) <= TOLERANCES[torch.float64].gradients


@pytest.mark.parametrize("name", LAYERS)
def test_an_input_without_a_batch_takes_both(name: str) -> None:
    layer = make(fused_rnn, name, 3, 5, bidirectional=True)
    x, resets = torch.randn(6, 3), torch.rand(6) < 0.3
    alone = layer(x, lengths=torch.tensor(4), resets=resets)
    batch = layer(x.unsqueeze(1), lengths=torch.tensor([4]), resets=resets.unsqueeze(1))
    assert_same(alone, [part.squeeze(1) for part in flat(batch)] if name != "LSTM" else
                (batch[0].squeeze(1), tuple(part.squeeze(1) for part in batch[1])))  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_any_integers_will_do_for_lengths(name: str) -> None:
    layer, x = make(fused_rnn, name, 3, 5), torch.randn(6, 4, 3)
    expected = layer(x, lengths=LENGTHS)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert_same(layer(x, lengths=LENGTHS.to(dtype)), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_empty_sequences_and_batches_take_both(name: str) -> None:
    layer = make(fused_rnn, name, 3, 5, bidirectional=True)
    for time_steps, batch in ((0, 4), (6, 0), (0, 0)):
        ends = {"lengths": torch.zeros(batch, dtype=torch.int64), "resets": torch.zeros(time_steps, batch).bool()}
        output, state = layer(torch.zeros(time_steps, batch, 3, requires_grad=True), **ends)
        assert output.shape == (time_steps, batch, 10)
        assert all(part.shape == (2, batch, 5) for part in flat(state))
        total([output, *flat(state)]).backward()


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_cells_are_those_after_each_step_of_the_last_layer(grad: bool) -> None:
    layer = fused_rnn.LSTM(3, 5, num_layers=2, bidirectional=True)
    x = torch.randn(4, 2, 3)
    with torch.set_grad_enabled(grad):
        output, (_, c_n), cells = layer(x, return_cells=True)
    assert cells.shape == (4, 2, 10)
    assert cells.requires_grad == grad
    assert torch.equal(cells[-1, :, :5], c_n[2])
    assert torch.equal(cells[0, :, 5:], c_n[3])
    assert torch.equal(output, layer(x)[0])
    alone = layer(x[:, 0], return_cells=True)[2]
    assert_same(alone, cells[:, 0])


@pytest.mark.parametrize("name", ["GRU", "RNN"])
def test_cells_of_a_layer_without_them_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: return_cells needs a cell state"):
        make(fused_rnn, name, 3, 5)(torch.zeros(4, 2, 3), return_cells=True)


X = torch.zeros(6, 4, 3)
BAD_CALLS: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"lengths": "3061"}, TypeError, "lengths must be a Tensor, a sequence or an array of integers, got str"),
    ({"lengths": [3.0, 0, 6, 1]}, TypeError, "lengths must be .* of integers, got float in it$"),
    ({"lengths": [[True] * 4] * 6}, TypeError, r"lengths must .* give mask\.sum\([01]\)"),
    ({"lengths": np.ones(4)}, TypeError, "lengths must be .* of integers, got float in it"),
    ({"lengths": [3, 0, 6]}, RuntimeError, r"lengths must have shape \(B\) = \[4\], got \[3\]$"),
    ({"lengths": [3, 0, 7, 1]}, ValueError, "lengths must be from 0 to T = 6, got 7"),
    ({"lengths": LENGTHS.float()}, TypeError, "lengths must have an integer dtype, got torch.float32"),
    ({"lengths": LENGTHS.bool()}, TypeError, "lengths must have an integer dtype, got torch.bool"),
    ({"lengths": LENGTHS[:3]}, RuntimeError, r"lengths must have shape \(B\) = \[4\], got \[3\]$"),
    ({"lengths": torch.ones(6).int()}, RuntimeError, r"got \[6\]. The batch.*did you mean batch_first=True"),
    ({"lengths": LENGTHS + 1}, ValueError, "lengths must be from 0 to T = 6, got 7"),
    ({"lengths": LENGTHS - 1}, ValueError, "lengths must be from 0 to T = 6, got -1"),
    (
        {"lengths": LENGTHS.to("meta")},
        RuntimeError,
        "lengths is on device meta, which holds no values, but input is on",
    ),
    (
        {"lengths": LENGTHS.to_sparse()},
        RuntimeError,
        "lengths must be a dense tensor, got one that is torch.sparse_coo",
    ),
    ({"resets": "no"}, TypeError, "resets must be a Tensor, a sequence or an array of bool, got str$"),
    ({"resets": [[0, 1, 0, 0]] * 6}, TypeError, "resets must be .* of bool, got int in it$"),
    ({"resets": np.zeros((6, 4))}, TypeError, "resets must be .* of bool, got float in it$"),
    ({"resets": [torch.zeros(4).bool()] * 6}, TypeError, r"got Tensor in it: give torch\.stack\(resets\)$"),
    ({"resets": [[True] * 4] * 5 + [[True]]}, TypeError, "got sequences of different lengths in it$"),
    ({"resets": [[True] * 4] * 5 + [True]}, TypeError, "got sequences of different lengths in it$"),
    ({"resets": [True]}, RuntimeError, r"resets must have shape \(T, B\) = \[6, 4\], got \[1\]$"),
    ({"resets": [[True] * 6] * 4}, RuntimeError, r"got \[4, 6\]: time and batch are swapped"),
    ({"resets": torch.zeros(6, 4)}, TypeError, r"resets must have dtype torch.bool, got torch.float32"),
    ({"resets": torch.zeros(6).bool()}, RuntimeError, r"resets must have shape \(T, B\) = \[6, 4\], got \[6\]$"),
    ({"resets": torch.zeros(4, 6).bool()}, RuntimeError, r"got \[4, 6\]: time and batch are swapped"),
    ({"resets": torch.zeros(6, 4, device="meta").bool()}, RuntimeError, "resets is on device meta but input is on cpu"),
)


@pytest.mark.parametrize(("given", "kind", "message"), BAD_CALLS, ids=[message for *_, message in BAD_CALLS])
def test_errors_of_the_layers_name_the_argument(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fused_rnn.GRU(3, 5)(X, **given)


# Other forms of the lengths 4, 3, 2, 1.
FORMS: dict[str, Any] = {
    "list": [4, 3, 2, 1],
    "tuple": (4, 3, 2, 1),
    "range": range(4, 0, -1),
    "array": np.array([4, 3, 2, 1]),
    "array of bytes": np.array([4, 3, 2, 1], np.uint8),
    "reversed array": np.array([1, 2, 3, 4])[::-1],
    "read-only array": np.frombuffer(bytes([4, 3, 2, 1]), np.uint8),
    "numbers of numpy": list(np.array([4, 3, 2, 1])),
    "tensors": [torch.tensor(each) for each in (4, 3, 2, 1)],
    "int32": torch.tensor([4, 3, 2, 1]).int(),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("form", FORMS)
def test_lengths_may_be_any_integers(name: str, form: str) -> None:
    layer, x = make(fused_rnn, name, 3, 5), torch.randn(6, 4, 3)
    assert_same(layer(x, lengths=FORMS[form]), layer(x, lengths=torch.tensor([4, 3, 2, 1])))


@pytest.mark.parametrize("name", LAYERS)
def test_a_single_length_may_be_a_number_and_none_an_empty_list(name: str) -> None:
    layer, x = make(fused_rnn, name, 3, 5), torch.randn(6, 4, 3)
    for one in (4, np.int64(4), np.array(4)):
        assert_same(layer(x[:, 0], lengths=one), layer(x[:, 0], lengths=torch.tensor(4)))
    assert_same(layer(x[:, :0], lengths=[]), layer(x[:, :0]))


RESETS = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]).bool()
RESETS_FORMS: dict[str, Any] = {
    "lists": RESETS.tolist(),
    "tuples": tuple(map(tuple, RESETS.tolist())),
    "array": RESETS.numpy(),
    "transposed array": np.ascontiguousarray(RESETS.t().numpy()).T,
    "reversed array": RESETS.numpy()[::-1].copy()[::-1],
    "arrays of steps": list(RESETS.numpy()),
    "bools of numpy": [list(row) for row in RESETS.numpy()],
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("form", RESETS_FORMS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_may_be_any_bools(name: str, form: str, batch_first: bool) -> None:
    layer, x = make(fused_rnn, name, 3, 5, batch_first=batch_first), torch.randn(6, 4, 3)
    given, resets = RESETS_FORMS[form], RESETS
    if batch_first:
        x, given, resets = x.transpose(0, 1), np.array(given).T, RESETS.t()
        given = given if "array" in form else given.tolist()
    assert_same(layer(x, resets=given), layer(x, resets=resets))
    assert str(fused_rnn.explain(layer, x, resets=given)) == str(fused_rnn.explain(layer, x, resets=resets))


@pytest.mark.parametrize("name", LAYERS)
def test_resets_without_a_batch_or_without_values(name: str) -> None:
    layer, x = make(fused_rnn, name, 3, 5), torch.randn(6, 4, 3)
    for given in (RESETS[:, 0].tolist(), RESETS[:, 0].numpy()):
        assert_same(layer(x[:, 0], resets=given), layer(x[:, 0], resets=RESETS[:, 0]))
    assert_same(layer(x[:, :0], resets=[[]] * 6), layer(x[:, :0]))
    assert_same(layer(x[:0], resets=[]), layer(x[:0]))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does it
def test_the_compiler_takes_a_list() -> None:
    layer, x = fused_rnn.GRU(3, 5), torch.randn(6, 4, 3)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x, lengths=[4, 3, 2, 1]), layer(x, lengths=[4, 3, 2, 1]))
    assert_same(compiled(x, resets=RESETS.tolist()), layer(x, resets=RESETS))


def test_errors_of_other_layouts_name_their_shapes() -> None:
    layer = fused_rnn.GRU(3, 5, batch_first=True)
    with pytest.raises(RuntimeError, match=r"resets must have shape \(B, T\) = \[6, 4\], got \[4, 6\]: .*swapped"):
        layer(X, resets=torch.zeros(4, 6).bool())
    with pytest.raises(RuntimeError, match=r"lengths must have shape \(\) for an input without a batch, got \[4\]"):
        layer(X[:, 0], lengths=LENGTHS)
    with pytest.raises(RuntimeError, match=r"resets must have shape \(T\) = \[6\], got \[6, 1\]"):
        layer(X[:, 0], resets=torch.zeros(6, 1).bool())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does it
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_the_compiler_takes_both(name: str) -> None:
    module = make(fused_rnn, name, 3, 5, num_layers=2, bidirectional=True)
    compiled: Any = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for time_steps, batch in ((4, 2), (6, 3)):
        x, hx = torch.randn(time_steps, batch, 3), state_of(name, 4, batch, 5)
        ends = {"lengths": torch.randint(time_steps + 1, (batch,)), "resets": torch.rand(time_steps, batch) < 0.3}
        actual, expected = compiled(x, hx, **ends), module(x, hx, **ends)
        assert_same(actual, expected)
        assert_same(
            *(torch.autograd.grad(flat(each)[0].sum(), list(module.parameters())) for each in (actual, expected))
        )


def test_autocast_and_the_meta_device_take_both() -> None:
    layer, x, resets = fused_rnn.LSTM(3, 5), torch.randn(6, 4, 3), torch.rand(6, 4) < 0.3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x, lengths=LENGTHS, resets=resets)[0]
    assert output.dtype == torch.bfloat16
    total(output.float()).backward()
    output = layer.to("meta")(x.to("meta"), lengths=LENGTHS, resets=resets.to("meta"))[0]
    assert output.shape == (6, 4, 5)
