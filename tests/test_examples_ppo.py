"""The recurrent PPO example learns, and its update of a whole rollout is the step loop's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from examples import ppo

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def test_the_pole_stands_three_times_as_long(tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    learnt, before = ppo.main(["--quick", "--seed", "1", "--picture", str(picture)])
    assert learnt > 3 * before
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_task_needs_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ppo.Policy.forward

    def forgetful(policy: ppo.Policy, seen: Tensor, begins: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return forward(policy, seen, torch.ones_like(begins), state)

    monkeypatch.setattr(ppo.Policy, "forward", forgetful)
    learnt, before = ppo.main(["--rollouts", "25"])
    assert learnt < 3 * before


def test_step_by_step_with_torch_learns_too() -> None:
    learnt, before = ppo.main(["--rollouts", "10", "--impl", "torch"])
    assert learnt > 1.2 * before


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_whole_rollout_has_the_loss_and_gradients_of_its_steps(cell: str) -> None:
    tasks = RecordEpisodeStatistics(gymnasium.make_vec("CartPole-v1", 16, vectorization_mode="vector_entry_point"))
    policy = ppo.Policy("fused", cell, whole=True)
    begins, state = torch.ones(16, dtype=torch.bool), torch.zeros(2 if cell == "lstm" else 1, 1, 16, ppo.UNITS)
    rollout, now = ppo.roll(tasks, policy, (ppo.visible(tasks.reset(seed=0)[0]), begins, ~begins, state))
    rollout, _ = ppo.roll(tasks, policy, now)  # begins in the middle of episodes
    assert rollout[1].sum() > 32  # episodes that begin inside
    found = []
    for policy.whole in (True, False):
        loss = ppo.loss_of(policy, rollout, torch.arange(3, 12))
        found.append((loss, torch.autograd.grad(loss, list(policy.parameters()))))
    (whole, d_whole), (steps, d_steps) = found
    torch.testing.assert_close(whole, steps, rtol=1e-5, atol=1e-6)
    for one, other in zip(d_whole, d_steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
