"""Heads against layers of one head whose W_hh has zeros between them, and at the operators against one call a head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import fused_rnn
from fused_rnn import _ops, _reference
from fused_rnn._published_cells import SLSTMCell
from fused_rnn._tensors import Arguments, LayerArguments
from tests.own_cells import Everything, OwnGRU
from tests.tolerances import relative_error

HEADS, SIZE, STEPS, BATCH = 3, 15, 6, 4  # a head is less than a vector
LENGTHS, RESETS = torch.tensor([4, 6, 0, 1]), torch.arange(24).view(6, 4) % 5 == 0
# Cells with gradients of two kinds, with four states, and with unit weights and a gate that does not read h.
CELLS: tuple[tuple[type[fused_rnn.Cell], torch.dtype], ...] = (
    (OwnGRU, torch.float32),
    (SLSTMCell, torch.float64),
    (Everything, torch.float64),
)
each_cell = pytest.mark.parametrize(("cell", "dtype"), CELLS, ids=lambda value: getattr(value, "__name__", ""))


def dense(w_hh: Tensor) -> Tensor:
    """[R*H, H / heads] with the zeros between heads, [R*H, H]."""
    gates = w_hh.view(-1, HEADS, w_hh.shape[1], w_hh.shape[1])
    return torch.cat([torch.block_diag(*blocks) for blocks in gates])  # type: ignore[no-untyped-call]


def blocks_of(w_hh: Tensor) -> Tensor:
    """The inverse."""
    width = SIZE // HEADS
    gates = w_hh.view(-1, HEADS, width, HEADS, width)
    return gates.diagonal(dim1=1, dim2=3).movedim(-1, 1).reshape(-1, width)


def pair(cell: Any, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    """A layer with heads, and one of one head with the same parameters."""
    layer = fused_rnn.Recurrent(cell, 7, SIZE, num_heads=HEADS, dtype=dtype, **options)
    plain = fused_rnn.Recurrent(cell, 7, SIZE, dtype=dtype, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_w_"):
                parameter.uniform_(-0.5, 0.5)
    plain.load_state_dict({
        name: dense(value) if "weight_hh" in name else value for name, value in layer.state_dict().items()
    })  # fmt: skip
    return layer, plain


def results(layer: Any, *arguments: Any, **keywords: Any) -> list[Tensor]:
    """Values and gradients of x, initial states and parameters; those of W_hh as blocks."""
    given = [t.detach().requires_grad_() for t in arguments]
    x, *first = given
    output, last = layer(x, None if not first else first[0] if len(first) == 1 else tuple(first), **keywords)
    values = [output, *(last if isinstance(last, tuple) else (last,))]
    weights = [torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value) for value in values]
    total = torch.stack([(value * weight).sum() for value, weight in zip(values, weights, strict=True)]).sum()
    parameters = dict(layer.named_parameters())
    gradients = torch.autograd.grad(total, [*given, *parameters.values()])
    of_parameters = zip(parameters, gradients[len(given) :], strict=True)
    blocks = [blocks_of(d) if "weight_hh" in name and d.shape[1] == SIZE else d for name, d in of_parameters]
    return [*(value.detach() for value in values), *gradients[: len(given)], *blocks]


def assert_close(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    limit = {torch.float32: 5e-6, torch.float64: 1e-12, torch.bfloat16: 5e-2}[dtype]
    for actual, wanted in zip(found, expected, strict=True):
        assert relative_error(actual, wanted.double()) <= limit


@each_cell
@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ({}, {}),
        (
            {"num_layers": 2, "bidirectional": True},
            {"lengths": LENGTHS, "resets": torch.arange(24).view(6, 4) % 5 == 0},
        ),
        ({"bidirectional": True, "batch_first": True, "bias": False}, {}),
        ({"bidirectional": True, "zoneout": 0.3}, {"lengths": LENGTHS}),
        ({"bidirectional": True, "recurrent_dropout": 0.3}, {}),
        ({"recompute": True, "zoneout": 0.3}, {}),
    ],
    ids=str,
)
def test_heads_are_blocks_of_w_hh(cell: Any, dtype: torch.dtype, options: Any, keywords: Any) -> None:
    layer, plain = pair(cell, dtype, **options)
    x = torch.randn(STEPS, BATCH, 7, dtype=dtype)
    x = x.transpose(0, 1) if layer.batch_first else x
    found = []
    with fused_rnn.strict():
        for each in (layer, plain):
            torch.manual_seed(3)
            found.append(results(each, x, **keywords))
    assert_close(found[0], found[1], dtype)
    with torch.no_grad():
        evaluated = [each.eval()(x, **keywords)[0] for each in (layer, plain)]
    assert_close([evaluated[0]], [evaluated[1]], dtype)


@each_cell
def test_states_are_those_of_all_units(cell: Any, dtype: torch.dtype) -> None:
    layer, plain = pair(cell, dtype, bidirectional=True)
    x = torch.randn(STEPS, BATCH, 7, dtype=dtype)
    last = plain(x)[1]
    first = [state.detach() for state in (last if isinstance(last, tuple) else (last,))]
    assert_close(results(layer, x, *first), results(plain, x, *first), dtype)
    found, expected = (each(x, return_states=True)[2] for each in (layer, plain))
    assert found.keys() == expected.keys()
    assert_close(list(found.values()), list(expected.values()), dtype)
    for state in layer(x)[1] if isinstance(last, tuple) else [layer(x)[1]]:
        state.mul_(2)  # as those of torch.nn


@each_cell
def test_single_steps_packed_sequences_and_steppers(cell: Any, dtype: torch.dtype) -> None:
    layer, plain = pair(cell, dtype)
    x = torch.randn(STEPS, BATCH, 7, dtype=dtype)
    packed = pack_padded_sequence(x, torch.tensor([6, 2, 5, 1]), enforce_sorted=False)
    with torch.no_grad():
        for given in (x[:1], x[:, :1], x[:, :0], x[0]):
            assert_close([layer(given)[0]], [plain(given)[0]], dtype)
        assert_close([layer(packed)[0].data], [plain(packed)[0].data], dtype)
        assert_close([fused_rnn.Stepper(layer, BATCH).steps(x)], [plain(x)[0]], dtype)
    assert " heads=3 " in str(fused_rnn.explain(layer, x))


# A call that is short looks at nothing of its states; it may not stumble over those that do not fit either.
def test_states_that_do_not_fit_are_named_as_with_one_head() -> None:
    layer, plain = pair(SLSTMCell, torch.float32)
    x = torch.randn(2, BATCH, 7)
    for shape in ((1, BATCH, SIZE + 1), (1, BATCH, 2 * SIZE), (BATCH, SIZE), (1, BATCH + 1, SIZE), (1, BATCH, 0)):
        messages = []
        for each in (layer, plain):
            with pytest.raises(RuntimeError) as error:
                each(x, (torch.zeros(1, BATCH, SIZE),) * 3 + (torch.zeros(shape),))
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_threads_share_heads() -> None:
    layer, _ = pair(OwnGRU, torch.float32, bidirectional=True)
    x = torch.randn(STEPS, BATCH, 7)
    alone = results(layer, x)
    torch.set_num_threads(3)
    assert all(map(torch.equal, results(layer, x), alone))
    problem = _ops.Problem("lstm", torch.float32, 100, 8, 1, 64, 0, input_size=256, heads=4)
    assert "share the 4 heads" in str(_ops.cpu_plan(problem, True, 2)["forward"])


@each_cell
def test_second_derivatives_and_transforms(cell: Any, dtype: torch.dtype) -> None:
    layer, plain = pair(cell, dtype, bidirectional=True)
    x = torch.randn(3, BATCH, 7, dtype=dtype, requires_grad=True)

    def second(each: Any) -> Tensor:
        (d_x,) = torch.autograd.grad(each(x)[0].square().sum(), x, create_graph=True)
        (found,) = torch.autograd.grad(d_x.square().sum(), x)
        return found

    assert_close([second(layer)], [second(plain)], torch.float64 if dtype == torch.float64 else torch.bfloat16)
    rows = torch.randn(5, 3, BATCH, 7, dtype=dtype)
    mapped = [
        torch.func.vmap(torch.func.grad(lambda one, e=each: e(one)[0].square().sum()))(rows) for each in (layer, plain)
    ]
    assert_close([mapped[0]], [mapped[1]], dtype)


def test_compiled_exported_and_half_types() -> None:
    layer, plain = pair(OwnGRU, torch.float32, bidirectional=True)
    x = torch.randn(STEPS, BATCH, 7)
    expected = results(plain, x)
    assert_close(results(torch.compile(layer, backend="aot_eager", fullgraph=True), x), expected, torch.float32)
    program = torch.export.export(layer.eval(), (x,))
    assert_close([program.module()(x)[0]], expected[:1], torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close([layer(x)[0]], expected[:1], torch.bfloat16)


def draw(cell: str, directions: int, size: int = 5) -> Arguments:
    """The arguments of a recurrence whose D counts HEADS of each direction."""
    spec, heads = _ops.CELLS[cell], HEADS * directions
    rows = spec.gates * size

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64) * 0.5

    return Arguments(
        gates=random(STEPS, BATCH, heads, spec.gates, size),
        w_hh=random(heads, rows, size),
        b_hh=random(heads, rows),
        h_0=random(heads, BATCH, size),
        c_0=random(heads, BATCH, size) if spec.states == 2 else None,
        unit_weights=random(heads, spec.unit_weights, size).abs() if spec.unit_weights else None,
        lengths=LENGTHS,
        resets=torch.rand(STEPS, BATCH) < 0.2,
    )


def of_head(tensor: Tensor, head: int, name: str) -> Tensor:
    """What belongs to one head of each direction, every HEADS-th of D; the rest belongs to all."""
    if name in {"lengths", "resets"} or tensor.dim() < 2:
        return tensor
    return (
        tensor[:, :, head::HEADS]
        if name in {"gates", "output", "cells", "saved", "d_gates", "d_gates_h"}
        else tensor[head::HEADS]
    )


def of_heads(tensors: Any, head: int) -> Any:
    return type(tensors)(**{n: None if t is None else of_head(t, head, n) for n, t in tensors._asdict().items()})


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "lstm_peephole"])
def test_operators_take_a_head_for_a_direction(cell: str, directions: int) -> None:
    given = draw(cell, directions)
    result = _ops.forward(cell, given, True, HEADS)
    incoming = [torch.randn_like(t) if t.dim() > 1 else None for t in result[:4]]
    gradients = _ops.backward(cell, incoming, given, result.output, result.cells, result.saved, HEADS)
    names = ("output", "h_n", "c_n", "cells")
    for head in range(HEADS):
        own = of_heads(given, head)
        alone = _ops.forward(cell, own, True)
        parts = [None if t is None else of_head(t, head, name) for t, name in zip(incoming, names, strict=True)]
        d_alone = _ops.backward(cell, parts, own, alone.output, alone.cells, alone.saved)
        assert all(map(torch.equal, of_heads(result, head), alone))
        assert all(map(torch.equal, of_heads(gradients, head), d_alone))
    expected = _reference.recurrence(cell, *given, heads=HEADS)
    assert_close(list(result[: len(expected)]), list(expected), torch.float64)
    torch.library.opcheck(torch.ops.fused_rnn.forward.default, (cell, *given, True, False, HEADS))


def test_bad_heads_are_named() -> None:
    given = draw("lstm", 2)
    for heads, message in (
        (4, "gates must have shape .* with D = 4 or 8"),
        (0, "heads must be 1 to 1048576, got 0"),
        (2**62, "got 46116"),
    ):
        with pytest.raises(RuntimeError, match=message):
            _ops.forward("lstm", given, False, heads)
    layer = LayerArguments(torch.randn(3, 2, 4), torch.randn(80, 4), None, torch.randn(80, 5), None, torch.randn(20, 5))
    with pytest.raises(_ops.ArgumentError, match="w_hr must be None where there are several heads"):
        _ops.layer("lstm", layer, 2, save=False, heads=2)
    with pytest.raises(_ops.ArgumentError, match="directions must be 1 or 2, each of 2 heads, got 6"):
        _ops.layer("lstm", layer._replace(w_hr=None), 3, save=False, heads=2)


def test_a_gradient_of_a_weight_that_is_not_there_is_refused() -> None:
    steps, batch, inputs, size = 4, 2, 5, 4
    output = torch.randn(steps, batch, 1, size)
    saved = torch.randn(steps, batch, 1, _ops.CELLS["lstm"].saved, size)
    kept = (output, torch.randn_like(output), saved)
    weights = (torch.randn(4 * size, inputs), torch.randn(4 * size, size), None)
    for name in ("layer_backward", "layer_backward_in_place"):
        given = (output, None, None, None, torch.randn(steps, batch, inputs), *weights, *kept, *[None] * 8)
        with pytest.raises(RuntimeError, match="need_w_hr must be False where there is no w_hr"):
            getattr(torch.ops.fused_rnn, name)("lstm", *given, True, True, True, True, True, False, 1)
