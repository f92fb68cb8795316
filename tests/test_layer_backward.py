"""The operator that makes all gradients of a layer in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn import _ops, _products, _route
from fused_rnn._tensors import Incoming, Kept, LayerArguments
from tests.test_whole_layer import draw
from tests.tolerances import relative_error

pytestmark = pytest.mark.usefixtures("by_ops")


def gradients(name: str, time_steps: int, batch: int, **options: Any) -> list[Tensor]:
    torch.manual_seed(4)
    state = options.pop("state")
    dtype = options.pop("dtype", torch.float64)
    ends = {"lengths": torch.randint(0, time_steps + 1, (batch,)), "resets": torch.rand(time_steps, batch) < 0.2}
    if options.get("batch_first", False):
        ends["resets"] = ends["resets"].t()
    ragged = {end: ends[end] for end in options.pop("ragged", ())}
    layer = getattr(fused_rnn, name)(19, 33, dtype=dtype, **options)
    sizes = (batch, time_steps, 19) if layer.batch_first else (time_steps, batch, 19)
    x = torch.randn(sizes, dtype=dtype, requires_grad=True)
    rows = 2 if layer.bidirectional else 1
    widths = (layer.proj_size or 33, 33)
    states = [torch.randn(rows, batch, width, dtype=dtype, requires_grad=True) for width in widths]
    hx = None if not state else tuple(states) if name == "LSTM" else states[0]
    output, last = layer(x, hx, **ragged)
    last = torch.cat([each.flatten() for each in last])
    inputs = [x, *layer.parameters(), *([] if not state else states if name == "LSTM" else states[:1])]
    return list(torch.autograd.grad(output.sin().sum() + last.cos().sum(), inputs))


RAGGED = [{"ragged": ends} for ends in ((), ("lengths",), ("resets",), ("lengths", "resets"))]


@pytest.mark.parametrize("ragged", RAGGED, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"bias": False}, {"batch_first": True}, {"proj_size": 20}], ids=str
)
@pytest.mark.parametrize("state", [True, False], ids=["state", "zero"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_gradients_by_one_call_are_those_of_several(
    name: str, state: bool, options: dict[str, Any], ragged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "LSTM" and "proj_size" in options:
        options = {"bidirectional": True, "bias": False}
    options = {**options, **ragged}
    calls = record_layer_backward(monkeypatch)
    for time_steps, batch in ((1, 1), (1, 20), (2, 3), (5, 70)):
        found = gradients(name, time_steps, batch, state=state, **options)
        assert calls.pop() == torch.float64
        with monkeypatch.context() as several:
            several.setattr(_route, "uses_own_gemms", lambda _: False)
            for one, other in zip(found, gradients(name, time_steps, batch, state=state, **options), strict=True):
                assert one.shape == other.shape
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("ragged", RAGGED[::3], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("state", [True, False], ids=["state", "zero"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_half_types_by_one_call_are_as_exact_as_by_several(
    name: str, state: bool, directions: int, dtype: torch.dtype, ragged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_products, "_ENABLED", True)  # whatever the processor
    calls = record_layer_backward(monkeypatch)
    options: dict[str, Any] = {"state": state, "dtype": dtype, "bidirectional": directions == 2, **ragged}
    for time_steps, batch in ((1, 1), (2, 3), (300, 3), (9, 70)):  # the last ones take several rounds
        found = gradients(name, time_steps, batch, **options)
        assert calls.pop() == dtype
        with monkeypatch.context() as several:
            several.setattr(_route, "uses_own_gemms", lambda _: False)
            for one, other in zip(found, gradients(name, time_steps, batch, **options), strict=True):
                assert one.dtype == other.dtype == dtype
                # The gradients of the gates are the same; each sum of them is rounded once.
                assert relative_error(one, other.double()) <= 2 * torch.finfo(dtype).eps
        assert not calls


def record_layer_backward(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types of the calls from here on."""
    calls: list[torch.dtype] = []
    run = _ops.layer_backward

    def recorded(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[2].x.dtype)
        return run(*arguments, **options)

    monkeypatch.setattr(_ops, "layer_backward", recorded)
    return calls


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_no_steps_have_gradients(name: str) -> None:
    for d in gradients(name, 0, 3, state=True)[1:-2]:
        assert not d.any()


@pytest.mark.parametrize("over", [True, False])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("cell", "proj"), [("lstm", 0), ("gru", 0), ("lstm", 3)])
def test_opcheck_of_the_backward_operator_passes(cell: str, proj: int, directions: int, over: bool) -> None:
    given = draw(cell, 3, 2, directions, 4, 5, proj)
    result = _ops.layer(cell, given, directions, save=True)
    operators = torch.ops.fused_rnn
    ends = (torch.tensor([3, 1]), torch.zeros(3, 2, dtype=torch.bool)) if proj else (None, None)
    torch.library.opcheck(
        (operators.layer_backward_in_place if over else operators.layer_backward).default,
        (cell, torch.randn_like(result.output), None, None, None, given.x, given.w_ih, given.w_hh, given.w_hr,
         result.output, result.cells, result.saved, result.hidden if proj else None, given.h_0, given.c_0, *ends,
         None, None, None, True, False, True, True, proj > 0, False),
    )  # fmt: skip


def test_the_backward_operator_names_what_is_wrong() -> None:
    given = draw("lstm", 4, 3, 1, 5, 6, 2)
    result = _ops.layer("lstm", given, 1, save=True)

    def call(arguments: LayerArguments, saved: Tensor, hidden: Tensor | None = result.hidden) -> None:
        torch.ops.fused_rnn.layer_backward(
            "lstm", result.output, None, None, None, arguments.x, arguments.w_ih, arguments.w_hh, arguments.w_hr,
            result.output, result.cells, saved, hidden, arguments.h_0, arguments.c_0, arguments.lengths,
            arguments.resets, None, None, None, True, True, True, True, True, False,
        )  # fmt: skip

    call(given, result.saved)
    for name, bad in (("w_ih", torch.zeros(24, 4)), ("w_hr", torch.zeros(2, 5)), ("x", torch.zeros(4, 3)),
                      ("w_hh", torch.zeros(25, 2)), ("h_0", torch.zeros(1, 4, 6)), ("c_0", torch.zeros(1, 3, 2)),
                      ("lengths", torch.zeros(4, dtype=torch.int64)), ("resets", torch.zeros(4, 3))):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"^fused_rnn: {name}"):
            call(given._replace(**{name: bad}), result.saved)
    with pytest.raises(RuntimeError, match="saved must have shape"):
        call(given, result.saved[:3])
    for hidden in (None, result.hidden[:3]):
        with pytest.raises(RuntimeError, match="hidden must"):
            call(given, result.saved, hidden)
    rnn = draw("rnn_tanh", 4, 3, 1, 5, 6)
    kept = _ops.layer("rnn_tanh", rnn, 1, save=True)
    with pytest.raises(RuntimeError, match="saved cannot be written over"):
        _ops.layer_backward(
            "rnn_tanh", Incoming(kept.output), rnn, Kept(kept.output, kept.cells, kept.saved, kept.hidden),
            LayerArguments._make(t is not None for t in rnn), in_place=True,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_what_lies_beyond_a_length_reaches_no_gradient(name: str) -> None:
    layer = getattr(fused_rnn, name)(19, 33, bidirectional=True)
    lengths, x = torch.tensor([0, 4, 2, 6]), torch.randn(6, 4, 19)
    padding = torch.arange(6).unsqueeze(1) >= lengths
    found = []
    for filling in (0.0, torch.nan):
        filled = x.masked_fill(padding.unsqueeze(2), filling).requires_grad_()
        loss = layer(filled, lengths=lengths)[0].square().sum()
        found.append(torch.autograd.grad(loss, [filled, *layer.parameters()]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert not found[1][0][padding].any()
