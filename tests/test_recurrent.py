"""Layers of cells that are written in Python: their kernels against plain torch and the built-in layers."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import fused_rnn
from fused_rnn import _ops
from fused_rnn._check_cell import in_plain_torch
from fused_rnn._published_cells import MinLSTMCell, SLSTMCell
from tests import own_cells
from tests.own_cells import Everything, OwnElman, OwnGRU, OwnLSTM, layer_in_torch
from tests.tolerances import relative_error

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SIZE = 19  # whole vectors and a part of one, in float32 and in float64
# The built-in layer of each cell. (Each cell and type is compiled for some seconds, so there are few.)
BUILT_IN: tuple[tuple[type[fused_rnn.Cell], str, dict[str, Any]], ...] = ((OwnLSTM, "LSTM", {}), (OwnGRU, "GRU", {}))
# Whether its kernels are compiled; those of all cells come from the same schedules and the same writer.
PUBLISHED = (
    (fused_rnn.CoupledLSTM, own_cells.coupled_lstm, False),
    (fused_rnn.SLSTM, own_cells.slstm, True),
    (fused_rnn.IndRNN, own_cells.indrnn, False),
    (fused_rnn.MinGRU, own_cells.mingru, False),
    (fused_rnn.MinLSTM, own_cells.minlstm, True),
)
# torch.func.jvp compiles torch's own derivatives with it.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
each_built_in = pytest.mark.parametrize(("cell", "name", "options"), BUILT_IN, ids=str)
LENGTHS = torch.tensor([4, 6, 0, 1])


def pair(cell: type[fused_rnn.Cell], name: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, Any]:
    """A layer of an own cell and the built-in one, with the same parameters."""
    own = fused_rnn.Recurrent(cell, 7, SIZE, dtype=dtype, **options)
    built_in = getattr(fused_rnn, name)(7, SIZE, dtype=dtype, **options)
    built_in.load_state_dict(own.state_dict())
    return own, built_in


def results(layer: Any, x: Tensor, *arguments: Any, **keywords: Any) -> list[Tensor]:
    """Values and gradients of x and the parameters."""
    x = x.detach().requires_grad_()
    output, last = layer(x, *arguments, **keywords)
    values = [output, *(last if isinstance(last, tuple) else (last,))]
    total = sum((value * torch.linspace(-1, 1, value.numel(), dtype=x.dtype).view_as(value)).sum() for value in values)
    inputs = [x, *(p for p in layer.parameters() if p.numel() > 0)]
    assert isinstance(total, torch.Tensor)
    return [*(value.detach() for value in values), *torch.autograd.grad(total, inputs)]


def assert_same(found: list[Tensor], expected: list[Tensor], limit: float) -> None:
    assert len(found) == len(expected)
    for actual, wanted in zip(found, expected, strict=True):
        assert relative_error(actual, wanted.double()) <= limit


@each_built_in
@pytest.mark.parametrize(
    ("layers", "keywords"),
    [
        ({}, {}),
        ({"num_layers": 2, "bidirectional": True}, {}),
        ({"bidirectional": True}, {"lengths": LENGTHS}),
        ({"bidirectional": True, "batch_first": True}, {}),
    ],
    ids=str,
)
def test_own_cell_equals_built_in_layer(
    cell: type[fused_rnn.Cell], name: str, options: dict[str, Any], layers: dict[str, Any], keywords: dict[str, Any]
) -> None:
    own, built_in = pair(cell, name, **options, **layers)
    x = torch.randn(6, 4, 7)
    with fused_rnn.strict():
        found = results(own, x, **keywords)
    assert_same(found, results(built_in, x, **keywords), 2e-6)


@each_built_in
def test_resets_packed_and_single_steps(cell: type[fused_rnn.Cell], name: str, options: dict[str, Any]) -> None:
    own, built_in = pair(cell, name, **options)
    x, resets = torch.randn(6, 4, 7), torch.rand(6, 4) < 0.3
    assert_same(results(own, x, resets=resets), results(built_in, x, resets=resets), 2e-6)
    packed = pack_padded_sequence(x, torch.tensor([6, 2, 5, 1]), enforce_sorted=False)
    assert relative_error(own(packed)[0].data, built_in(packed)[0].data.double()) < 2e-6
    with torch.no_grad():
        assert relative_error(own(x[:1])[0], built_in(x[:1])[0].double()) < 2e-6
        stepper = fused_rnn.Stepper(own, 4)
        assert relative_error(stepper.steps(x), built_in(x)[0].double()) < 2e-6
        state = stepper.state
        assert_same(
            list(state) if isinstance(state, tuple) else [state],
            [*(last if isinstance(last := built_in(x)[1], tuple) else (last,))],
            2e-6,
        )


@each_built_in
@pytest.mark.parametrize(
    "variant", [{"zoneout": 0.3}, {"recurrent_dropout": 0.25}, {"weight_dropout": 0.4}, {"recompute": True}], ids=str
)
def test_variants_draw_what_built_in_layers_draw(
    cell: type[fused_rnn.Cell], name: str, options: dict[str, Any], variant: dict[str, Any]
) -> None:
    own, built_in = pair(cell, name, **options, **variant)
    x = torch.randn(6, 4, 7)
    torch.manual_seed(3)
    found = results(own, x)
    torch.manual_seed(3)
    assert_same(found, results(built_in, x), 5e-6)


@pytest.mark.parametrize(("kind", "step", "compiled"), PUBLISHED, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("time_steps", [1, 30])
def test_published_layers_equal_their_formulas(
    kind: Any, step: Any, compiled: bool, time_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = 1 if kind in {fused_rnn.IndRNN, fused_rnn.MinGRU, fused_rnn.MinLSTM} else 4
    layer = kind(5, 20, num_heads=heads, dtype=torch.float64)
    x = torch.randn(time_steps, 3, 5, dtype=torch.float64)
    if compiled:
        with fused_rnn.strict():
            found = results(layer, x)
    else:
        monkeypatch.setattr(layer, "_prepare_kernels", lambda: None)
        found = results(layer, x)
    x.requires_grad_()
    output, last = layer_in_torch(layer, x, step)
    values = [output, *last]
    total = sum((value * torch.linspace(-1, 1, value.numel(), dtype=x.dtype).view_as(value)).sum() for value in values)
    inputs = [x, *(p for p in layer.parameters() if p.numel() > 0)]
    assert isinstance(total, torch.Tensor)
    expected = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    assert_same(found, [*values, *expected], 1e-10)


@pytest.mark.parametrize(("kind", "compiled"), [(fused_rnn.MinGRU, False), (fused_rnn.MinLSTM, True)])
def test_minimal_layers_equal_their_parallel_form(kind: Any, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = kind(5, 20, dtype=torch.float64)
    if not compiled:
        monkeypatch.setattr(layer, "_prepare_kernels", lambda: None)
    x = torch.randn(37, 3, 5, dtype=torch.float64, requires_grad=True)
    given = [x, *layer.parameters()]
    output = layer(x)[0]
    gates = torch.nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0).chunk(3 if compiled else 2, 2)
    *others, new = gates
    z = torch.sigmoid(others[-1])  # of a MinGRU, and the input gate of a MinLSTM
    z = z / (z + torch.sigmoid(others[0])) if compiled else z
    # h' = a h + b for all steps at once, by the scan of Hillis and Steele (1986).
    a, b = 1 - z, z * new
    for distance in (1, 2, 4, 8, 16, 32):
        b = torch.cat([b[:distance], a[distance:] * b[:-distance] + b[distance:]])
        a = torch.cat([a[:distance], a[distance:] * a[:-distance]])
    weight = torch.linspace(-1, 1, output.numel(), dtype=x.dtype).view_as(output)
    found, expected = (torch.autograd.grad((each * weight).sum(), given) for each in (output, b))
    assert_same([output, *found], [b, *expected], 1e-12)


def test_constants_are_shown_where_they_are_not_the_usual_ones() -> None:
    class Scaled(OwnElman):
        def __init__(self, scale: float, kind: str = "usual") -> None:
            self.scale, self.kind, self.half, self.table = scale, kind, scale / 2, [scale]

    assert repr(fused_rnn.Recurrent(Everything, 2, 3, device="meta")) == "Recurrent(Everything, 2, 3)"
    assert repr(fused_rnn.MinGRU(2, 3, 2, device="meta")) == "MinGRU(MinGRUCell, 2, 3, num_layers=2)"
    shown = repr(fused_rnn.Recurrent(Scaled(4.0), 2, 3, device="meta"))
    assert shown == "Recurrent(Scaled(scale=4.0, kind=usual, half=2.0), 2, 3)"


def test_states_of_all_steps() -> None:
    layer = fused_rnn.SLSTM(5, 20, bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    output, last, states = layer(x, return_states=True)
    assert list(states) == ["h", "c", "n", "m"] == list(layer.states)
    assert torch.equal(states["h"], output)
    for state, final in zip(states.values(), last, strict=True):
        assert torch.equal(state[-1, :, :20], final[0])
        assert torch.equal(state[0, :, 20:], final[1])
    again = layer(x, tuple(torch.zeros_like(each) for each in last))[0]
    assert torch.equal(again, output)


@pytest.mark.parametrize("cell", [Everything(), MinLSTMCell, SLSTMCell], ids=["Everything", "MinLSTM", "SLSTM"])
@pytest.mark.parametrize("options", [{}, {"bias": False, "batch_first": True}], ids=str)
def test_short_calls_return_what_checked_ones_do(
    cell: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = fused_rnn.Recurrent(cell, 5, SIZE, dtype=torch.float64, **options)
    x = torch.randn(3, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        hx = layer(x)[1]
    found = results(layer, x, hx), results(layer, x)
    monkeypatch.setattr(layer, "_run_unchecked", lambda *_: None)
    assert_same(found[0], results(layer, x, hx), 1e-13)
    assert_same(found[1], results(layer, x), 1e-13)


def test_states_that_fit_only_side_by_side_are_refused() -> None:
    layer = fused_rnn.SLSTM(5, SIZE, dtype=torch.float64)
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    h, c, n, m = layer(x)[1]
    for states, message in (
        ((h, c[..., :-1], torch.cat([n, n[..., :1]], 2), m), r"hx\[1\] must have shape"),
        ((h, c.float(), n, m), r"hx\[1\] has dtype torch.float32"),
        ((h, c[:, :1], n[:, :1], m[:, :1]), r"hx\[1\] must have shape"),
        (tuple(torch.cat([each, each], 1) for each in (h, c, n, m)), r"hx\[0\] must have shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            layer(x, states)


def test_second_derivatives_and_transforms() -> None:
    layer = fused_rnn.MinLSTM(2, 3, dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda value: layer(value)[0], x)
    own = fused_rnn.Recurrent(OwnLSTM, 7, SIZE)
    parameters: dict[str, Tensor] = dict(own.named_parameters())
    batch = torch.randn(4, 6, 7)

    def loss(values: dict[str, Tensor], one: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(own, values, (one,))[0].square().sum()
        return found

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    for name in parameters:
        rows = torch.stack([torch.func.grad(loss)(parameters, one)[name] for one in batch])
        assert relative_error(each[name], rows.double()) < 1e-5
    tangent = torch.func.jvp(lambda value: own(value)[0], (batch,), (torch.ones_like(batch),))[1]
    assert tangent.isfinite().all()


def test_compiled_and_exported_cells_keep_their_values() -> None:
    own = fused_rnn.Recurrent(OwnLSTM, 7, SIZE)
    x = torch.randn(6, 4, 7)
    eager = results(own, x)
    assert_same(results(torch.compile(own, backend="aot_eager", fullgraph=True), x), eager, 2e-6)
    first = fused_rnn.MinLSTM(5, SIZE, dtype=torch.float64)  # compiled before it has run
    _ops.LOADED[first.cell].clear()
    assert torch.compile(first, backend="aot_eager")(torch.randn(3, 2, 5, dtype=torch.float64))[0].isfinite().all()
    program = torch.export.export(own.eval(), (x,))
    assert "fused_rnn.forward" in str(program.graph)
    assert relative_error(program.module()(x)[0], own(x)[0].double()) < 2e-6


def test_zoneout_of_several_states_has_the_gradients_of_plain_torch() -> None:
    own = fused_rnn.Recurrent(Everything(), 7, SIZE, dtype=torch.float64, zoneout=0.3)
    x = torch.randn(6, 4, 7, dtype=torch.float64)
    torch.manual_seed(3)
    found = results(own, x)
    with in_plain_torch(own.cell):
        torch.manual_seed(3)
        expected = results(own, x)
    assert_same(found, expected, 1e-10)


def test_a_cell_that_is_changed_afterwards_is_another_one() -> None:
    cell = Everything()
    own = fused_rnn.Recurrent(cell, 7, SIZE, dtype=torch.float64)
    x = torch.randn(3, 2, 7, dtype=torch.float64)
    expected = own(x)[0]
    cell.rate = 2.0
    assert torch.equal(own(x)[0], expected)
    changed = fused_rnn.Recurrent(cell, 7, SIZE, dtype=torch.float64)
    assert changed.cell != own.cell
    with in_plain_torch(own.cell):  # which has the number that the kernels have
        assert relative_error(own(x)[0], expected) < 1e-12


def test_layers_without_recurrent_gates_have_no_empty_parameters() -> None:
    layer = fused_rnn.MinLSTM(5, 8, num_layers=2, bidirectional=True, dtype=torch.float64)
    assert all("_hh_" not in name and parameter.numel() > 0 for name, parameter in layer.named_parameters())
    without = fused_rnn.MinLSTM(5, 8, bias=False, dtype=torch.float64)
    assert [name for name, _ in without.named_parameters()] == ["weight_ih_l0"]
    for each in (layer, without, copy.deepcopy(layer)):
        found = results(each, torch.randn(4, 2, 5, dtype=torch.float64))
        assert all(value.isfinite().all() for value in found)


def test_exponentials_reach_zero_and_infinity() -> None:
    class Exponential(fused_rnn.Cell):
        input_gates = ("a",)

        def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
            return {"h": fused_rnn.cells.exp(gate.a) + 0 * state.h}

    layer: Any = fused_rnn.Recurrent(Exponential, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
        given = torch.tensor([-1000.0, -100.0, -20.0, 0.0, 1.0, 88.0, 89.0, 1000.0]).view(1, 8, 1)
        with fused_rnn.strict():
            found = layer(given)[0]
    torch.testing.assert_close(found, given.exp(), rtol=1e-6, atol=0)


def test_names_of_the_headers_and_of_cpp_can_be_those_of_cells() -> None:
    def step(_: Any, gate: Any, state: Any) -> dict[str, Any]:
        nullptr = fused_rnn.cells.tanh(gate.a)
        NAN, Pack = nullptr * 0.5, nullptr + state.h
        return {"h": NAN * Pack}

    for name in ("LstmCell", "Pack", "relu", "Barrier", "INFINITY", "a/b"):
        cell: Any = type(name, (fused_rnn.Cell,), {"gates": ("a",), "step": step})
        source = cell.source()
        assert "const V nullptr_ =" in source
        assert "const V NAN_ =" in source
        assert "struct " + {"LstmCell": "LstmCell", "Barrier": "Barrier", "a/b": "a_b"}.get(name, f"{name}_") in source


def test_copies_and_pickles() -> None:
    own = fused_rnn.Recurrent(Everything(), 7, SIZE, dtype=torch.float64)
    x = torch.randn(3, 2, 7, dtype=torch.float64)
    expected = own(x)[0]
    for other in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert torch.equal(other(x)[0], expected)
    buffer = io.BytesIO()
    torch.save(own.state_dict(), buffer)
    buffer.seek(0)
    fresh = fused_rnn.Recurrent(Everything(), 7, SIZE, dtype=torch.float64)
    fresh.load_state_dict(torch.load(buffer))
    assert torch.equal(fresh(x)[0], expected)
    another = fused_rnn.Recurrent(Everything(rate=0.5), 7, SIZE, dtype=torch.float64)
    assert another.cell != own.cell  # another number is another cell
    assert repr(another) == "Recurrent(Everything(rate=0.5), 7, 19)"


def test_other_functions_leave_own_cells_alone() -> None:
    own = fused_rnn.Recurrent(OwnLSTM, 7, SIZE)
    model = torch.nn.ModuleDict({"own": own, "lstm": torch.nn.LSTM(7, SIZE)})
    assert fused_rnn.convert(model)["own"] is own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert type(fused_rnn.quantize(model)["own"]) is fused_rnn.Recurrent
    text = str(fused_rnn.explain(own, torch.randn(6, 4, 7)))
    assert "own kernels" in text
    assert "layer 0: OwnLSTM: T=6" in text  # without the digest in the name of its kernels
    with pytest.raises(NotImplementedError, match="exact weights"):
        fused_rnn.Stepper(own, weights=torch.int8)


def test_half_types_and_autocast() -> None:
    own, built_in = pair(OwnLSTM, "LSTM")
    x = torch.randn(6, 4, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = own(x)[0]
    assert relative_error(found, built_in(x)[0].double()) < 0.02
    half = fused_rnn.Recurrent(OwnElman, 7, SIZE, dtype=torch.bfloat16)
    exact = fused_rnn.RNN(7, SIZE)
    exact.load_state_dict(half.state_dict())
    with fused_rnn.strict():
        values = half(x.to(torch.bfloat16))[0]
    assert values.dtype == torch.bfloat16
    assert relative_error(values, exact(x)[0].double()) < 0.02


def test_without_a_compiler_plain_torch_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Alone(fused_rnn.Cell):
        gates = ("a",)

        def step(self, gate: Any, state: Any) -> dict[str, Any]:  # type: ignore[override]
            return {"h": 0.123 * state.h + fused_rnn.cells.tanh(gate.a)}

    monkeypatch.setenv("FUSED_RNN_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    layer = fused_rnn.Recurrent(Alone, 5, 4)
    x = torch.randn(3, 2, 5)
    with pytest.warns(UserWarning, match="plain torch.*no C\\+\\+ compiler was found.*no-such-compiler"):
        expected = layer(x)[0]
    assert torch.equal(layer(x)[0], expected)  # without another warning
    assert "plain torch" in str(fused_rnn.explain(layer, x))
    plan = fused_rnn.explain(layer, x, device=fused_rnn.CudaDevice(90, 132, 232448))
    assert plan.answer.startswith("Recurrent, training: not known. Why: another GPU is planned for with the cell's ker")
    assert [(each.name, each.schedule) for each in plan.layers[0].passes] == [
        ("forward", "unknown"),
        ("backward", "unknown"),
    ]
    with fused_rnn.strict(), pytest.raises(fused_rnn.ReferencePathError, match="no kernels"):
        layer(x)


def test_source_is_a_cell_as_the_built_in_ones() -> None:
    text = OwnLSTM.source()
    assert "kGates = 4, kStates = 2, kSaved = 4" in text
    assert "const V f = sigmoid(from_x[1] + from_h[1]);" in text
    assert "kGates = 3, kStates = 1, kSaved = 4" in OwnGRU.source()
    assert "kJointGates = 2" in OwnGRU.source()
    assert "kGates = 1, kStates = 1, kSaved = 0" in OwnElman.source()
    assert Everything(rate=0.5).source() != Everything(rate=0.25).source()
