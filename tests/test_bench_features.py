"""The features of the benchmark, small: each is verified against something that is not ours, and its bar is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner

from bench import commands, reference
from bench.case import Case, ModuleRun, Results
from bench.contenders import Variant, masks, random_lengths, random_resets
from bench.features import FEATURE_NAMES, FEATURES, Bar, Feature, FeatureRow, run_feature
from bench.peers import BASELINE, SUBJECT, Peer
from bench.problems import Problem
from bench.report import feature_lines, features_table
from bench.runner import Row
from bench.timing import Timing
from bench.verify import TOLERANCES, Errors, failures

if TYPE_CHECKING:
    from pathlib import Path

SHORT = 1e-3


def small(feature: Feature) -> Feature:
    # 7 steps and 3 rows of different lengths; 37 units: whole vectors and a part of one, and enough to see shares in.
    problem = replace(feature.problem, time_steps=7, batch=3, input_size=4, hidden_size=37)
    return replace(feature, problem=problem)


SMALL = tuple({str(feature): feature for feature in map(small, FEATURES)}.values())  # the sizes of a row coincide


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy, and a noisy row looks different."""
    monkeypatch.setattr("bench.runner.noise_of", lambda *_: None)


def find(name: str) -> Feature:
    return next(feature for feature in SMALL if feature.name == name)


class Wrong:
    """A run with every gradient of W_hh off by a little."""

    def __init__(self, peer: Peer, case: Case) -> None:
        self._prepared = peer.prepare(case)

    def step(self) -> None:
        raise AssertionError("what is wrong must not be timed")

    def results(self, *, with_state: bool) -> Results:
        results = self._prepared.results(with_state=with_state)
        return results | {"d_weight_hh_l0": results["d_weight_hh_l0"] * 1.001}


def wrong(peer: Peer) -> Peer:
    return replace(peer, prepare=lambda case: Wrong(peer, case))


@pytest.mark.parametrize("feature", SMALL, ids=str)
def test_every_feature_is_verified_then_timed(feature: Feature) -> None:
    found = run_feature(feature, SHORT)
    assert found.row.failures == []
    assert found.row.notes == []
    assert found.row.timings.keys() == {BASELINE, SUBJECT}
    assert found.verdict == ("-" if feature.bar.limit is None else "met" if found.met else "MISSED")


@pytest.mark.parametrize("name", [name for name in FEATURE_NAMES if name != "bf16"])
def test_a_wrong_result_is_refused_and_not_timed(name: str) -> None:
    feature = find(name)
    found = run_feature(replace(feature, ours=wrong(feature.ours)), SHORT)
    assert not found.row.timings
    assert found.verdict == "FAILED"
    assert found.met is None
    assert found.row.failures[0].startswith("d_weight_hh_l0: error")
    assert features_table([found]).bad == {0}


def test_another_run_of_ours_must_be_right_too() -> None:
    feature = find("zoneout")
    found = run_feature(replace(feature, other=wrong(feature.other)), SHORT)
    assert found.verdict == "FAILED"
    assert found.row.failures[0].startswith("plain: d_weight_hh_l0: error")


def test_a_wrong_other_that_is_not_ours_is_no_failure_of_ours() -> None:
    feature = find("packed")
    peer = replace(feature.other, prepare=lambda _case: (_ for _ in ()).throw(RuntimeError("no such kernel")))
    found = run_feature(replace(feature, other=peer), SHORT)
    assert found.row.verified
    assert found.verdict == "not timed"
    assert feature_lines([found])[0].endswith("against torch: torch cannot run it: RuntimeError: no such kernel")


@pytest.mark.parametrize("options", [{"zoneout": 0.4}, {"recurrent_dropout": 0.4}, {"weight_dropout": 0.4}], ids=str)
def test_a_variant_that_does_nothing_is_refused(options: dict[str, float]) -> None:
    problem = replace(find("zoneout").problem, training=False)  # in eval mode nothing is drawn
    with pytest.raises(ValueError, match=rf"{next(iter(options))}=0.4 acts on 0 of \d+ values"):
        masks(Case.draw(problem).double(), options)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_reference_is_torch_nn_where_nothing_is_added(cell: str) -> None:
    case = Case.draw(Problem.parse(f"{cell}:t5,b3,i4,h6,f64,train"))
    for with_state in (True, False):
        exact = ModuleRun(torch.nn, case).results(with_state=with_state)
        errors = Errors()
        errors.add(ModuleRun(reference, case).results(with_state=with_state), exact)
        assert failures(errors, None, TOLERANCES[torch.float64]) == []


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_reference_stops_and_restarts_as_rows_alone_do(cell: str) -> None:
    problem = Problem.parse(f"{cell}:t7,b4,i4,h6,f64,infer")
    case = Case.draw(problem)
    lengths, resets = random_lengths(problem)["lengths"], torch.zeros(7, 4, dtype=torch.bool)
    resets[2, 1] = True
    found = ModuleRun(reference, case, arguments={"lengths": lengths, "resets": resets}).results(with_state=False)
    layer = problem.make_layer(torch.nn)
    layer.load_state_dict(dict(case.weights))
    with torch.no_grad():
        for row, length in enumerate(lengths.tolist()):
            starts = [0, 2] if row == 1 and length > 2 else [0]
            parts = [layer(case.x[a:b, row])[0] for a, b in zip(starts, [*starts[1:], length], strict=True)]
            torch.testing.assert_close(found["output"][:length, row], torch.cat(parts))
            torch.testing.assert_close(found["h_n"][0, row], parts[-1][-1])
            assert not found["output"][length:, row].any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_layer_norm_of_the_reference_is_that_of_ours(cell: str) -> None:
    problem = Problem.parse(f"{cell}:t5,b3,i4,h6,f64,train")
    variant = Variant({"layer_norm": True})
    case = Case.draw(problem)
    errors = Errors()
    errors.add(variant.prepare(case).results(with_state=True), variant.exact(case, with_state=True))
    assert {"d_gain_ih_l0", "d_gain_hh_l0"} <= errors.by_name.keys()
    assert failures(errors, None, TOLERANCES[torch.float64]) == []


def test_lengths_and_resets_are_the_same_for_the_same_problem() -> None:
    problem = replace(FEATURES[0].problem, time_steps=100, batch=32)
    lengths, resets = random_lengths(problem)["lengths"], random_resets(problem)["resets"]
    assert torch.equal(lengths, random_lengths(problem)["lengths"])
    assert (lengths >= 1).all()
    assert (lengths <= 100).all()
    assert resets.shape == (100, 32)
    assert 0.03 < resets.double().mean() < 0.07


@pytest.mark.parametrize(
    ("bar", "text", "met"),
    [
        (Bar(3.0), "bar 3x", True),
        (Bar(5.0), "bar 5x", False),
        (Bar(1 / 0.3), "bar 3.33x", True),
        (Bar(), "no bar", None),
    ],
)
def test_a_bar_is_a_least_ratio(bar: Bar, text: str, met: bool | None) -> None:
    row = Row(FEATURES[0].problem, 1, timings={BASELINE: Timing((4.0, 9.0)), SUBJECT: Timing((1.0, 1.0))})
    found = FeatureRow(replace(FEATURES[0], bar=bar), row)
    assert str(bar) == text
    assert found.ratio_minimum == 4.0
    assert found.met is met


def test_a_missed_bar_is_shown_as_missed() -> None:
    row = Row(FEATURES[0].problem, 1, timings={BASELINE: Timing((2.0,)), SUBJECT: Timing((1.0,))})
    found = FeatureRow(replace(FEATURES[0], bar=Bar(3.0)), row)
    table = features_table([found])
    assert table.rows[0][-3:] == ("2.00x / 2.00x", "bar 3x", "MISSED")
    assert table.bad == {0}
    assert feature_lines([found]) == [f"MISSED {FEATURES[0]}: 2.00x, bar 3x", "bars: 0 met, 1 missed"]


def test_a_noisy_row_neither_meets_nor_misses_its_bar() -> None:
    row = Row(FEATURES[0].problem, 1, timings={BASELINE: Timing((2.0,)), SUBJECT: Timing((1.0,))}, noise="busy")
    found = FeatureRow(replace(FEATURES[0], bar=Bar(3.0)), row)
    assert found.met is None
    assert features_table([found]).rows[0][-3:] == ("2.00x* / 2.00x*", "bar 3x", "noisy")
    assert feature_lines([found])[:2] == ["bars: 0 met, 0 missed", f"noisy {FEATURES[0]}: busy"]


def test_the_command_runs_the_named_features_and_writes_report_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "FEATURES", SMALL)
    json_path, folder = tmp_path / "out.json", tmp_path / "report"
    arguments = ["features", "peephole", "packed", "--seconds", str(SHORT), "--threads", "1"]
    result = CliRunner().invoke(commands.cli, [*arguments, "--json", str(json_path), "--report", str(folder)])
    assert result.exit_code == 0, result.output
    assert "bar 3x" in result.stdout
    data = json.loads(json_path.read_text(encoding="utf-8"))
    assert [row["feature"] for row in data["features"]] == ["packed", "packed", "peephole"]  # LSTM and GRU
    assert data["features"][0]["bar"] == 3.0
    assert data["features"][0]["peers"][SUBJECT]["minimum_s"] > 0.0
    assert "gflops" not in data["features"][0]["peers"][SUBJECT]
    assert {path.name for path in folder.iterdir()} == {"report.md", "features.json"}
    assert "| peephole |" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_failed_verification_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    feature = find("lengths")
    monkeypatch.setattr(commands, "FEATURES", (replace(feature, ours=wrong(feature.ours)), find("peephole")))
    result = CliRunner().invoke(commands.cli, ["features", "--seconds", str(SHORT)])
    assert result.exit_code == 1
    assert f"FAILED {feature}: d_weight_hh_l0: error" in result.stdout


def test_the_bars_are_those_that_were_set() -> None:
    bars = {feature.name: str(feature.bar) for feature in FEATURES}
    assert bars == {
        "packed": "bar 3x",
        "lengths": "bar 0.87x",
        "resets": "bar 0.87x",
        "layer_norm": "bar 4x",
        "zoneout": "bar 0.8x",
        "recurrent_dropout": "bar 0.8x",
        "bf16": "bar 20x",
        "per_sample": "bar 3x",
        "own_cell": "no bar",
        "weight_dropout": "no bar",
        "peephole": "no bar",
        "recompute": "no bar",
    }
