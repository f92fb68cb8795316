"""torch.jit.trace takes layers and cells for all sizes, also from a file; torch.jit.script refuses them in words."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

import fused_rnn

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
    # Checks of arguments look at sizes, here as in torch.nn: what fits when traced is not checked again.
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("GRU", {"bidirectional": True}),
    ("RNN", {"bias": False, "batch_first": True}),
    ("LSTMCell", {}),
    ("GRUCell", {}),
    ("RNNCell", {"nonlinearity": "relu"}),
)
SIZES = ((1, 1), (4, 2), (9, 5))
each_module = pytest.mark.parametrize(("name", "options"), MODULES, ids=str)


class WithLengths(torch.nn.Module):
    """A layer whose lengths and resets are positional arguments."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, lengths: torch.Tensor, resets: torch.Tensor) -> Any:
        return self.layer(x, lengths=lengths, resets=resets)


def flat(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def assert_same(actual: Any, expected: Any) -> None:
    for one, other in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(one, other)


def input_of(name: str, sizes: tuple[int, int]) -> torch.Tensor:
    return torch.randn(*(sizes[1:] if name.endswith("Cell") else sizes), 3)


def trace(module: torch.nn.Module, arguments: tuple[Any, ...]) -> Any:
    return torch.jit.trace(module, arguments)  # type: ignore[no-untyped-call]


def reloaded(traced: torch.jit.ScriptModule) -> Any:
    """The module from a file."""
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@each_module
def test_a_trace_computes_what_torch_computes_for_all_sizes(name: str, options: dict[str, Any], grad: bool) -> None:
    ours, theirs = (getattr(each, name)(3, 5, **options) for each in (fused_rnn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    with torch.set_grad_enabled(grad):
        traced = trace(ours, (input_of(name, (4, 2)),))
    loaded = reloaded(traced)
    for sizes in SIZES:
        x = input_of(name, sizes)
        for module in (traced, loaded):
            assert_same(module(x), theirs(x))


def test_a_trace_takes_states() -> None:
    ours, theirs = (each.LSTM(3, 5, num_layers=2) for each in (fused_rnn, torch.nn))
    ours.load_state_dict(theirs.state_dict())

    def arguments(time_steps: int, batch: int) -> tuple[Any, ...]:
        return torch.randn(time_steps, batch, 3), (torch.randn(2, batch, 5), torch.randn(2, batch, 5))

    traced = trace(ours, arguments(4, 2))
    given = arguments(7, 3)
    assert_same(traced(*given), theirs(*given))


def test_a_trace_takes_lengths_and_resets() -> None:
    module = WithLengths(fused_rnn.GRU(3, 5, bidirectional=True))
    traced = trace(module, (torch.randn(4, 2, 3), torch.tensor([3, 4]), torch.rand(4, 2) < 0.5))
    x, lengths, resets = torch.randn(7, 3, 3), torch.tensor([7, 0, 5]), torch.rand(7, 3) < 0.5
    x[5:, 2] = torch.nan
    assert_same(traced(x, lengths, resets), module(x, lengths, resets))


def test_gradients_through_a_trace_are_refused() -> None:
    traced = trace(fused_rnn.GRU(3, 5), (torch.randn(4, 2, 3),))
    loss = traced(torch.randn(4, 2, 3))[0].sum()
    with pytest.raises(RuntimeError, match="kept nothing for a backward pass, since"):
        loss.backward()


@each_module
def test_script_is_refused_in_words(name: str, options: dict[str, Any]) -> None:
    module = getattr(fused_rnn, name)(3, 5, **options)
    for one in (module, torch.nn.ModuleList([module])):
        with pytest.raises(NotImplementedError, match=f"{name}: torch.jit.script cannot read this module"):
            torch.jit.script(one)


@each_module
@pytest.mark.parametrize("wrap", [lambda module: module, torch.nn.Sequential], ids=["attribute", "nested"])
def test_a_class_of_scripts_is_refused_in_the_same_words(name: str, options: dict[str, Any], wrap: Any) -> None:
    script_method: Any = vars(torch.jit)["script_method"]

    class Scripted(torch.jit.ScriptModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = wrap(getattr(fused_rnn, name)(3, 5, **options))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(x)
            return result

        forward = script_method(forward)

    with pytest.raises(NotImplementedError, match=f"{name}: torch.jit.script cannot read this module"):
        Scripted()
