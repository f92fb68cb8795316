"""PackedSequence through the layers: results, order of the rows and all gradients are those of torch.nn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import fused_rnn
from fused_rnn._packed import gather_steps, pad
from tests.test_errors import error_of
from tests.test_modules import LAYERS, assert_same, flat, make, state_of

if TYPE_CHECKING:
    from collections.abc import Callable

SORTED, UNSORTED = (5, 3, 3, 1), (3, 5, 1, 3)
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in LAYERS),
    *((name, {"num_layers": 2, "bidirectional": True, "batch_first": True}) for name in LAYERS),
    ("LSTM", {"proj_size": 2}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False}),
)


def packed_of(lengths: tuple[int, ...], *, sort: bool, dtype: torch.dtype = torch.float64) -> PackedSequence:
    """Random rows of these lengths, with 3 features, whose data wants a gradient."""
    rows = [torch.randn(length, 3, dtype=dtype) for length in lengths]
    packed = pack_sequence(rows, enforce_sorted=not sort)
    return PackedSequence(packed.data.requires_grad_(), *packed[1:])


def parts(result: Any) -> list[torch.Tensor]:
    """The elements of the output and the final states."""
    output, state = result
    return [output.data, *flat(state)]


@pytest.mark.parametrize("lengths", [SORTED, UNSORTED, (2,)], ids=str)
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_results_and_all_gradients_are_those_of_torch(
    name: str, options: dict[str, Any], lengths: tuple[int, ...]
) -> None:
    ours, theirs = (make(each, name, 3, 5, dtype=torch.float64, **options) for each in (fused_rnn, torch.nn))
    packed = packed_of(lengths, sort=lengths == UNSORTED)
    rows, width = len(theirs.all_weights), options.get("proj_size", 0) or 5
    hx = state_of(name, rows, len(lengths), width, dtype=torch.float64)
    if name == "LSTM":
        hx = (hx[0], torch.randn(rows, len(lengths), 5, dtype=torch.float64))
    states = [state.requires_grad_() for state in flat(hx)]
    for given, inputs in ((None, [packed.data]), (hx, [packed.data, *states])):
        results = [layer(packed, given) for layer in (ours, theirs)]
        for one, other in zip(results[0][0][1:], results[1][0][1:], strict=True):
            assert one is other or torch.equal(one, other)
        assert_same(*map(parts, results))
        incoming = [torch.randn_like(part) for part in parts(results[0])]
        assert_same(*(
            torch.autograd.grad(parts(result), [*inputs, *layer.parameters()], incoming)
            for result, layer in zip(results, (ours, theirs), strict=True)
        ))  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_draws_the_masks_of_torch(name: str) -> None:
    ours, theirs = (make(each, name, 3, 20, num_layers=3, dropout=0.5) for each in (fused_rnn, torch.nn))
    packed = packed_of(UNSORTED, sort=True, dtype=torch.float32)
    results = []
    for layer in (ours, theirs):
        torch.manual_seed(1)
        results.append(layer(packed))
    assert_same(*map(parts, results))


@pytest.mark.parametrize("name", LAYERS)
def test_packed_and_padded_input_with_lengths_give_the_same_bits(name: str) -> None:
    layer = make(fused_rnn, name, 3, 20, bidirectional=True, batch_first=True)
    x, lengths = torch.randn(4, 5, 3), torch.tensor(UNSORTED)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, state = layer(packed)
    padded, padded_state = layer(x, lengths=lengths)
    assert torch.equal(pad_packed_sequence(output, batch_first=True)[0], padded)
    assert all(torch.equal(one, other) for one, other in zip(flat(state), flat(padded_state), strict=True))


def test_cells_are_packed_as_the_input_is() -> None:
    layer = fused_rnn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    x, lengths = torch.randn(5, 4, 3), torch.tensor(UNSORTED)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    *_, cells = layer(packed, return_cells=True)
    *_, expected = layer(x, lengths=lengths, return_cells=True)
    assert torch.equal(pad_packed_sequence(cells)[0], expected)


def test_padding_is_that_of_torch() -> None:
    packed = packed_of(SORTED, sort=False)
    steps, lengths, places = pad(packed)
    expected, expected_lengths = pad_packed_sequence(packed)
    assert torch.equal(steps, expected)
    assert torch.equal(lengths, expected_lengths)
    assert torch.equal(gather_steps(steps, places), packed.data)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_sequence_has_no_rows(name: str) -> None:
    layer = make(fused_rnn, name, 3, 5)
    output, state = layer(PackedSequence(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)))
    assert output.data.shape == (0, 5)
    assert all(part.shape == (1, 0, 5) for part in flat(state))


@pytest.mark.parametrize("name", LAYERS)
def test_bad_calls_raise_the_types_of_torch(name: str) -> None:
    packed = packed_of(SORTED, sort=False, dtype=torch.float32)
    calls: dict[str, Callable[[Any], Any]] = {
        "features": lambda layer: layer(pack_sequence([torch.zeros(2, 7)])),
        "dimensions": lambda layer: layer(PackedSequence(torch.zeros(2, 1, 3), torch.ones(2, dtype=torch.int64))),
        "dtype": lambda layer: layer(pack_sequence([torch.zeros(2, 3, dtype=torch.float64)])),
        "state batch": lambda layer: layer(packed, state_of(name, 1, 5, 5)),
        "state units": lambda layer: layer(packed, state_of(name, 1, 4, 3)),
    }
    for case, call in calls.items():
        ours, theirs = (error_of(partial(call, make(each, name, 3, 5))) for each in (fused_rnn, torch.nn))
        assert ours is not None, case
        if name != "LSTM":  # torch.nn.LSTM leaves all but the state of a packed sequence unchecked
            assert type(ours) is type(theirs), f"{case}: {ours!r} for {theirs!r}"
        assert "batch_first" not in str(ours), case


def test_lengths_and_resets_beside_a_packed_sequence_are_refused() -> None:
    packed = packed_of(SORTED, sort=False, dtype=torch.float32)
    with pytest.raises(ValueError, match="lengths must be None for a PackedSequence"):
        fused_rnn.GRU(3, 5)(packed, lengths=torch.tensor(SORTED))
    with pytest.raises(ValueError, match="resets must be None for a PackedSequence"):
        fused_rnn.GRU(3, 5)(packed, resets=torch.zeros(5, 4, dtype=torch.bool))


def test_a_packed_sequence_can_be_explained() -> None:
    packed: Any = packed_of(SORTED, sort=False, dtype=torch.float32)
    assert "T=5 B=4" in str(fused_rnn.explain(fused_rnn.GRU(3, 5), packed))
