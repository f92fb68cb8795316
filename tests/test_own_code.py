"""What a call of a module runs besides its class, and a Stepper or a stream does not: it is named, never just gone."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class OwnForward(fused_rnn.LSTM):
    """Its output is another one."""

    def forward(self, *given: Any, **named: Any) -> Any:
        output, state = super().forward(*given, **named)
        return 2.0 * output, state


class OwnName(fused_rnn.GRU):
    """Its instances behave as those of its base."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 4)

    def width(self) -> int:
        return self.hidden_size


def with_forward(module: nn.Module) -> nn.Module:
    module.forward = lambda x: (x, None)
    return module


def with_hook(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *_: None)
    return module


def with_hook_before(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda *_: None)
    return module


def stepped(module: nn.Module, _: Path) -> None:
    fused_rnn.Stepper(module)


def saved(module: nn.Module, folder: Path) -> None:
    fused_rnn.save_stream(module, folder / "model")


LAYERS: tuple[Callable[[], nn.Module], ...] = (
    lambda: fused_rnn.LSTM(3, 4),
    lambda: nn.GRU(3, 4),
    lambda: fused_rnn.quantize(fused_rnn.RNN(3, 4)),
    lambda: OwnName(3),
)
SEQUENCES: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Sequential(fused_rnn.LSTM(3, 4), nn.Linear(4, 2), nn.Tanh()),
    lambda: fused_rnn.Chain(nn.Linear(3, 4), fused_rnn.GRU(4, 3), residual=True),
)


@pytest.mark.parametrize("change", [with_hook, with_hook_before, with_forward])
@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("use", [stepped, saved])
def test_what_is_called_around_a_layer_is_named(
    use: Callable[[nn.Module, Path], None], make: Callable[[], nn.Module], change: Any, tmp_path: Path
) -> None:
    layer = make()
    what = "its own forward" if change is with_forward else "forward hooks"
    if change is with_forward and isinstance(layer, nn.GRU):  # convert leaves it as it is
        with pytest.warns(UserWarning, match="GRU has its own forward"), pytest.raises(TypeError, match="must be"):
            use(change(layer), tmp_path)
        return
    with pytest.warns(UserWarning, match=f"leaves out what is called: {type(layer).__name__} has {what}") as told:
        use(change(layer), tmp_path)
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize("change", [with_hook, with_hook_before, with_forward])
@pytest.mark.parametrize("make", SEQUENCES)
def test_what_is_called_around_a_part_of_a_sequence_is_named(
    make: Callable[[], nn.Module], change: Any, tmp_path: Path
) -> None:
    for index in range(len(list(make().modules()))):
        module = make()
        part = list(module.modules())[index]
        change(part)
        with pytest.warns(UserWarning, match=f"leaves out what is called: {type(part).__name__} has ") as told:
            saved(module, tmp_path)
        assert len(told) == 1


@pytest.mark.parametrize("use", [stepped, saved])
def test_a_forward_of_a_subclass_is_named(use: Callable[[nn.Module, Path], None], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="OwnForward has its own forward"):
        use(OwnForward(3, 4), tmp_path)


@pytest.mark.parametrize("use", [stepped, saved])
@pytest.mark.parametrize("make", LAYERS)
def test_what_changes_no_result_is_not_named(
    use: Callable[[nn.Module, Path], None], make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    layer = make()
    layer.register_full_backward_hook(lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use(layer, tmp_path)


prune_half: Any = partial(prune.l1_unstructured, amount=0.5)


def weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's name of it for hooks
        nn.utils.weight_norm(layer, "weight_hh_l0")


@pytest.mark.parametrize("kind", [fused_rnn.LSTM, nn.LSTM])
@pytest.mark.parametrize(
    "change",
    [
        weight_norm,
        lambda layer: nn.utils.spectral_norm(layer, "weight_hh_l0"),
        lambda layer: prune_half(layer, "weight_hh_l0"),
        lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0"),
    ],
)
def test_steps_have_the_weights_that_a_call_would_make(kind: Any, change: Callable[[nn.Module], Any]) -> None:
    layer, x = kind(3, 4), torch.randn(5, 2, 3)
    change(layer)
    layer(x)
    with torch.no_grad():
        for parameter in layer.parameters():  # since when nobody has called the layer
            parameter.add_(torch.randn_like(parameter))
        steps = fused_rnn.Stepper(layer.eval(), batch_size=2).steps(x)
        torch.testing.assert_close(steps, layer(x)[0])


def test_a_stream_has_the_weights_that_a_call_of_a_linear_would_make(tmp_path: Path) -> None:
    layer = nn.Linear(3, 4)
    prune_half(layer, "weight")
    with torch.no_grad():
        layer.get_parameter("weight_orig").add_(1.0)
    saved(layer, tmp_path)
    before = (tmp_path / "model").read_bytes()
    layer(torch.randn(1, 3))
    saved(layer, tmp_path)
    assert (tmp_path / "model").read_bytes() == before
