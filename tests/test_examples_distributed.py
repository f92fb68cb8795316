"""The distributed example: two processes are one, and a run whose worker was killed is the run in which none was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from build_support import native

if TYPE_CHECKING:
    from pathlib import Path

    Losses = list[tuple[int, float]]

EXAMPLE = ["examples/train_distributed.py", "--units", "32", "--quick"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this build of torch has no torch.distributed"
)


def run(folder: Path, *arguments: str) -> Losses:
    """Each step that was taken, in that order, with its loss in bits per character."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    folder.mkdir(exist_ok=True)
    ended = subprocess.run(
        [sys.executable, *arguments, "--folder", str(folder)],
        cwd=native.ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=native.PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "bits per character" in ended.stdout.splitlines()[-1]
    return [(step, bits) for step, bits in map(json.loads, (folder / "losses.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """One process with the whole batch, never interrupted."""
    losses = run(tmp_path_factory.mktemp("alone"), *EXAMPLE)
    assert [step for step, _ in losses] == list(range(60))
    assert losses[-1][1] < 0.7 * losses[0][1]
    return losses


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one_although_a_worker_is_killed(
    strategy: str, alone: Losses, tmp_path: Path
) -> None:
    options = ["--strategy", strategy, "--kill-at", "40"]
    losses = run(tmp_path, *TORCHRUN, "--max-restarts", "1", *EXAMPLE, *options)
    # Killed before step 40, they go on after the checkpoint of 25 steps.
    assert [step for step, _ in losses] == [*range(40), *range(25, 60)]
    for step, bits in losses:
        assert bits == pytest.approx(alone[step][1], rel=1e-4), step
    # The same data and state: steps taken twice have the same loss but for rounding.
    for step, bits in losses[40:55]:
        assert bits == pytest.approx(losses[step][1], rel=1e-6), step
    if strategy == "fsdp":  # one process alone, with copies, goes on from what two wrote of their shares at step 50
        again = run(tmp_path, *EXAMPLE)[len(losses) :]
        assert [step for step, _ in again] == list(range(50, 60))
        for step, bits in again:
            assert bits == pytest.approx(alone[step][1], rel=1e-4), step
