"""The operator that makes its gates itself, and the layer that is one node of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn import _ops, _route
from fused_rnn._route import Forward
from fused_rnn._tensors import LayerArguments, by_direction
from tests import reference
from tests.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from collections.abc import Sequence

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def draw(
    cell: str,
    time_steps: int,
    batch: int,
    directions: int,
    input_size: int,
    hidden_size: int,
    proj: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LayerArguments:
    torch.manual_seed(5)
    width, rows = proj or hidden_size, directions * _ops.CELLS[cell].gates * hidden_size

    def uniform(*shape: int) -> Tensor:
        numbers: Tensor = (torch.rand(shape) * 2 - 1) / hidden_size**0.5
        return numbers.to(dtype)

    return LayerArguments(
        torch.randn(time_steps, batch, input_size).to(dtype),
        uniform(rows, input_size),
        uniform(rows),
        uniform(rows, width),
        uniform(rows),
        uniform(directions * proj, hidden_size) if proj else None,
        torch.randn(directions, batch, width).to(dtype),
        torch.randn(directions, batch, hidden_size).to(dtype) if cell == "lstm" else None,
    )


def expected(cell: str, given: LayerArguments, directions: int) -> reference.Sequence:
    """Projection and recurrence by the oracle, in float64."""
    doubles: list[Any] = [None if t is None else t.double() for t in given[:8]]
    x, w_ih, b_ih, w_hh, b_hh, w_hr, h_0, c_0 = doubles
    gates = torch.nn.functional.linear(x, w_ih, b_ih).view(*x.shape[:2], directions, _ops.CELLS[cell].gates, -1)
    stacked: list[Any] = [None if t is None else by_direction(t, directions) for t in (w_hh, b_hh, w_hr)]
    w_hh, b_hh, w_hr = stacked
    return reference.recurrence(cell, gates, w_hh, b_hh, w_hr, h_0, c_0, given.lengths, given.resets)


def total_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum()


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 7)])
def test_results_are_those_of_the_oracle(cell: str, proj: int, directions: int, dtype: torch.dtype) -> None:
    # Sizes around the vectors, batches around the tiles, a single step, and more steps than one round makes gates for.
    for sizes in ((1, 1, 3, 70), (1, 9, 17, 33), (7, 13, 33, 31), (300, 2, 40, 17)):
        time_steps, batch, input_size, hidden_size = sizes
        given = draw(cell, time_steps, batch, directions, input_size, hidden_size, proj, dtype)
        for ends in ({}, {"lengths": torch.randint(0, time_steps + 1, (batch,)),
                          "resets": torch.rand(time_steps, batch) < 0.2}):  # fmt: skip
            arguments = given._replace(**ends)
            results = _ops.layer(cell, arguments, directions, save=True)
            for one, other in zip(results, expected(cell, arguments, directions), strict=False):
                if other is not None:
                    assert relative_error(one, other) <= TOLERANCES[dtype].outputs


@pytest.mark.parametrize("time_steps", [1, 9])
@pytest.mark.parametrize("cell", CELLS)
def test_rows_and_threads_do_not_change_a_bit(cell: str, time_steps: int) -> None:
    given = draw(cell, time_steps, 11, 2, 40, 67)
    threads = torch.get_num_threads()
    whole = _ops.layer(cell, given, 2, save=True)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert all(map(torch.equal, _ops.layer(cell, given, 2, save=True), whole))
            for rows in (slice(0, 1), slice(4, 7)):
                h_0, c_0 = (None if t is None else t[:, rows] for t in (given.h_0, given.c_0))
                part = given._replace(x=given.x[:, rows], h_0=h_0, c_0=c_0)
                results = _ops.layer(cell, part, 2, save=True)
                for one, other in zip(results, whole, strict=True):
                    assert one.dim() == 1 or torch.equal(one, other[:, rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_threads_do_not_change_a_bit_of_gradients_made_in_rounds(name: str) -> None:
    layer, threads = getattr(fused_rnn, name)(20, 140), torch.get_num_threads()
    x = torch.randn(90, 17, 20, requires_grad=True)  # rounds of a few hundred rows each
    found: list[tuple[Tensor, ...]] = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            output, state = layer(x)
            h_n = state[0] if name == "LSTM" else state
            found.append(torch.autograd.grad(output.square().sum() + h_n.sum(), [x, *layer.parameters()]))
    finally:
        torch.set_num_threads(threads)
    for gradients in found[1:]:
        assert all(map(torch.equal, gradients, found[0]))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_single_steps_give_the_sequence(name: str) -> None:
    layer = getattr(fused_rnn, name)(20, 70, num_layers=2)
    x = torch.randn(6, 5, 20)
    with torch.no_grad():
        whole, state = layer(x)[0], None
        for t in range(6):
            output, state = layer(x[t : t + 1], state)
            torch.testing.assert_close(output[0], whole[t], rtol=1e-5, atol=1e-6)  # sums of another order


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])
def test_opcheck_passes(cell: str, proj: int, directions: int) -> None:
    given = draw(cell, 3, 2, directions, 4, 5, proj)
    ends = {"lengths": torch.tensor([1, 3]), "resets": torch.tensor([[False, True], [False, True], [True, False]])}
    for save, arguments in ((False, given), (True, given._replace(**ends, b_ih=None, h_0=None))):
        for hand_out in (False, True):
            torch.library.opcheck(
                torch.ops.fused_rnn.layer.default, (cell, *arguments, directions, save, hand_out, False)
            )


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 1), (3, 2, 2), (0, 2, 1), (299, 101, 1)])
def test_an_output_that_is_handed_out_is_not_what_the_backward_pass_reads(
    shape: tuple[int, int, int], save: bool
) -> None:
    time_steps, batch, directions = shape
    given = draw("lstm", time_steps, batch, directions, 4, 20)
    kept = _ops.layer("lstm", given, directions, save=save)
    result = _ops.layer("lstm", given, directions, save=save, hand_out=True)
    assert torch.equal(result.handed_out, kept.output.flatten(2))
    assert result.handed_out.is_contiguous()
    assert not result.handed_out._is_view()
    assert kept.handed_out.shape == (0,)
    assert torch.equal(result.output, kept.output) if save else result.output.shape == (0,)
    if save and time_steps > 0:
        assert result.handed_out.untyped_storage().data_ptr() != result.output.untyped_storage().data_ptr()


def test_torch_copies_nothing_since_its_threads_would_wait_beside_other_work() -> None:
    layer, x = fused_rnn.LSTM(4, 20), torch.randn(299, 101, 4)
    with torch.profiler.profile() as profile:
        output, _ = layer(x)
        torch.autograd.backward(output, torch.ones_like(output))
    names = [event.name for event in profile.events()]
    assert "fused_rnn::layer" in names
    assert "aten::copy_" not in names


def step_arguments(given: LayerArguments) -> list[Tensor | None]:
    states = [None if state is None else state[0] for state in (given.h_0, given.c_0)]
    return [given.x[0], given.w_ih, given.b_ih, given.w_hh, given.b_hh, *states]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", CELLS)
def test_the_operator_of_a_step_has_the_bits_of_a_layer_with_one_step(cell: str, dtype: torch.dtype) -> None:
    for given in (draw(cell, 1, 3, 1, 9, 20, dtype=dtype), draw(cell, 1, 0, 1, 9, 20, dtype=dtype)):
        for arguments in (given, given._replace(b_ih=None, b_hh=None), given._replace(h_0=None, c_0=None)):
            whole = _ops.layer(cell, arguments, 1, save=False)
            h, c = _ops.step(cell, *step_arguments(arguments))
            torch.testing.assert_close(h, whole.h_n[0], rtol=0, atol=0)
            torch.testing.assert_close(c, whole.c_n[0] if cell == "lstm" else whole.c_n, rtol=0, atol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_opcheck_of_the_operator_of_a_step_passes(cell: str) -> None:
    torch.library.opcheck(torch.ops.fused_rnn.step.default, (cell, *step_arguments(draw(cell, 1, 2, 1, 4, 5))))


def test_the_operator_of_a_step_names_what_does_not_fit() -> None:
    x, w_ih, b_ih, w_hh, b_hh, h, c = step_arguments(draw("lstm", 1, 2, 1, 4, 5))
    with pytest.raises(RuntimeError, match=r"x must have shape \[B, I\], got \[4\]"):
        _ops.step("lstm", x[0], w_ih, b_ih, w_hh, b_hh, h, c)  # type: ignore[index]
    with pytest.raises(RuntimeError, match=r"h must have shape \[B, H\] = \[2, 5\], got \[1, 5\]"):
        _ops.step("lstm", x, w_ih, b_ih, w_hh, b_hh, h[:1], c)  # type: ignore[index]
    with pytest.raises(RuntimeError, match="c must be None for cell"):
        _ops.step("rnn_tanh", x, w_ih[:5], b_ih[:5], w_hh[:5], b_hh[:5], h, c)  # type: ignore[index]


def test_a_cell_takes_the_operator_of_a_step_without_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(cell: str, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        calls.append(cell)
        result: tuple[Tensor, Tensor] = _ops._step(cell, *tensors)
        return result

    monkeypatch.setattr(_ops, "step", counted)
    cell, x = fused_rnn.GRUCell(4, 5), torch.randn(2, 4)
    trained = cell(x)
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(cell(x), trained, rtol=1e-5, atol=1e-6)
        assert calls == ["gru"]
        with torch.autocast("cpu", torch.bfloat16):
            cell(x)
    torch.func.vmap(cell)(x.unsqueeze(0))
    assert calls == ["gru"]


def test_any_strides_will_do() -> None:
    given = draw("lstm", 6, 5, 1, 9, 12)
    strided = LayerArguments._make(
        None if t is None else t.transpose(0, -1).contiguous().transpose(0, -1) for t in given
    )
    batch_first = given._replace(x=given.x.transpose(0, 1).contiguous().transpose(0, 1))
    whole = _ops.layer("lstm", given, 1, save=True)
    for arguments in (strided, batch_first):
        assert all(map(torch.equal, _ops.layer("lstm", arguments, 1, save=True), whole))


def test_errors_name_the_argument() -> None:
    good = draw("lstm", 4, 3, 2, 5, 6, 2)
    for name, bad in (
        ("x", torch.zeros(4, 3)),
        ("w_ih", torch.zeros(48, 4)),
        ("b_ih", torch.zeros(47)),
        ("w_hh", torch.zeros(48)),
        ("b_hh", torch.zeros(2, 24)),
        ("w_hr", torch.zeros(4, 5)),
        ("h_0", torch.zeros(2, 3, 6)),
        ("c_0", torch.zeros(2, 3, 6, dtype=torch.float64)),
        ("lengths", torch.zeros(4, dtype=torch.int64)),
        ("resets", torch.zeros(4, 3)),
    ):
        with pytest.raises(RuntimeError, match=name):
            _ops.layer("lstm", good._replace(**{name: bad}), 2, save=False)
    with pytest.raises(RuntimeError, match="directions must be 1 or 2"):
        _ops.layer("lstm", good, 3, save=False)
    with pytest.raises(RuntimeError, match="w_hr must be None"):
        _ops.layer("gru", good, 2, save=False)
    with pytest.raises(RuntimeError, match="unit_weights must be given"):
        _ops.layer("lstm_peephole", good, 2, save=False)


def module_and_input(name: str, **options: Any) -> tuple[Any, Tensor, list[Tensor]]:
    torch.manual_seed(3)
    module = getattr(fused_rnn, name)(3, 5, dtype=torch.float64, **options)
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    return module, x, [x, *module.parameters()]


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_graph_that_is_kept_gives_the_same_gradients_again(name: str, options: dict[str, Any]) -> None:
    module, x, wanted = module_and_input(name, **options)
    output = module(x)[0]
    loss = output.sin().sum()
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    again = torch.autograd.grad(loss, wanted, create_graph=True)
    second = torch.autograd.grad(total_of_squares(again), wanted, retain_graph=True)
    last = torch.autograd.grad(loss, wanted)  # what is saved may be written over
    for one, other, third in zip(first, again, last, strict=True):
        torch.testing.assert_close(one, other)
        assert torch.equal(one, third)
    theirs = getattr(torch.nn, name)(3, 5, dtype=torch.float64, **options)
    theirs.load_state_dict(module.state_dict())
    wanted = [x, *theirs.parameters()]
    again = torch.autograd.grad(theirs(x)[0].sin().sum(), wanted, create_graph=True)
    for one, other in zip(second, torch.autograd.grad(total_of_squares(again), wanted), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.backward(loss)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_each_gradient_alone_is_that_of_all(name: str) -> None:
    module, x, wanted = module_and_input(name, bidirectional=True)
    everything = torch.autograd.grad(module(x)[0].sin().sum(), wanted)
    for index, tensor in enumerate(wanted):
        for each in wanted:
            each.requires_grad_(each is tensor)
        assert torch.equal(torch.autograd.grad(module(x)[0].sin().sum(), tensor)[0], everything[index])


def test_infinite_inputs_have_second_derivatives() -> None:
    module, x, _ = module_and_input("LSTM")
    with torch.no_grad():
        x[2, 1] = 1e308
        module.weight_ih_l0.fill_(10.0)
    (d_h,) = torch.autograd.grad(module(x)[0].sin().sum(), [module.weight_hh_l0], create_graph=True)
    assert torch.isfinite(d_h).all()
    (second,) = torch.autograd.grad(d_h.sum(), [module.weight_hh_l0])
    assert torch.isfinite(second).all()


@pytest.mark.usefixtures("by_ops")
def test_it_is_what_plain_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    layer = _ops.layer

    def recorded(cell: str, *given: Any, save: bool, hand_out: bool, heads: int) -> _ops.LayerResult:
        calls.append((cell, save, hand_out))
        return layer(cell, *given, save=save, hand_out=hand_out, heads=heads)

    monkeypatch.setattr(_ops, "layer", recorded)
    x = torch.randn(3, 2, 4)
    fused_rnn.GRU(4, 5)(x)
    with torch.no_grad():
        fused_rnn.LSTM(4, 5, num_layers=2)(x)
    assert calls == [("gru", True, True), ("lstm", False, False), ("lstm", False, True)]
    fused_rnn.LSTM(4, 5, layer_norm=True)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_rnn.GRU(4, 5)(x)
    torch.func.vmap(fused_rnn.GRU(4, 5))(x.unsqueeze(0))
    assert len(calls) == 3


def test_explain_says_that_the_gates_are_made() -> None:
    x = torch.randn(3, 2, 4)
    text = "W_ih x is made a few steps at a time"
    assert text in str(fused_rnn.explain(fused_rnn.LSTM(4, 5), x))
    assert text not in str(fused_rnn.explain(fused_rnn.LSTM(4, 5, layer_norm=True), x))


def test_the_whole_route_refuses_mixed_types() -> None:
    good = draw("gru", 3, 2, 1, 4, 5)
    assert _route.of_layer(good).kind is Forward.WHOLE
    assert _route.of_layer(good._replace(x=good.x.double())).kind is Forward.APART
    assert _route.of_layer(good._replace(x=good.x[:, :, :0])).kind is Forward.APART
