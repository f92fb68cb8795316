"""The choice of a CUDA schedule: what runs where, and that each refusal has its reason. Needs no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from build_support import native
from fused_rnn import CudaDevice, _ops

if TYPE_CHECKING:
    from fused_rnn._explain import PassPlan

H200 = CudaDevice(90, 132, 232448)
A100 = CudaDevice(80, 108, 166912)
SLICE = CudaDevice(90, 16, 232448)  # the smallest MIG slice of an H200


def plan(
    hidden_size: int,
    device: CudaDevice = H200,
    *,
    batch: int = 8,
    dtype: torch.dtype = torch.bfloat16,
    proj_size: int = 0,
) -> tuple[PassPlan, ...]:
    layer = fused_rnn.LSTM(8, hidden_size, device="meta", dtype=dtype, proj_size=proj_size)
    x = torch.empty(10, batch, 8, device="meta", dtype=dtype)
    return fused_rnn.explain(layer, x, device=device).layers[0].passes


@pytest.mark.parametrize(
    ("hidden_size", "device", "expected"),
    [(32, H200, "small_block"), (64, H200, "small_block"), (64, A100, "small_block"),
     (128, H200, "cluster"), (256, H200, "cluster"),
     (256, A100, "grid"),
     (512, H200, "cluster"), (1024, H200, "grid"), (1024, SLICE, "per_step"), (4096, H200, "per_step")],
)  # fmt: skip
def test_small_layers_take_a_block_larger_ones_a_cluster_then_the_grid(
    hidden_size: int, device: CudaDevice, expected: str
) -> None:
    assert [each.schedule for each in plan(hidden_size, device)] == [expected, expected]


def test_every_refusal_says_what_stands_against_it() -> None:
    others = plan(256, A100)[0].others
    assert others["cluster"] == "needs compute capability 9.0"
    assert "blocks, may have 1" in others["one_block"]
    assert "bytes of shared memory" in plan(1024, SLICE)[0].others["grid"]
    assert "bytes of shared memory, has 232448" in plan(2048)[1].others["grid"]
    assert "projection" in plan(64, proj_size=8)[0].others["cluster"]
    assert "float64" in plan(64, dtype=torch.float64)[0].others["one_block"]
    assert plan(65)[0].others["small_block"] == "a block holds the weights of 64 units at most"
    assert "empty" in plan(64, batch=0)[0].others["grid"]
    assert "only per_step has layer norms" in options(backward=True, normalized=True)[-1]["why"]


def options(*, backward: bool, **variant: Any) -> list[dict[str, Any]]:
    """Of a problem that a block could run if it were no variant."""
    problem = _ops.Problem(
        cell="lstm", dtype=torch.float32, time_steps=10, batch=8, directions=1, hidden_size=64, proj_size=0
    )
    return _ops.cuda_options(problem._replace(**variant), backward, (90, 132, 232448))


# The table of docs/gpu.md: an option, and how it changes a problem. The planner is not told of lengths, resets and
# dropped weights.
ROWS: dict[str, dict[str, Any]] = {
    "none, `lengths`, `resets`, `weight_dropout`": {},
    "`heads`": {"heads": 4},
    "`zoneout`": {"zoneout": True},
    "`recurrent_dropout`": {"recurrent_mask": True},
    "`peephole`, `cell_clip`": {"cell": "lstm_peephole"},
    "`proj_size`": {"proj_size": 8},
    "float64": {"dtype": torch.float64},
    "`layer_norm`": {"normalized": True},
}


def test_the_page_has_a_table_of_what_runs_each_option() -> None:
    schedules = ["small_block", "one_block", "cluster", "grid", "per_step"]
    lines = [f"| option | {' | '.join(f'`{name}`' for name in schedules)} |", "|---" * (len(schedules) + 1) + "|"]
    for option, variant in ROWS.items():
        passes = [options(backward=backward, **variant) for backward in (False, True)]
        runs, again = ({each["schedule"] for each in one if not each["refused"]} for one in passes)
        assert runs == again
        lines.append(f"| {option} | {' | '.join('yes' if name in runs else 'no' for name in schedules)} |")
    assert "\n".join(lines) in (native.ROOT / "docs" / "gpu.md").read_text()


def test_a_schedule_that_was_not_chosen_shows_its_estimate_and_where_the_estimate_is_from() -> None:
    chosen = plan(128)[0]
    assert "us a step (measured on H200)" in chosen.why
    assert "not measured" in plan(64, A100)[0].why
    assert "us a step (instructions counted, not measured)" in plan(64)[0].why
    assert all("us a step" in reason for name, reason in chosen.others.items() if name != "small_block")
    assert str(chosen).count("  not ") == len(chosen.others) == 4


def test_a_device_of_long_ago_is_refused_everything() -> None:
    refused = plan(64, CudaDevice(75, 40, 65536))[0]
    assert refused.schedule == "none"
    assert set(refused.others) == {"small_block", "one_block", "cluster", "grid", "per_step"}
    assert "8.0 and newer" in refused.others["per_step"]


def test_a_forced_schedule_comes_first_or_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_RNN_CUDA_SCHEDULE", "grid")
    assert plan(256)[0].schedule == "grid"
    monkeypatch.setenv("FUSED_RNN_CUDA_SCHEDULE", "one_block")
    refused = plan(256)[0]
    assert refused.schedule == "none"
    assert "may have 1" in refused.others["one_block"]


def test_tf32_is_planned_where_torch_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "tf32")
    rounded = plan(256, dtype=torch.float32)[0].why
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    assert plan(256, dtype=torch.float32)[0].why != rounded


def test_cuda_tensors_without_kernels_for_them_are_refused_by_name() -> None:
    # What a build without CUDA says; with it, and no GPU here, there is no such tensor to try.
    info = fused_rnn.build_info()["cuda"]
    assert info.startswith(("not built: ", "1"))
