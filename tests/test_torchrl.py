"""TorchRL's LSTMModule and GRUModule on our layers give what they give on torch.nn's, with resets anywhere in a row.

For rows of several episodes TorchRL looks at the type of the layer: torch.nn's get packed sequences, all others padded
rows with a `mask` of the steps that are there. A mixin of four lines, also shown in docs/guides/libraries.md, takes it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode

import fused_rnn


class Masked:
    """Takes TorchRL's mask [B, T], which is true for the first steps of each row, as lengths."""

    def forward(self, input: Any, hx: Any = None, mask: Any = None) -> Any:  # noqa: A002
        layer: Any = super()
        return layer.forward(input, hx, lengths=None if mask is None else mask.sum(1))


class MaskedLSTM(Masked, fused_rnn.LSTM):  # type: ignore[misc]
    """An LSTM for LSTMModule."""


class MaskedGRU(Masked, fused_rnn.GRU):  # type: ignore[misc]
    """A GRU for GRUModule."""


KINDS: tuple[tuple[Any, str, Any, Any, tuple[str, ...]], ...] = (
    (LSTMModule, "lstm", MaskedLSTM, torch.nn.LSTM, ("h", "c")),
    (GRUModule, "gru", MaskedGRU, torch.nn.GRU, ("h",)),
)
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"num_layers": 2}, {"bias": False}, {"bidirectional": True, "num_layers": 2})
INITS = (  # the steps that begin an episode, beside the first
    (),
    ((0, 3),),
    ((0, 1), (1, 2), (1, 3), (1, 5)),
)
ROWS, STEPS = 2, 6


def pair(kind: tuple[Any, str, Any, Any, tuple[str, ...]], options: dict[str, Any]) -> tuple[Any, Any]:
    """The module of TorchRL with a layer of ours and of torch.nn with the same parameters."""
    module, name, ours, theirs, states = kind
    layers = [each(3, 5, batch_first=True, **options) for each in (ours, theirs)]
    layers[0].load_state_dict(layers[1].state_dict())
    keys = {"in_keys": ["x", *states], "out_keys": ["y", *(("next", each) for each in states)]}
    first, second = (module(**{name: layer}, **keys) for layer in layers)
    return first, second


def data(kind: Any, options: dict[str, Any], inits: Any, with_state: bool) -> Any:
    """A batch with episodes that begin at these steps."""
    is_init = torch.zeros(ROWS, STEPS, 1, dtype=torch.bool)
    for row, step in inits:
        is_init[row, step] = True
    found = {"x": torch.randn(ROWS, STEPS, 3), "is_init": is_init}
    units = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    if with_state:
        found |= {each: torch.randn(ROWS, STEPS, units, 5) for each in kind[4]}
    return TensorDict(found, [ROWS, STEPS])


def results(module: Any, given: Any, states: tuple[str, ...]) -> list[Any]:
    """The outputs, and the gradients of the parameters."""
    found = module(given.clone())
    outputs = [found["y"], *(found["next", each] for each in states)]
    return [*outputs, *torch.autograd.grad(sum(each.square().sum() for each in outputs), list(module.parameters()))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("inits", INITS, ids=str)
@pytest.mark.parametrize("with_state", [False, True])
def test_rows_of_several_episodes_give_what_torch_gives(
    kind: Any, options: dict[str, Any], inits: Any, with_state: bool
) -> None:
    ours, theirs = pair(kind, options)
    given = data(kind, options, inits, with_state)
    with set_recurrent_mode(True):
        torch.testing.assert_close(results(ours, given, kind[4]), results(theirs, given, kind[4]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
def test_single_steps_of_a_rollout_give_what_torch_gives(kind: Any) -> None:
    ours, theirs = pair(kind, {"num_layers": 2})
    given = data(kind, {"num_layers": 2}, INITS[2], with_state=True)
    torch.testing.assert_close(results(ours, given, kind[4]), results(theirs, given, kind[4]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
def test_a_row_of_several_episodes_is_each_episode_alone(kind: Any) -> None:
    module, _ = pair(kind, {})
    given = data(kind, {}, ((0, 2), (1, 2)), with_state=False)
    with set_recurrent_mode(True):
        together = module(given.clone())["y"]
        alone = [module(given[:, steps].clone())["y"] for steps in (slice(0, 2), slice(2, STEPS))]
    torch.testing.assert_close(together, torch.cat(alone, 1))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
def test_a_layer_that_does_not_take_the_mask_is_an_error(kind: Any) -> None:
    module = fused_rnn.convert(pair(kind, {})[1])
    given = data(kind, {}, INITS[1], with_state=False)
    with set_recurrent_mode(True), pytest.raises(TypeError, match="unexpected keyword argument 'mask'"):
        module(given)
