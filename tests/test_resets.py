"""Episodes in a rollout: one call with `resets` trains as the loop over steps with masked states that it replaces.

This is the recipe for recurrent policies (PPO, A2C): while collecting, the policy is called step by step and its state
is set to zero where an episode has just begun; for training the whole rollout is one call, from the state that it began
with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fused_rnn
from tests.test_modules import LAYERS, assert_same, flat, make, state_of

TIME_STEPS, BATCH, FEATURES, HIDDEN = 12, 5, 3, 9


def rollout_step_by_step(layer: Any, x: torch.Tensor, begins: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    """As a rollout is collected: begins [T, B] says where the first step of an episode is."""
    outputs = []
    for t in range(TIME_STEPS):
        kept = (~begins[t]).view(1, BATCH, 1)
        state = tuple(part * kept for part in state) if isinstance(state, tuple) else state * kept
        output, state = layer(x[t : t + 1], state)
        outputs.append(output)
    return torch.cat(outputs), state


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_a_whole_rollout_trains_as_the_loop_over_its_steps(name: str, num_layers: int) -> None:
    layer = make(fused_rnn, name, FEATURES, HIDDEN, num_layers=num_layers, dtype=torch.float64)
    x = torch.randn(TIME_STEPS, BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
    begins = torch.rand(TIME_STEPS, BATCH) < 0.25
    begins[0, 0] = begins[TIME_STEPS - 1, 1] = True
    state = state_of(name, num_layers, BATCH, HIDDEN, dtype=torch.float64)
    inputs = [x, *(part.requires_grad_() for part in flat(state)), *layer.parameters()]
    results = layer(x, state, resets=begins), rollout_step_by_step(layer, x, begins, state)
    assert_same(*results)
    incoming = [torch.randn_like(part) for part in flat(results[0])]
    assert_same(*(torch.autograd.grad(flat(result), inputs, incoming) for result in results))


@pytest.mark.parametrize("name", LAYERS)
def test_no_gradient_crosses_a_reset(name: str) -> None:
    layer = make(fused_rnn, name, FEATURES, HIDDEN)
    x = torch.randn(TIME_STEPS, BATCH, FEATURES, requires_grad=True)
    resets = torch.zeros(TIME_STEPS, BATCH, dtype=torch.bool)
    resets[7, 2] = True
    output, _ = layer(x, resets=resets)
    (gradient,) = torch.autograd.grad(output[-1].sum(), x)
    assert not gradient[:7, 2].any()
    assert gradient[7:, 2].any(1).all()
    assert gradient[:, 1].any(1).all()


@pytest.mark.parametrize("name", LAYERS)
def test_training_survives_an_episode_that_went_to_infinity(name: str) -> None:
    layer = make(fused_rnn, name, FEATURES, HIDDEN)
    resets = torch.zeros(4, 2, dtype=torch.bool)
    resets[2] = True
    state = [torch.full((1, 2, HIDDEN), torch.inf).requires_grad_() for _ in range(2 if name == "LSTM" else 1)]
    resets[0] = True
    output, _ = layer(torch.randn(4, 2, FEATURES), tuple(state) if name == "LSTM" else state[0], resets=resets)
    gradients = torch.autograd.grad(output.sum(), [*layer.parameters(), *state])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not any(gradient.any() for gradient in gradients[-len(state) :])


EVERY_SCHEDULE: dict[str, Any] = {
    "LSTM": lambda: fused_rnn.LSTM(FEATURES, HIDDEN, bidirectional=True),
    "GRU": lambda: fused_rnn.GRU(FEATURES, HIDDEN),
    "RNN": lambda: fused_rnn.RNN(FEATURES, HIDDEN),
    "RNN_RELU": lambda: fused_rnn.RNN(FEATURES, HIDDEN, nonlinearity="relu"),
    "projected": lambda: fused_rnn.LSTM(FEATURES, HIDDEN, proj_size=4),
    "peephole": lambda: fused_rnn.LSTM(FEATURES, HIDDEN, peephole=True),
    "normalized": lambda: fused_rnn.GRU(FEATURES, HIDDEN, layer_norm=True),
    "recomputed": lambda: fused_rnn.LSTM(FEATURES, HIDDEN, recompute=True),
}


@pytest.mark.parametrize("byte", [2, 128, 255])
@pytest.mark.parametrize("way", ["one call", "a step alone", "projection apart", "graph of the gradient", "mapped"])
@pytest.mark.parametrize("name", EVERY_SCHEDULE)
def test_any_byte_but_zero_is_true_as_in_torch(name: str, way: str, byte: int) -> None:
    if (name, way) == ("recomputed", "mapped"):
        pytest.skip("torch.utils.checkpoint recomputes after vmap has ended")
    layer, time_steps = EVERY_SCHEDULE[name](), 1 if way == "a step alone" else TIME_STEPS
    x, bits = torch.randn(time_steps, BATCH, FEATURES), torch.rand(time_steps, BATCH) < 0.4
    bits[0, 0] = True
    given = [torch.full((layer.num_layers * (2 if layer.bidirectional else 1), BATCH, HIDDEN), 0.5)]
    if layer.mode == "LSTM":
        given.insert(0, torch.full((given[0].shape[0], BATCH, layer.proj_size or HIDDEN), 0.5))
    state = tuple(given) if layer.mode == "LSTM" else given[0]

    def run(resets: torch.Tensor) -> list[torch.Tensor]:
        if way == "mapped":
            outputs = torch.func.vmap(lambda rows, reset: layer(rows, resets=reset)[0], 1, 1)(
                x[:, :, None], resets[:, :, None]
            )
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "projection apart"):
                outputs = layer(x, state, resets=resets)[0]
        with torch.no_grad():
            inference = layer(x, state, resets=resets)[0]
        graph = way == "graph of the gradient"
        return [outputs, inference, *torch.autograd.grad(outputs.sum(), list(layer.parameters()), create_graph=graph)]

    strange = (bits.to(torch.uint8) * byte).view(torch.bool)
    assert all(torch.equal(a, b) for a, b in zip(run(strange), run(bits), strict=True))


def test_a_stepper_takes_any_byte_but_zero_for_true() -> None:
    stepper = fused_rnn.Stepper(fused_rnn.LSTM(FEATURES, HIDDEN), 4)
    for byte in (1, 2, 128, 255):
        stepper.step(torch.randn(4, FEATURES))
        kept = stepper.state
        rows = torch.tensor([0, byte, 0, byte], dtype=torch.uint8).view(torch.bool)
        stepper.reset(rows)
        assert all(torch.equal(now[0, ::2], before[0, ::2]) for now, before in zip(stepper.state, kept, strict=True))
        assert not any(now[0, 1::2].any() for now in stepper.state)
