"""What the suites of other libraries hold their own recurrent layers to, said again for ours.

Opacus replaces torch.nn's layers by ones with per-sample gradients. Its `opacus/tests/dp_layers/dp_rnn_test.py`
compares them with torch.nn over drawn sizes and options, and `opacus/tests/grad_samples/dp_rnn_test.py` compares the
per-sample gradients with those of each sample alone. TorchRL's LSTMModule and GRUModule promise that a row which holds
several trajectories, each begun by `is_init`, is run as if each were alone (its page "Recurrent modules"; they
begin with the state stored there, which is zero where an episode begins), and warn that the final state may be that of
padding. Only the facts and the ranges of sizes are taken from there.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fused_rnn
from tests.test_modules import LAYERS, assert_same, flat, make, state_of

INPUTS = ("padded", "packed, longest first", "packed, any order")


def drawn_rows(batch: int, time_steps: int, features: int, descending: bool) -> list[torch.Tensor]:
    """Rows of random lengths."""
    lengths = torch.randint(1, time_steps + 1, (batch,))
    lengths = lengths.sort(descending=True).values if descending else lengths
    return [torch.randn(int(length), features) for length in lengths]


def training_gradients(layer: Any, x: Any, hx: Any) -> list[torch.Tensor | None]:
    """Of the mean square of the output."""
    layer.zero_grad()
    output = layer(x, hx)[0]
    (output.data if isinstance(output, PackedSequence) else output).square().mean().backward()
    return [parameter.grad for parameter in layer.parameters()]


@settings(max_examples=60)
@given(
    name=st.sampled_from(LAYERS),
    batch=st.integers(1, 5),
    time_steps=st.integers(1, 6),
    features=st.integers(5, 10),
    hidden=st.integers(3, 7),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    with_state=st.booleans(),
    kind=st.sampled_from(INPUTS),
)
def test_a_layer_of_drawn_options_trains_as_that_of_torch(
    name: str,
    batch: int,
    time_steps: int,
    features: int,
    hidden: int,
    layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
    with_state: bool,
    kind: str,
) -> None:
    options: dict[str, Any] = {"bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
    ours, theirs = (make(each, name, features, hidden, layers, **options) for each in (fused_rnn, torch.nn))
    x: Any = torch.randn((batch, time_steps, features) if batch_first else (time_steps, batch, features))
    if kind != "padded":
        descending = kind == "packed, longest first"
        x = pack_sequence(drawn_rows(batch, time_steps, features, descending), enforce_sorted=descending)
    hx = state_of(name, layers * (1 + bidirectional), batch, hidden) if with_state else None
    (actual, actual_state), (expected, expected_state) = ours(x, hx), theirs(x, hx)
    if kind != "padded":
        assert torch.equal(actual.batch_sizes, expected.batch_sizes)
        actual, expected = actual.data, expected.data
    assert_same((actual, actual_state), (expected, expected_state))
    assert_same(training_gradients(ours, x, hx), training_gradients(theirs, x, hx))


@settings(max_examples=30)
@given(
    name=st.sampled_from(LAYERS),
    batch=st.integers(1, 3),
    time_steps=st.integers(1, 3),
    features=st.integers(4, 5),
    hidden=st.integers(8, 10),
    layers=st.sampled_from([1, 2]),
    bias=st.booleans(),
    bidirectional=st.booleans(),
)
def test_per_sample_gradients_of_rows_of_their_own_lengths_are_those_of_each_row_alone(
    name: str,
    batch: int,
    time_steps: int,
    features: int,
    hidden: int,
    layers: int,
    bias: bool,
    bidirectional: bool,
) -> None:
    options: dict[str, Any] = {"bidirectional": bidirectional, "bias": bias, "dtype": torch.float64}
    ours, theirs = (make(each, name, features, hidden, layers, **options) for each in (fused_rnn, torch.nn))
    rows = [row.double() for row in drawn_rows(batch, time_steps, features, descending=False)]
    x = torch.nn.utils.rnn.pad_sequence(rows, padding_value=float("nan"))
    lengths = torch.tensor([len(row) for row in rows])

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        result = torch.func.functional_call(ours, parameters, (row,), {"lengths": length})
        return torch.stack([tensor.square().sum() for tensor in flat(result)]).sum()

    parameters = {each: parameter.detach() for each, parameter in ours.named_parameters()}
    found = torch.func.vmap(torch.func.grad(loss), (None, 1, 0))(parameters, x, lengths)
    for index, row in enumerate(rows):
        result = torch.stack([tensor.square().sum() for tensor in flat(theirs(row))]).sum()
        expected = torch.autograd.grad(result, list(theirs.parameters()))
        assert_same([found[each][index] for each, _ in theirs.named_parameters()], expected)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_trajectories_in_a_row_are_as_if_each_were_alone(name: str, num_layers: int, batch_first: bool) -> None:
    ours, theirs = (
        make(each, name, 3, 9, num_layers, batch_first=batch_first, dtype=torch.float64)
        for each in (fused_rnn, torch.nn)
    )
    x = torch.randn(11, 4, 3, dtype=torch.float64, requires_grad=True)
    begins = torch.zeros(11, 4, dtype=torch.bool)
    begins[0] = True  # every row begins with a trajectory,
    begins[[3, 4], 0] = begins[10, 1] = begins[5, 2] = True  # one has a step alone, one ends in one, one has none more
    given = (x.transpose(0, 1), begins.t()) if batch_first else (x, begins)
    output, state = ours(given[0], resets=given[1])
    if batch_first:
        output = output.transpose(0, 1)
    alone, last_states = torch.zeros_like(output), []
    for row in range(4):
        starts = begins[:, row].nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], 11], strict=True):
            alone[start:end, row], last_state = theirs(x[start:end, row])
        last_states.append(last_state)  # of the row's last trajectory: it may be gone on with
    last = [torch.stack([flat(each)[part] for each in last_states], 1) for part in range(len(flat(state)))]
    assert_same((output, state), (alone, last))
    gradients = [
        torch.autograd.grad(result.square().sum(), [x, *layer.parameters()])
        for result, layer in ((output, ours), (alone, theirs))
    ]
    assert_same(*gradients)
