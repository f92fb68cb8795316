"""Drawn problems on drawn GPUs: each has a plan or a reason, and no plan goes beyond the limits of CUDA and the GPU."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from typing import Any

import pytest
import torch

import fused_rnn
from fused_rnn import CudaDevice, _ops

SEEDS = range(8)
PROBLEMS = 500  # of a seed, which take 0.1 s
# Large and small ones, MIG slices, one of each capability that has kernels, and two that are too old.
DEVICES = (
    (90, 132, 232448), (90, 16, 232448), (90, 1, 232448), (90, 19, 232448), (80, 108, 166912), (80, 14, 166912),
    (86, 28, 101376), (87, 16, 166912), (89, 128, 101376), (100, 148, 232448), (120, 188, 101376), (70, 80, 98304),
    (75, 1, 65536), (90, 1 << 16, 1 << 30), (90, 132, 0),
)  # fmt: skip
OLDEST = 80
MOST_HEADS = 65535
SCHEDULES = {"per_step", "small_block", "one_block", "cluster", "grid"}


def any_size(chance: random.Random, most: int) -> int:
    """Every order of magnitude is as likely."""
    return max(1, int(most ** chance.random()))


def any_problem(chance: random.Random) -> _ops.Problem:
    cell = chance.choice([name for name in _ops.CELLS if name not in _ops.LOADED])
    dtype = chance.choice([torch.float32, torch.bfloat16, torch.float16, torch.float64])
    sizes: dict[str, Any] = {"time_steps": chance.choice([0, 1, any_size(chance, 1 << 34)])}
    sizes["batch"] = chance.choice([0, 1, 2, 3, any_size(chance, 1 << 30)])
    sizes["hidden_size"] = chance.choice([1, 8, 64, 65, 128, 129, any_size(chance, 1 << 26)])
    projected = cell == "lstm" and sizes["hidden_size"] > 1 and chance.random() < 0.2
    sizes["proj_size"] = chance.randrange(1, sizes["hidden_size"]) if projected else 0
    sizes["heads"] = 1 if projected else chance.choice([1, 1, 2, 8, any_size(chance, 1 << 30)])
    flags: dict[str, Any] = {name: chance.random() < 0.2 for name in ("zoneout", "recurrent_mask")}
    flags["normalized"] = _ops.CELLS[cell].norm_groups > 0 and sizes["heads"] == 1 and chance.random() < 0.3
    flags["rounds_factors"] = dtype == torch.float32 and chance.random() < 0.5
    return _ops.Problem(cell=cell, dtype=dtype, directions=chance.choice([1, 2]), **sizes, **flags)


def numbers(pattern: str, text: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    assert found is not None, text
    return tuple(map(int, found.groups()))


def check(plan: dict[str, Any], problem: _ops.Problem, device: tuple[int, int, int]) -> None:
    """A plan that is not refused."""
    name, why = plan["schedule"], plan["why"]
    parts = problem.directions * problem.heads
    if name == "per_step":
        assert device[0] >= OLDEST
        assert parts <= MOST_HEADS
        return
    if name == "small_block":
        groups, rows, threads = numbers(r"(\d+) blocks of (\d+) rows, (\d+) threads", why)
        assert 4 * problem.hidden_size <= threads <= 512
        ranks = 1
    else:
        pattern = r": (\d+) groups of (\d+) blocks, each (\d+) units of (\d+) rows, .*, (\d+) bytes"
        groups, ranks, units, rows, shared = numbers(pattern, why)
        assert ranks == -(-problem.hidden_size // units) <= device[1]
        assert ranks in {"one_block": range(1, 2), "cluster": range(2, 17)}.get(name, range(1, device[1] + 1))
        assert shared <= device[2]
    assert 1 <= rows <= max(problem.batch, 4)  # an mma of small_block has four
    assert groups == -(-problem.batch // rows) * parts
    assert plan["blocks"] == groups * ranks < 1 << 31


@pytest.mark.parametrize("seed", SEEDS)
def test_no_plan_goes_beyond_a_limit_and_what_is_refused_has_a_reason(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(PROBLEMS):
        problem, device, backward = any_problem(chance), chance.choice(DEVICES), chance.random() < 0.5
        plans = _ops.cuda_options(problem, backward, device)
        assert {plan["schedule"] for plan in plans} == SCHEDULES
        assert all(plan["why"] for plan in plans)
        able = [plan for plan in plans if not plan["refused"]]
        assert able == plans[: len(able)]
        times = [plan["step_us"] for plan in able]
        assert times == sorted(times), problem
        assert all(math.isfinite(us) and us >= 0 for us in times), problem
        for plan in able:
            check(plan, problem, device)
        if device[0] >= OLDEST and problem.directions * problem.heads <= MOST_HEADS:
            assert "per_step" in {plan["schedule"] for plan in able}, problem


def test_more_heads_than_a_launch_takes_are_refused_by_per_step() -> None:
    problem = _ops.Problem(
        cell="lstm", dtype=torch.float32, time_steps=4, batch=2, directions=2, hidden_size=1, proj_size=0, heads=1 << 15
    )
    refusals = {plan["schedule"]: plan["why"] for plan in _ops.cuda_options(problem, False, DEVICES[0])}
    assert refusals["per_step"] == "more than 65535 heads of all directions"
    fewer = _ops.cuda_options(problem._replace(directions=1), False, DEVICES[0])
    assert "per_step" in {plan["schedule"] for plan in fewer if not plan["refused"]}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("capability", 9, "capability must be from 10 to 999, got 9"),
        ("multiprocessors", 0, "multiprocessors must be from 1 to 65536, got 0"),
        ("multiprocessors", 1 << 30, "multiprocessors must be from 1 to 65536"),
        ("shared_bytes", -1, "shared_bytes must be from 0 to 1073741824, got -1"),
    ],
)
def test_a_gpu_that_cannot_be_is_refused_by_field(field: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"CudaDevice: {message}"):
        dataclasses.replace(CudaDevice(90, 132, 232448), **{field: value})


@pytest.mark.parametrize("device", ["cuda", (90, 132, 232448), torch.device("cpu")], ids=str)
def test_a_device_that_is_no_cuda_device_is_refused_by_type(device: Any) -> None:
    layer = fused_rnn.LSTM(3, 4)
    with pytest.raises(TypeError, match=f"device must be a fused_rnn.CudaDevice, got {type(device).__name__}"):
        fused_rnn.explain(layer, torch.randn(2, 1, 3), device=device)
    with pytest.raises(TypeError, match="CudaDevice: capability must be an int, got float"):
        CudaDevice(9.0, 132, 232448)  # type: ignore[arg-type]
