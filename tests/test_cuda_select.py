"""The choice of a CUDA schedule: what runs where, and that each refusal has its reason. Needs no GPU."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

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
     (128, H200, "small_block"), (128, A100, "small_block"), (256, H200, "cluster"),
     (256, A100, "grid"),
     (512, H200, "cluster"), (1024, H200, "grid"), (1024, SLICE, "per_step"), (4096, H200, "per_step")],
)  # fmt: skip
def test_small_layers_take_a_block_larger_ones_a_cluster_then_the_grid(
    hidden_size: int, device: CudaDevice, expected: str
) -> None:
    assert [each.schedule for each in plan(hidden_size, device)] == [expected, expected]


# 128 blocks of 8 units, whose weights are all in registers.
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_exact_float32_of_1024_units_stays_on_the_chip(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    passes = plan(1024, batch=batch, dtype=torch.float32)
    assert [each.schedule for each in passes] == ["grid", "grid"]
    assert all("scaled from other tiles, not measured" in each.why for each in passes)
    if batch <= 8:
        assert all("128 blocks, each 8 units" in each.why and "0 of 4 tiles in shared" in each.why for each in passes)


def test_idle_clusters_take_a_part_of_the_rows() -> None:
    assert all("4 groups of 16 blocks, each 32 units of 2 rows" in each.why for each in plan(512))
    # Seven clusters of 16 blocks run at once, and 32 rows are seven times five.
    assert all("7 groups of 16 blocks, each 32 units of 5 rows" in each.why for each in plan(512, batch=32))
    layer = fused_rnn.LSTM(8, 512, bidirectional=True, device="meta", dtype=torch.bfloat16)
    x = torch.empty(10, 6, 8, device="meta", dtype=torch.bfloat16)
    both = fused_rnn.explain(layer, x, device=H200).layers[0].passes[0].why
    assert "6 groups of 16 blocks, each 32 units of 2 rows" in both


def test_every_refusal_says_what_stands_against_it() -> None:
    others = plan(256, A100)[0].others
    assert others["cluster"] == "needs compute capability 9.0"
    assert "blocks, may have 1" in others["one_block"]
    assert "bytes of shared memory" in plan(1024, SLICE)[0].others["grid"]
    assert "bytes of shared memory, has 232448" in plan(2048)[1].others["grid"]
    assert "projection" in plan(64, proj_size=8)[0].others["cluster"]
    assert "float64" in plan(64, dtype=torch.float64)[0].others["one_block"]
    assert plan(129)[0].others["small_block"] == "a block holds the weights of 128 units at most"
    (exact,) = (each["why"] for each in options(backward=True, hidden_size=65) if each["schedule"] == "small_block")
    assert exact == "a block holds the weights of 64 units at most"
    assert "empty" in plan(64, batch=0)[0].others["grid"]
    norms = options(backward=False, normalized=True, hidden_size=65, dtype=torch.bfloat16)
    (small,) = (each["why"] for each in norms if each["schedule"] == "small_block")
    assert small == exact


def options(*, backward: bool, **variant: Any) -> list[dict[str, Any]]:
    """Of a problem that a block could run if it were no variant."""
    problem = _ops.Problem(
        cell="lstm", dtype=torch.float32, time_steps=1024, batch=8, directions=1, hidden_size=64, proj_size=0
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


def test_the_page_has_a_table_of_the_estimates_with_layer_norms() -> None:
    lines = ["| H, B, type | with norms | `per_step` with norms | without norms |", "|---|---|---|---|"]
    for hidden, batch, dtype in [
        (64, 16, "bfloat16"), (128, 16, "bfloat16"), (256, 16, "bfloat16"), (512, 16, "bfloat16"),
        (512, 64, "bfloat16"), (768, 16, "bfloat16"), (64, 16, "float32"), (256, 16, "float32"), (512, 16, "float32"),
    ]:  # fmt: skip
        variant = {"hidden_size": hidden, "batch": batch, "dtype": getattr(torch, dtype)}
        of_norms = [options(backward=backward, normalized=True, **variant) for backward in (False, True)]
        of_plain = [options(backward=backward, **variant) for backward in (False, True)]
        per_step = [next(each for each in one if each["schedule"] == "per_step") for one in of_norms]
        columns = [[one[0] for one in of_norms], per_step, [one[0] for one in of_plain]]
        cells = [", ".join(f"{each['step_us']:.1f}" for each in column) for column in columns]
        for i in (0, 2):
            cells[i] += f" ({', '.join(dict.fromkeys(each['schedule'] for each in columns[i]))})"
        lines.append(f"| {hidden}, {batch}, {dtype} | {' | '.join(cells)} |")
    assert "\n".join(lines) in (native.ROOT / "docs" / "gpu.md").read_text(), "\n".join(lines)


# What an H200 measured. Each row of a persistent schedule was verified; the model was fitted to them.

RUN = {
    stage["name"]: [record for part in stage["parts"] for record in part["records"] if record["status"] == "ok"]
    for stage in json.loads((native.ROOT / "bench" / "results" / "cuda-h200.json").read_text())["stages"]
}
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "tf32": torch.float32}
NOISE = 1.1  # between the least times of two runs
STARTS = 10.0  # microseconds of a step in which torch.nn starts a GEMM and a kernel from the CPU


class Pass(NamedTuple):
    """A pass of the run: of T = 1024 steps."""

    cell: str
    type: str
    hidden: int
    batch: int
    backward: bool
    directions: int = 1

    def options(self) -> dict[str, float]:
        """The schedules that could run it on an H200, the chosen one first, with the estimates of the model."""
        variant = {"batch": self.batch, "directions": self.directions, "hidden_size": self.hidden}
        types = {"dtype": TYPES[self.type], "rounds_factors": self.type == "tf32"}
        found = options(backward=self.backward, cell=self.cell, **variant, **types)
        return {each["schedule"]: each["step_us"] for each in found if not each["refused"]}


def pass_of(record: dict[str, Any], *, backward: bool) -> Pass:
    directions = 2 if record["options"] == "bi" else 1
    return Pass(record["cell"], record["type"], record["hidden"], record["batch"], backward, directions)


def measured() -> dict[Pass, dict[str, float]]:
    """The least microseconds of a step, by schedule; a forward pass by torch.nn's GEMMs stands for per_step, too."""
    known: dict[Pass, dict[str, float]] = defaultdict(lambda: defaultdict(lambda: math.inf))

    def note(which: Pass, schedule: str, us: float) -> None:
        known[which][schedule] = min(known[which][schedule], us)

    for record in RUN["bench"]:
        if record["mode"] == "infer" and record["options"] != "packed":  # whose loop is another
            which, torch_us = pass_of(record, backward=False), record.get("theirs_us", {}).get("min", 0.0)
            note(which, record["schedule"], record["ours_us"]["min"])
            if torch_us > STARTS:
                note(which, "per_step", torch_us)
    for record in RUN["shapes"]:
        found = re.fullmatch(r"(\w+) (\w+) (fwd|back) H=(\d+) B=(\d+)", record["case"])
        assert found is not None
        which = Pass(found[1], found[2], int(found[4]), int(found[5]), found[3] == "back")
        note(which, record["best"].split()[0], record["best_us"])
    return known


def test_no_pass_takes_a_schedule_that_was_measured_to_be_slower_than_another_or_per_step() -> None:
    known, bad = measured(), []
    timed = [pass_of(record, backward=back) for record in RUN["bench"] for back in (False, record["mode"] == "train")]
    for which in {*known, *timed}:
        estimates = which.options()
        chosen, times = next(iter(estimates)), {"per_step": estimates["per_step"], **known[which]}
        if times.get(chosen, estimates[chosen]) > NOISE * min(times.values()):
            bad.append(f"{which}: {chosen}, {times}")
    assert not bad
    assert len(known) > 390


def test_the_model_stays_near_what_it_was_fitted_to() -> None:
    pairs = [
        (which.options()[schedule], us)
        for which, times in measured().items()
        for schedule, us in times.items()
        # Tiles of exact float32 were others, and so was the backward kernel of clusters.
        if schedule != "per_step" and which.type != "f32" and not (schedule == "cluster" and which.backward)
    ]
    # 0.10 by the fit; kernels that came after the run are estimated as shorter than what was measured.
    assert math.sqrt(sum(math.log(model / us) ** 2 for model, us in pairs) / len(pairs)) < 0.13


def test_the_estimate_of_per_step_is_that_of_a_cpu_that_starts_kernels_quickly() -> None:
    for which, times in measured().items():
        if "per_step" in times and which.directions == 1:  # the starts of a step took 10 to 20 us
            assert 0.6 < which.options()["per_step"] / times["per_step"] < 1.6, which


def test_the_page_lists_what_torch_was_ahead_in_and_what_runs_it_now() -> None:
    rows: dict[Pass, dict[str, dict[str, Any]]] = defaultdict(dict)
    for record in RUN["bench"]:
        if not record["forced"] and record["ours_us"]["min"] > record["theirs_us"]["min"]:
            rows[pass_of(record, backward=False)][record["mode"]] = record
    lines = ["| cell, type, H, B | infer | train | forward then | forward now | backward now |", "|---" * 6 + "|"]
    for which, modes in sorted(rows.items()):
        ratios = [
            f"{modes[mode]['theirs_us']['min'] / modes[mode]['ours_us']['min']:.2f}x" if mode in modes else "ahead"
            for mode in ("infer", "train")
        ]
        then = next(iter(modes.values()))["schedule"]
        now = [next(iter(which._replace(backward=back).options())) for back in (False, True)]
        lines.append(
            f"| {which.cell}, {which.type}, {which.hidden}, {which.batch} | {' | '.join([*ratios, then, *now])} |"
        )
    assert "\n".join(lines) in (native.ROOT / "docs" / "gpu.md").read_text(), "\n".join(lines)


def test_an_update_of_a_variant_is_longer_and_one_with_the_approximate_tanh_shorter() -> None:
    def of(name: str, **variant: Any) -> float:
        (found,) = (each["step_us"] for each in options(backward=False, **variant) if each["schedule"] == name)
        return float(found)

    for schedule in ("small_block", "one_block", "cluster", "grid"):
        plain = of(schedule)
        assert of(schedule, zoneout=True) == of(schedule, recurrent_mask=True) > plain
        assert of(schedule, dtype=torch.bfloat16) < of(schedule, dtype=torch.float16)
    assert of("per_step", zoneout=True) == of("per_step")


def test_a_schedule_that_was_not_chosen_shows_its_estimate_and_where_the_estimate_is_from() -> None:
    chosen = plan(256)[0]
    assert "us a step (measured on H200)" in chosen.why
    assert "not measured" in plan(64, A100)[0].why
    assert "us a step (instructions counted, not measured)" in plan(64)[0].why
    assert all("us a step" in chosen.others[name] for name in ("grid", "per_step"))
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
