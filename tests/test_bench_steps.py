"""`bench step` times single steps and blocks by every contender, after it has held their outputs to torch.nn's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner

import fused_rnn
from bench import steps
from bench.case import Case, oracle
from bench.commands import cli
from bench.problems import Problem
from bench.timing import Timing
from bench.verify import TOLERANCES, relative_error

if TYPE_CHECKING:
    from pathlib import Path

STEPPERS = {"Stepper", "Stepper, out", "Stepper, block", "Stepper, int8", "Stepper, bf16"}
OURS = STEPPERS | {"fused layer", "fused cell"}
OTHERS = {"torch layer", "torch cell", "torch.ao int8", "ONNX Runtime"}


def test_the_command_prints_and_writes_every_contender(tmp_path: Path) -> None:
    path, problems = tmp_path / "out.json", ["lstm:t5,b2,i3,h6,f32,infer", "rnn_relu:t4,b1,i3,h5,f32,infer"]
    result = CliRunner().invoke(cli, ["step", *problems, "--seconds", "0.001", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "Steps: microseconds of one" in result.stdout
    lstm, relu = json.loads(path.read_text(encoding="utf-8"))["steps"]
    assert [lstm["problem"], relu["problem"]] == problems
    assert lstm["contenders"].keys() == OURS | OTHERS
    assert relu["contenders"].keys() == OURS | OTHERS - {"torch.ao int8"}


@pytest.mark.parametrize("further", ["l2,f32,infer", "bi,f32,infer", "f32,train", "f64,infer", "f32-bf16,infer"])
def test_what_has_no_steps_is_a_usage_error(further: str) -> None:
    result = CliRunner().invoke(cli, ["step", f"gru:t5,b2,i3,h6,{further}"])
    assert result.exit_code == 2
    assert "steps are" in result.stderr


def test_a_wrong_contender_is_a_failure_and_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    contenders = steps.contenders

    def with_a_wrong_one(case: Case) -> list[tuple[str, float, steps.Run]]:
        name, tolerance, run = next(contenders(case))
        return [(name, tolerance, lambda: [y + 1e-4 for y in run()])]

    monkeypatch.setattr(steps, "contenders", with_a_wrong_one)
    row = steps.measure_steps(Problem.parse("gru:t3,b2,i4,h5,f32,infer"), 1e-3)
    assert row.timings == {}
    assert row.failures == ["Stepper: error 1.0e-04"]


def test_int8_and_bfloat16_steps_round_and_the_others_do_not() -> None:
    case = Case.draw(Problem.parse("lstm:t6,b2,i40,h48,f32,infer"))
    expected = oracle(case, with_state=False)["output"]
    rounded = set()
    with torch.no_grad():
        for name, _, run in steps.contenders(case):
            found = run()
            output = found if isinstance(found, torch.Tensor) else torch.stack(found)
            if relative_error(output, expected) > TOLERANCES[torch.float32].outputs:
                rounded.add(name)
    pairs = {"Stepper, bf16"} if fused_rnn.build_info()["active_instruction_set"].endswith("_bf16") else set()
    assert rounded == {"Stepper, int8", "torch.ao int8"} | pairs


def test_a_step_is_a_part_of_the_time() -> None:
    row = steps.StepRow(Problem.parse("gru:t4,b2,i4,h5,f32,infer"), {"Stepper": Timing((8e-6, 4e-6))})
    assert row.microseconds("Stepper") == pytest.approx(1.0)
    assert row.to_json()["contenders"] == {"Stepper": {"minimum_s": 1e-6, "median_s": 1.5e-6}}


def test_a_quantile_is_a_sample() -> None:
    timing = Timing((4.0, 1.0, 3.0, 2.0))
    assert [timing.quantile(q) for q in (0.0, 0.25, 0.5, 0.9, 1.0)] == [1.0, 1.0, 2.0, 4.0, 4.0]
