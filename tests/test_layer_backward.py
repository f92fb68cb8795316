"""The operator that makes all gradients of a layer in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fused_rnn
from fused_rnn import _ops, _products, _whole_layer
from tests.test_whole_layer import draw
from tests.tolerances import relative_error

if TYPE_CHECKING:
    from fused_rnn._tensors import LayerArguments


def gradients(name: str, time_steps: int, batch: int, **options: Any) -> list[Tensor]:
    torch.manual_seed(4)
    state = options.pop("state")
    dtype = options.pop("dtype", torch.float64)
    layer = getattr(fused_rnn, name)(19, 33, dtype=dtype, **options)
    sizes = (batch, time_steps, 19) if layer.batch_first else (time_steps, batch, 19)
    x = torch.randn(sizes, dtype=dtype, requires_grad=True)
    rows = 2 if layer.bidirectional else 1
    states = [torch.randn(rows, batch, 33, dtype=dtype, requires_grad=True) for _ in range(2)]
    hx = None if not state else tuple(states) if name == "LSTM" else states[0]
    output, last = layer(x, hx)
    last = torch.cat(last) if name == "LSTM" else last
    inputs = [x, *layer.parameters(), *([] if not state else states if name == "LSTM" else states[:1])]
    return list(torch.autograd.grad(output.sin().sum() + last.cos().sum(), inputs))


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("state", [True, False], ids=["state", "zero"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_gradients_by_one_call_are_those_of_several(
    name: str, state: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for time_steps, batch in ((1, 1), (1, 20), (2, 3), (5, 70)):
        found = gradients(name, time_steps, batch, state=state, **options)
        with monkeypatch.context() as several:
            several.setattr(_whole_layer, "_can_be_one_call", lambda *_: False)
            for one, other in zip(found, gradients(name, time_steps, batch, state=state, **options), strict=True):
                assert one.shape == other.shape
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("state", [True, False], ids=["state", "zero"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_half_types_by_one_call_are_as_exact_as_by_several(
    name: str, state: bool, directions: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_products, "_ENABLED", True)  # whatever the processor
    calls = record_layer_backward(monkeypatch)
    options: dict[str, Any] = {"state": state, "dtype": dtype, "bidirectional": directions == 2}
    for time_steps, batch in ((1, 1), (2, 3), (300, 3), (9, 70)):  # the last ones take several rounds
        found = gradients(name, time_steps, batch, **options)
        assert calls.pop() == dtype
        with monkeypatch.context() as several:
            several.setattr(_whole_layer, "_can_be_one_call", lambda *_: False)
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
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_opcheck_of_the_backward_operator_passes(cell: str, directions: int, over: bool) -> None:
    given = draw(cell, 3, 2, directions, 4, 5)
    result = _ops.layer(cell, given, directions, save=True)
    saved = (None, result.saved) if over else (result.saved, None)
    torch.library.opcheck(
        torch.ops.fused_rnn.layer_backward.default,
        (cell, torch.randn_like(result.output), None, None, None, given.x, given.w_ih, given.w_hh, result.output,
         result.cells, *saved, given.h_0, given.c_0, True, False, True, True),
    )  # fmt: skip


def test_the_backward_operator_names_what_is_wrong() -> None:
    given = draw("lstm", 4, 3, 1, 5, 6)
    result = _ops.layer("lstm", given, 1, save=True)

    def call(arguments: LayerArguments, *saved: Tensor | None) -> None:
        torch.ops.fused_rnn.layer_backward(
            "lstm", result.output, None, None, None, arguments.x, arguments.w_ih, arguments.w_hh, result.output,
            result.cells, *saved, arguments.h_0, arguments.c_0, True, True, True, True,
        )  # fmt: skip

    call(given, result.saved, None)
    for name, bad in (("w_ih", torch.zeros(24, 4)), ("w_hh", torch.zeros(24, 7)), ("x", torch.zeros(4, 3)),
                      ("h_0", torch.zeros(1, 4, 6))):  # fmt: skip
        with pytest.raises(RuntimeError, match=name):
            call(given._replace(**{name: bad}), result.saved, None)
    for saved in ((None, None), (result.saved, result.saved)):
        with pytest.raises(RuntimeError, match="either saved or written_over"):
            call(given, *saved)
    rnn = draw("rnn_tanh", 4, 3, 1, 5, 6)
    kept = _ops.layer("rnn_tanh", rnn, 1, save=True)
    with pytest.raises(RuntimeError, match="saved cannot be written over"):
        _ops.layer_backward(
            "rnn_tanh", (kept.output, None, None, None), rnn, (kept.output, kept.cells, kept.saved),
            (True, True, True, True), over=True,
        )  # fmt: skip
