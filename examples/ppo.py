"""Recurrent PPO: balance a pole without being told any velocity, which only a memory can find.

Sixteen CartPoles (gymnasium's, of 500 steps at most) run side by side and show position and angle. An update reads the
whole rollout [T, B] in one call, where `resets` make the state zero at the first step of each episode. torch.nn has to
go step by step; the last line has the time of both. The baseline is the policy before it learns.

Source: Schulman et al., "Proximal policy optimization algorithms", 2017; advantages as in their article of 2016.

    python examples/ppo.py --picture ppo.png              # about 20 s on one core; with --quick 15 s
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import trange

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Moment: TypeAlias = tuple[Tensor, ...]  # seen [B, 2], begins and idle [B], state [states, 1, B, H]
    Rollout: TypeAlias = tuple[Tensor, ...]  # [T, ...]: these three, actions, odds, advantages, returns; first state

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
TASKS, STEPS, UNITS = 16, 128, 64  # rows and steps of a rollout, units of the layer
DISCOUNT, TRACE, CLIP, REWARD = 0.99, 0.95, 0.2, 0.05  # REWARD is that of a step, so that values are around 1


class Policy(nn.Module):
    """Scores of the two actions and the value of what comes, from what was seen since the episode began."""

    def __init__(self, implementation: str, cell: str, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.first = nn.Sequential(nn.Linear(2, 32), nn.Tanh())
        self.recurrent = getattr(IMPLEMENTATIONS[implementation], cell.upper())(32, UNITS)
        self.head = nn.Linear(UNITS, 3)

    def forward(self, seen: Tensor, begins: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the odds [T, B, 2], values [T, B] and the last state; zero state where `begins` [T, B]."""
        x, outputs = self.first(seen), []
        parts = 1 if self.whole else len(seen)
        for steps, begin in zip(x.chunk(parts), begins.chunk(parts), strict=True):
            options = {"resets": begin} if self.whole else {}
            state = state if self.whole else state.masked_fill(begin.unsqueeze(2), 0.0)
            output, after = self.recurrent(steps, tuple(state) if len(state) == 2 else state[0], **options)
            state = torch.stack(after) if len(state) == 2 else after.unsqueeze(0)
            outputs.append(output)
        scores, values = self.head(torch.cat(outputs)).split((2, 1), dim=2)
        return scores.log_softmax(2), values.squeeze(2), state


def visible(observations: Any) -> Tensor:
    """Position and angle [B, 2], of [B, 4], in parts of the limits at which a task is lost."""
    return torch.from_numpy(observations[:, [0, 2]]) / torch.tensor([2.4, 0.21])


@torch.no_grad()
def roll(tasks: Any, policy: Policy, now: Moment) -> tuple[Rollout, Moment]:
    """STEPS steps by the policy's actions from `now` on, and what is now after them."""
    before, steps = now[3], []
    for _ in range(STEPS):
        seen, begins, idle, state = now
        odds, value, state = policy(seen.unsqueeze(0), begins.unsqueeze(0), state)
        action = torch.multinomial(odds[0].exp(), 1)
        observations, _, *ends, _ = tasks.step(action.squeeze(1).numpy())
        lost, stopped = map(torch.from_numpy, ends)
        steps.append((seen, begins, idle, action, odds[0].gather(1, action), value[0], lost))
        now = (visible(observations), idle, lost | stopped, state)  # who is lost is idle for a step and then begins
    seen, begins, idle, actions, odds, values, lost = map(torch.stack, zip(*steps, strict=True))
    last = policy(now[0].unsqueeze(0), now[1].unsqueeze(0), now[3])[1]
    errors = REWARD + DISCOUNT * torch.cat((values[1:], last)) * ~lost - values
    going_on = ~torch.cat((idle[1:], now[2].unsqueeze(0)))
    advantages = torch.zeros(STEPS + 1, TASKS)
    for step in reversed(range(STEPS)):
        advantages[step] = errors[step] + DISCOUNT * TRACE * advantages[step + 1] * going_on[step]
    return (seen, begins, idle, actions, odds, advantages[:-1], advantages[:-1] + values, before), now


def loss_of(policy: Policy, rollout: Rollout, rows: Tensor) -> Tensor:
    """The clipped objective, the error of the values and the entropy, of some tasks' steps that were not idle."""
    seen, begins, idle, actions, old_odds, advantages, returns = (part[:, rows] for part in rollout[:-1])
    odds, values, _ = policy(seen, begins, rollout[-1][:, :, rows])
    advantages = (advantages - advantages[~idle].mean()) / advantages[~idle].std()
    ratio = (odds.gather(2, actions) - old_odds).exp().squeeze(2)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    losses: Tensor = 0.5 * (values - returns).square() - gain + 0.01 * (odds * odds.exp()).sum(2)
    return losses[~idle].mean()


def update(policy: Policy, optimizer: torch.optim.Optimizer, rollout: Rollout) -> float:
    """Four passes over the rollout, half of the tasks at a time, and the seconds they took."""
    started = time.perf_counter()
    for rows in torch.cat([torch.randperm(TASKS).view(2, -1) for _ in range(4)]):
        optimizer.zero_grad()
        loss_of(policy, rollout, rows).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Mean steps of the last hundred episodes, and of the first ones, in which nothing had been learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="gru", help="(default: %(default)s)")
    parser.add_argument("--rollouts", type=int, default=60, help="to learn from (default: %(default)s)")
    parser.add_argument("--quick", dest="rollouts", action="store_const", const=25, help="as --rollouts 25")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="file to draw the learning curve to")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    tasks = RecordEpisodeStatistics(gymnasium.make_vec("CartPole-v1", TASKS, vectorization_mode="vector_entry_point"))
    policy = Policy(options.impl, options.cell, whole=options.impl == "fused")
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-3)
    begins, state = torch.ones(TASKS, dtype=torch.bool), torch.zeros(1 + (options.cell == "lstm"), 1, TASKS, UNITS)
    now: Moment = (visible(tasks.reset(seed=options.seed)[0]), begins, ~begins, state)
    curve, seconds = [], {}
    for _ in (progress := trange(options.rollouts, desc="learning", leave=False)):
        rollout, now = roll(tasks, policy, now)
        curve.append(sum(tasks.return_queue) / len(tasks.return_queue))
        update(policy, optimizer, rollout)
        progress.set_postfix(steps=f"{curve[-1]:.0f}", refresh=False)
    for way in ["whole", "step by step"] if policy.whole else ["step by step"]:
        policy.whole = way == "whole"
        seconds[way] = min(update(policy, optimizer, rollout) for _ in range(3))
    if options.picture:
        panel = (figure := Figure(figsize=(7, 3), layout="constrained")).subplots()
        panel.plot(curve)
        panel.set(xlabel=f"rollouts of {TASKS} x {STEPS} steps", ylabel="steps until the pole falls, of 500")
        figure.savefig(options.picture, dpi=70)
    times = ", ".join(f"{way} {least:.3f} s" for way, least in seconds.items())
    print(f"ppo, {options.cell}: {curve[-1]:.0f} of 500 steps balanced, before learning {curve[0]:.0f}; update {times}")
    return curve[-1], curve[0]


if __name__ == "__main__":
    main()
