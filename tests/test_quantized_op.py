"""The operator of int8 layers against its oracle, and the properties that it promises bit by bit.

A sequence is not compared with the oracle as a whole: a state that differs in its last bit may be rounded to the other
integer. Single steps from given states cannot; and a sequence has the bits of its steps one after the other.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests import quantized_reference, reference
from tests.tolerances import TOLERANCES, relative_error

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS_AND_PROJECTIONS = (*((cell, 0) for cell in CELLS), ("lstm", 2))
# 1 and 3: under every vector and every group of integers; 17: an odd tail behind a vector of 16; 64, 65: a whole line
# of integers, and one above it.
SIZES = (1, 3, 17, 64, 65)
TOLERANCE = TOLERANCES[torch.float32].outputs
each_cell = pytest.mark.parametrize("cell", CELLS)
each_cell_and_projection = pytest.mark.parametrize(("cell", "proj"), CELLS_AND_PROJECTIONS)


class Arguments(NamedTuple):
    """Those of the operator."""

    cell: str
    x: Tensor
    w_ih: Tensor
    w_ih_scale: Tensor
    b_ih: Tensor | None
    w_hh: Tensor
    w_hh_scale: Tensor
    b_hh: Tensor | None
    w_hr: Tensor | None = None
    w_hr_scale: Tensor | None = None
    h_0: Tensor | None = None
    c_0: Tensor | None = None
    lengths: Tensor | None = None
    resets: Tensor | None = None
    directions: int = 1

    def call(self) -> quantized_reference.Results:
        return quantized_reference.Results(*torch.ops.fused_rnn.quantized_layer(*self))

    def expected(self) -> quantized_reference.Results:
        return quantized_reference.layer(*self)

    def rows(self, rows: slice) -> Arguments:
        """Those of some rows of the batch."""
        of_states: dict[str, Any] = {
            name: None if t is None else t[:, rows] for name, t in (("h_0", self.h_0), ("c_0", self.c_0))
        }
        resets = None if self.resets is None else self.resets[:, rows]
        lengths = None if self.lengths is None else self.lengths[rows]
        return self._replace(x=self.x[:, rows], lengths=lengths, resets=resets, **of_states)

    def direction(self, d: int) -> Arguments:
        """Those of one direction, which becomes the forward one."""
        weights: dict[str, Any] = {
            name: None if t is None else t.chunk(self.directions)[d]
            for name, t in self._asdict().items()
            if name.startswith(("w_", "b_"))
        }
        states: dict[str, Any] = {
            name: None if t is None else t[d : d + 1] for name, t in (("h_0", self.h_0), ("c_0", self.c_0))
        }
        return self._replace(**weights, **states, directions=1)


def matrix(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Integers of the whole range, and scales by which the rows are as those of torch.nn."""
    integers = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
    return integers, (0.5 + torch.rand(rows)) / (127 * math.sqrt(max(columns, 1)))


def draw(
    cell: str,
    time_steps: int = 1,
    batch: int = 3,
    directions: int = 1,
    sizes: tuple[int, int] = (5, 9),
    proj: int = 0,
    *,
    full: bool = True,
) -> Arguments:
    """Random arguments of `sizes` I and H; `full` gives biases and initial states."""
    input_size, hidden_size = sizes
    units, width = directions * reference.GATES[cell] * hidden_size, proj or hidden_size
    biases = [torch.rand(units) - 0.5 if full else None for _ in range(2)]
    w_hr: Any = matrix(directions * proj, hidden_size) if proj else (None, None)
    h_0 = torch.randn(directions, batch, width) if full else None
    c_0 = torch.randn(directions, batch, hidden_size) if full and cell == "lstm" else None
    x = torch.randn(time_steps, batch, input_size)
    (w_ih, w_ih_scale), (w_hh, w_hh_scale) = matrix(units, input_size), matrix(units, width)
    weights: Any = (w_ih, w_ih_scale, biases[0], w_hh, w_hh_scale, biases[1], *w_hr)
    return Arguments(cell, x, *weights)._replace(h_0=h_0, c_0=c_0, directions=directions)


def with_ends(given: Arguments) -> Arguments:
    """The same with rows of every length from 0 to T, and resets in all of them."""
    time_steps, batch = given.x.shape[:2]
    lengths = torch.arange(batch) % (time_steps + 1)
    return given._replace(lengths=lengths, resets=torch.rand(time_steps, batch) < 0.4)


def assert_same_bits(actual: quantized_reference.Results, expected: quantized_reference.Results) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


def assert_step_matches(given: Arguments) -> None:
    """One step within the table; a projection rounds h, of which a unit may fall on the other side of a half."""
    actual, expected = given.call(), given.expected()
    assert relative_error(actual.c_n, expected.c_n.double()) <= TOLERANCE
    flip = 0.0
    if given.w_hr_scale is not None and expected.c_n.numel() > 0:
        flip = 1.01 * given.w_hr_scale.max().item()  # h is at most 1 in one step from the largest h of 1
        flip *= max(1.0, expected.output.abs().max().item())
    for one, other in ((actual.output, expected.output), (actual.h_n, expected.h_n)):
        assert one.shape == other.shape
        if one.numel() > 0:
            near = TOLERANCE * max(1.0, other.abs().max().item())
            assert (one - other).abs().max().item() <= near + flip
            assert ((one - other).abs() <= near).double().mean().item() >= (0.9 if flip else 1.0)


@pytest.mark.parametrize("hidden_size", SIZES)
@pytest.mark.parametrize("input_size", SIZES)
@each_cell
def test_a_step_of_every_size_matches_the_oracle(cell: str, input_size: int, hidden_size: int) -> None:
    for directions, batch, full in ((1, 1, True), (1, 5, False), (2, 3, True)):
        assert_step_matches(draw(cell, 1, batch, directions, (input_size, hidden_size), full=full))


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17])
@each_cell_and_projection
def test_a_step_of_every_batch_matches_the_oracle(cell: str, proj: int, batch: int) -> None:
    assert_step_matches(draw(cell, 1, batch, 1, (17, 33), proj))


@pytest.mark.parametrize(("hidden_size", "proj"), [(2, 1), (17, 3), (65, 17), (65, 64)])
def test_a_step_with_a_projection_matches_the_oracle(hidden_size: int, proj: int) -> None:
    for directions, batch, full in ((1, 1, False), (2, 5, True)):
        assert_step_matches(draw("lstm", 1, batch, directions, (3, hidden_size), proj, full=full))


def steps_in_turn(given: Arguments) -> quantized_reference.Results:
    """The sequence by one call of the operator for each step and direction, with lengths and resets done here."""
    time_steps, batch = given.x.shape[:2]
    ones = torch.ones(batch, 1, dtype=torch.bool)
    outputs, h_last, c_last = [], [], []
    for d in range(given.directions):
        own = given.direction(d)._replace(lengths=None, resets=None)
        h = own.h_0 if own.h_0 is not None else torch.zeros(1, batch, own.w_hh.shape[1])
        c = own.c_0
        if c is None and given.cell == "lstm":
            c = torch.zeros(1, batch, own.w_hh.shape[0] // 4)
        output = torch.zeros(time_steps, batch, h.shape[2])
        for t in range(time_steps) if d == 0 else reversed(range(time_steps)):
            active = ones if given.lengths is None else (given.lengths > t).unsqueeze(1)
            reset = active & (~ones if given.resets is None else given.resets[t].unsqueeze(1))
            h, c = torch.where(reset, 0.0, h), None if c is None else torch.where(reset, 0.0, c)
            made = own._replace(x=given.x[t : t + 1], h_0=h, c_0=c).call()
            h, c = torch.where(active, made.h_n, h), None if c is None else torch.where(active, made.c_n, c)
            output[t] = torch.where(active, made.output[0], 0.0)
        outputs.append(output)
        h_last.append(h)
        c_last.append(torch.empty(0) if c is None else c)
    c_n = torch.cat(c_last) if given.cell == "lstm" else torch.empty(0)
    return quantized_reference.Results(torch.cat(outputs, 2), torch.cat(h_last), c_n)


@pytest.mark.parametrize("ends", [False, True], ids=["plain", "lengths and resets"])
@pytest.mark.parametrize("full", [False, True], ids=["bare", "full"])
@each_cell_and_projection
def test_a_sequence_has_the_bits_of_its_steps(cell: str, proj: int, full: bool, ends: bool) -> None:
    for directions, batch, sizes in ((1, 1, (3, 17)), (2, 7, (17, 9)), (1, 13, (64, 65))):
        given = draw(cell, 5, batch, directions, sizes, proj, full=full)
        given = with_ends(given) if ends else given
        assert_same_bits(given.call(), steps_in_turn(given))


@each_cell_and_projection
def test_a_sequence_stays_near_the_oracle(cell: str, proj: int) -> None:
    given = with_ends(draw(cell, 5, 7, 2, (17, 33), proj))
    for actual, expected in zip(given.call(), given.expected(), strict=True):
        # A state on the other side of a half moves what follows by some 1/127 of a weight.
        torch.testing.assert_close(actual, expected, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("columns", [*SIZES, 1041, 4099])  # the sums of the last two do not fit into 24 bits
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_products_are_exact_sums(rows: int, columns: int) -> None:
    # Sums of extremes, which saturate 16 bits; relu and neither bias nor state leave the product as it is.
    signs = torch.randint(0, 2, (columns,)) * 2.0 - 1
    ramp = torch.linspace(-127, 127, columns) if columns > 1 else torch.full((1,), 127.0)
    x = torch.stack([torch.full((columns,), 127.0), 127 * signs, ramp, torch.zeros(columns)])
    given = draw("rnn_relu", 1, 4, 1, (columns, rows), full=False)._replace(x=x.unsqueeze(0))
    full_range = torch.full_like(given.w_ih, 127)
    full_range[:, -1] = 126  # an odd sum
    for w_ih in (full_range, (127 * signs).to(torch.int8).expand_as(given.w_ih).contiguous(), given.w_ih):
        assert_same_bits(given._replace(w_ih=w_ih).call(), given._replace(w_ih=w_ih).expected())


def test_halves_are_rounded_to_even() -> None:
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5])
    given = draw("rnn_relu", 1, 1, 1, (8, 16), full=False)
    identity = torch.cat([torch.eye(8), -torch.eye(8)]).to(torch.int8)
    given = given._replace(x=x.view(1, 1, 8), w_ih=identity, w_ih_scale=torch.ones(16))
    output = given.call().output.flatten()
    assert (output[:8] - output[8:]).tolist() == [127.0, 0.0, 2.0, 2.0, 0.0, -2.0, -2.0, 126.0]


@each_cell
def test_rows_of_zeros_leave_the_bias(cell: str) -> None:
    given = draw(cell, 1, 3, 1, (17, 9))
    given.x[:, 1] = 0.0
    given.w_ih[4], given.w_ih_scale[4] = 0, 0.0
    assert given.h_0 is not None
    given.h_0[:, 2] = 0.0
    assert_step_matches(given)


@each_cell
def test_values_below_the_smallest_scale_count_as_zero(cell: str) -> None:
    # 127 / 1e-38 is infinite. Such values could change no float32 result.
    given = draw(cell, 1, 3, 1, (17, 9))
    zeros = given._replace(x=given.x.clone())
    given.x[:, 1], zeros.x[:, 1] = 1e-38, 0.0
    assert_same_bits(given.call(), zeros.call())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["x", "h_0"])
@each_cell
def test_a_row_that_is_not_finite_is_nan_and_others_keep_their_bits(cell: str, where: str, value: float) -> None:
    given = draw(cell, 3, 4, 1, (17, 9))
    plain = given.call()
    tensor = getattr(given, where).clone()
    tensor[0, 1, 3] = value
    found = given._replace(**{where: tensor}).call()
    assert found.output[:, 1].isnan().all()
    assert found.h_n[:, 1].isnan().all()
    others = [0, 2, 3]
    assert torch.equal(found.output[:, others], plain.output[:, others])
    assert torch.equal(found.h_n[:, others], plain.h_n[:, others])


@each_cell
def test_padding_and_what_comes_before_a_reset_do_not_leak(cell: str) -> None:
    given = draw(cell, 5, 3, 1, (17, 9))
    lengths, resets = torch.tensor([5, 2, 3]), torch.zeros(5, 3, dtype=torch.bool)
    resets[2, 0] = True
    given = given._replace(lengths=lengths, resets=resets)
    x = given.x.clone()
    x[2:, 1], x[3:, 2], x[:2, 0] = math.nan, math.inf, math.nan
    plain, found = given.call(), given._replace(x=x).call()
    assert torch.equal(found.output[2:, 0], plain.output[2:, 0])
    assert torch.equal(found.output[:, 1:], plain.output[:, 1:])
    assert torch.equal(found.h_n, plain.h_n)


@pytest.mark.parametrize("directions", [1, 2])
@each_cell_and_projection
def test_an_empty_sequence_returns_a_copy_of_the_state(cell: str, proj: int, directions: int) -> None:
    given = draw(cell, 0, 3, directions, (5, 9), proj)
    found = given.call()
    assert found.output.shape == (0, 3, directions * (proj or 9))
    assert given.h_0 is not None
    assert torch.equal(found.h_n, given.h_0)
    assert found.h_n.data_ptr() != given.h_0.data_ptr()
    if given.c_0 is not None:
        assert torch.equal(found.c_n, given.c_0)
        assert found.c_n.data_ptr() != given.c_0.data_ptr()


@pytest.mark.parametrize("directions", [1, 2])
@each_cell_and_projection
def test_an_empty_batch_gives_empty_results(cell: str, proj: int, directions: int) -> None:
    found = draw(cell, 4, 0, directions, (5, 9), proj).call()
    assert found.output.shape == (4, 0, directions * (proj or 9))
    assert found.h_n.shape == (directions, 0, proj or 9)
    assert found.c_n.shape == ((directions, 0, 9) if cell == "lstm" else (0,))


@each_cell_and_projection
def test_a_row_alone_gives_the_bits_it_gives_in_a_batch(cell: str, proj: int) -> None:
    for sizes, batch in (((1, 3), 3), ((9, 17), 13), ((65, 33), 6), ((64, 64), 17)):
        given = with_ends(draw(cell, 4, batch, 2, sizes, proj))
        whole = given.call()
        for row in range(batch):
            alone = given.rows(slice(row, row + 1)).call()
            assert torch.equal(alone.output, whole.output[:, row : row + 1])
            assert torch.equal(alone.h_n, whole.h_n[:, row : row + 1])


@pytest.mark.parametrize(("batch", "hidden_size"), [(1, 256), (2, 193), (32, 67)])
@each_cell
def test_one_thread_and_two_give_the_same_bits(cell: str, batch: int, hidden_size: int) -> None:
    for directions in (1, 2):
        given = draw(cell, 4, batch, directions, (65, hidden_size))
        torch.set_num_threads(1)
        alone = given.call()
        torch.set_num_threads(2)
        assert_same_bits(given.call(), alone)


@each_cell_and_projection
def test_the_reverse_direction_is_the_forward_one_on_the_flipped_sequence(cell: str, proj: int) -> None:
    both = draw(cell, 6, 3, 2, (17, 9), proj)
    found, width = both.call(), proj or 9
    for d in range(2):
        alone = both.direction(d)._replace(x=both.x if d == 0 else both.x.flip(0)).call()
        output = alone.output if d == 0 else alone.output.flip(0)
        assert torch.equal(output, found.output[:, :, d * width : (d + 1) * width])
        assert torch.equal(alone.h_n, found.h_n[d : d + 1])


@each_cell_and_projection
def test_strides_of_arguments_do_not_matter(cell: str, proj: int) -> None:
    given = with_ends(draw(cell, 5, 4, 2, (6, 9), proj))
    expected = given.call()

    def moved(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() > 1 else tensor

    changed: dict[str, Any] = {
        name: moved(value) for name, value in given._asdict().items() if isinstance(value, Tensor)
    }
    wide = torch.zeros(5, 4, 12)
    wide[..., ::2] = given.x
    for found in (given._replace(**changed).call(), given._replace(x=wide[..., ::2]).call()):
        assert all(t.is_contiguous() for t in found)
        assert_same_bits(found, expected)


@pytest.mark.parametrize("full", [True, False], ids=["full", "plain"])
@pytest.mark.parametrize("directions", [1, 2])
@each_cell_and_projection
def test_opcheck_passes(cell: str, proj: int, directions: int, full: bool) -> None:
    given = draw(cell, 3, 2, directions, (4, 5), proj, full=full)
    given = with_ends(given) if full else given
    torch.library.opcheck(torch.ops.fused_rnn.quantized_layer.default, tuple(given))


@pytest.mark.parametrize("directions", [1, 2])
@each_cell_and_projection
def test_shapes_on_meta_are_those_of_the_kernel(cell: str, proj: int, directions: int) -> None:
    for time_steps, batch in itertools.product((0, 1, 4), (0, 3)):
        given = draw(cell, time_steps, batch, directions, (5, 9), proj)
        on_meta: Any = [t.to("meta") if isinstance(t, Tensor) else t for t in given]
        meta = Arguments(*on_meta).call()
        assert [t.shape for t in meta] == [t.shape for t in given.call()]
