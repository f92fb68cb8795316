"""The other implementations compute what torch.nn computes, refuse with a reason what they lack, and are judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner

import fused_rnn
from bench import loops, peers, report
from bench.case import Case, ModuleRun, Results
from bench.commands import cli
from bench.peers import PEERS, RIVALS, Peer, chosen
from bench.problems import CELLS, Problem
from bench.runner import geometric_means, run_problem
from bench.verify import TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = fused_rnn.build_info()["active_instruction_set"].endswith("_bf16")
VNNI = "vnni" in fused_rnn.build_info()["instruction_sets"]
ROOT = Path(__file__).resolve().parent.parent
INFER = [f"{cell}:t5,b2,i3,h6{further},f32,infer" for cell in CELLS for further in ("", ",l2,bi")]
TRAIN = [text.replace("infer", "train") for text in (*INFER, "lstm:t5,b2,i3,h6,l2,bi,p4,f32,infer")]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy, and a noisy row looks different."""
    monkeypatch.setattr("bench.runner.noise_of", lambda *_: None)


def assert_exact(texts: Sequence[str], *against: str) -> None:
    """The peers run the problems, and their results are within the tolerances of fused_rnn's."""
    for text in texts:
        row = run_problem(Problem.parse(text), 1e-3, chosen(against))
        assert (row.failures, row.notes, row.refusals) == ([], [], {})
        assert row.timings.keys() == {*against, "fused"}


def test_the_loop_computes_every_cell_layer_direction_and_projection() -> None:
    assert_exact([INFER[0], *TRAIN[1::2], TRAIN[-1]], "loop")


def test_the_loop_computes_in_every_type() -> None:
    assert_exact([TRAIN[0].replace("f32", name) for name in ("f64", "bf16")], "torch", "loop")


def test_onnx_runtime_computes_every_cell_layer_and_direction() -> None:
    assert_exact(INFER, "onnxruntime")


def assert_rounded(texts: Sequence[str], *against: str) -> None:
    """The peers run the problems within their tolerances, and all but a float32 layer with more than its error."""
    for text in texts:
        row = run_problem(Problem.parse(text), 1e-3, chosen(against))
        assert (row.failures, row.notes, row.refusals) == ([], [], {})
        assert row.timings.keys() == {*against, "fused"}
        for name, errors in row.errors.items():
            worst = errors.worst(gradients=None)
            assert worst is not None
            is_rounded = name != "float32" and (ROUNDS or "f32-bf16" not in text)
            assert (worst[1] > TOLERANCES[torch.float32].gradients) == is_rounded, (text, name)


def test_int8_layers_of_torch_and_onnx_runtime_compute_the_same_within_int8() -> None:
    lstms = [f"lstm:t5,b3,i40,h48{further},i8,infer" for further in ("", ",l2,bi")]
    assert_rounded(lstms, "torch", "torchao-int8", "float32", "onnxruntime-int8")
    assert_rounded(["gru:t5,b3,i40,h48,l2,bi,i8,infer"], "torch", "float32")
    assert_rounded(["rnn_relu:t5,b3,i40,h48,i8,infer", "lstm:t5,b3,i40,h48,p8,i8,infer"], "float32")


@pytest.mark.skipif(bool(PEERS["ncnn"].missing()), reason="ncnn is not installed")
def test_ncnn_computes_the_same_within_int8() -> None:
    assert_rounded([f"{cell}:t5,b3,i41,h47,i8,infer" for cell in ("lstm", "gru", "rnn_tanh")], "ncnn")


def test_float32_layers_round_to_bfloat16_by_the_switch_and_it_is_put_back() -> None:
    switch: Any = torch.backends.mkldnn.rnn  # type: ignore[attr-defined]
    before = switch.fp32_precision
    assert_rounded([f"{cell}:t5,b3,i40,h48,f32-bf16,infer" for cell in CELLS], "float32")
    assert_rounded(["gru:t5,b3,i40,h48,f32-bf16,train"], "float32")  # relu's derivative jumps where factors are rounded
    row = run_problem(Problem.parse("lstm:t5,b3,i40,h48,f32-bf16,train"), 1e-3)
    assert row.verified
    assert row.timings.keys() == {"torch", "fused"}
    assert switch.fp32_precision == before


@pytest.mark.parametrize(
    ("text", "refused"),
    [("rnn_tanh:t3,b2,i4,h5,i8,infer", "no int8 RNN"), ("lstm:t3,b2,i4,h5,p2,i8,infer", "no projection")],
)
def test_what_torch_has_no_int8_layer_for_is_refused_and_ours_is_timed(text: str, refused: str) -> None:
    row = run_problem(Problem.parse(text), 1e-3, chosen(["torch", "loop", "jax"]))
    assert refused in row.refusals["torch"]
    assert "float32 alone, not i8" in row.refusals["jax"]
    assert "which i8 asks" in row.refusals["loop"]
    assert row.timings.keys() == {"fused"}


@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning")
def test_the_compiled_loop_is_the_loop_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "UNROLL", 2)
    assert_exact(["rnn_tanh:t4,b2,i3,h6,f32,train"], "compiled-loop")


def test_openvino_and_jax_compute_the_same_in_a_process_of_their_own(tmp_path: Path) -> None:
    """Their threads stay until the process ends."""
    path = tmp_path / "out.json"
    problems = [
        "lstm:t5,b2,i3,h6,l2,bi,f32,infer",
        "rnn_relu:t5,b2,i3,h6,f32,infer",
        "gru:t5,b2,i3,h6,f32,train",
        TRAIN[-1],
        "lstm:t5,b3,i40,h48,i8,infer",
    ]
    options = ["--against", "openvino,openvino-int8,jax", "--seconds", "0.001", "--threads", "1", "--json", str(path)]
    command = [sys.executable, "-m", "bench", "run", *problems, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text(encoding="utf-8"))
    for problem in found["problems"]:
        timed = {name for name, peer in problem["peers"].items() if "minimum_s" in peer}
        if problem["problem"].endswith("i8,infer"):
            # Without VNNI the plugin may run it in another type, which is told and not timed.
            assert timed == {"openvino-int8", "fused"} - ({"openvino-int8"} if problem["notes"] else set())
            assert not (problem["notes"] and VNNI)
            assert all(max(peer["errors"].values()) > 1e-4 for peer in problem["peers"].values())
        else:
            assert problem["notes"] == []
            assert timed == {"jax", "fused"} | (set() if problem["problem"].endswith("train") else {"openvino"})
    assert found["peers"].keys() == {"openvino", "openvino-int8", "jax", "fused"}
    assert "jax 0." in found["peers"]["jax"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("onnxruntime", "lstm:t3,b2,i4,h5,f32,train", "no backward pass"),
        ("openvino", "lstm:t3,b2,i4,h5,p2,f32,infer", "no projection"),
        ("openvino", "gru:t3,b2,i4,h5,bf16,infer", "float32 alone, not bf16"),
        ("jax", "gru:t3,b2,i4,h5,f64,train", "float32 alone, not f64"),
        ("torchao-int8", "lstm:t3,b2,i4,h5,f32,infer", "int8 alone, not f32"),
        ("onnxruntime-int8", "gru:t3,b2,i4,h5,f32,infer", "quantizes the LSTM alone"),
        ("onnxruntime-int8", "lstm:t3,b2,i4,h5,f32,infer", "int8 alone, not f32"),
        ("openvino-int8", "gru:t3,b2,i4,h5,f32,infer", "no int8 GRU with torch.nn's reset gate"),
        ("ncnn", "lstm:t3,b2,i4,h5,l2,f32,infer", "one layer in one direction"),
        ("ncnn", "rnn_relu:t3,b2,i4,h5,f32,infer", "no relu"),
        ("float32", "lstm:t3,b2,i4,h5,f32,infer", "i8 and f32-bf16 alone, not f32"),
    ],
)
def test_what_a_peer_does_not_have_is_refused_with_the_reason(name: str, text: str, reason: str) -> None:
    row = run_problem(Problem.parse(text), 1e-3, {name: PEERS[name]} | chosen(["loop"]))
    assert reason in row.refusals[name]
    assert row.to_json()["refusals"] == row.refusals
    assert row.notes == []
    times, ratios = report.speed_tables([row])
    assert ratios.columns == ("problem", name, "loop")
    assert times.columns == (*ratios.columns, "fused")
    assert times.rows[0][1] == ratios.rows[0][1] == "-"
    assert ratios.rows[0][2].endswith("x")


class Inexact(ModuleRun):
    """torch.nn with an output off by a little."""

    def __init__(self, case: Case) -> None:
        super().__init__(torch.nn, case)

    def results(self, *, with_state: bool) -> Results:
        results = super().results(with_state=with_state)
        return results | {"output": results["output"] * 1.001}


def test_an_inexact_peer_is_noted_and_not_timed() -> None:
    row = run_problem(
        Problem.parse("gru:t3,b2,i4,h5,f32,infer"), 1e-3, {"rival": Peer("rival", "off", Inexact)} | chosen()
    )
    assert row.verified
    (note,) = row.notes
    assert note.startswith("rival is not timed: output: error 1.0e-03")
    assert row.timings.keys() == {"torch", "fused"}
    assert row.ratio("rival") is None


def test_a_coarse_peer_is_timed_with_its_error_in_the_table() -> None:
    rival = Peer("rival", "off", Inexact, coarse=2e-3)
    row = run_problem(Problem.parse("gru:t3,b2,i4,h5,f32,infer"), 1e-3, {"rival": rival} | chosen())
    assert row.notes == []
    assert row.timings.keys() == {"rival", "torch", "fused"}
    assert report.parity_table([row]).rows[0][1] == "1.0e-03"


def test_means_are_of_each_peer_alone() -> None:
    rows = [
        run_problem(Problem.parse(text), 1e-3, chosen(["torch", "onnxruntime"]))
        for text in ("gru:t3,b2,i4,h5,f32,infer", "gru:t3,b2,i4,h5,f32,train")
    ]
    means = {(mean.peer, mean.regime): mean.problems for mean in geometric_means(rows)}
    assert means["torch", "all"] == 2
    assert means["onnxruntime", "all"] == means["onnxruntime", "gru infer"] == 1
    table = report.means_table(geometric_means(rows))
    assert table.columns == ("regime", "torch", "onnxruntime")
    assert [row[0] for row in table.rows] == ["gru infer", "gru train", "all"]
    assert table.rows[1][2] == "-"
    assert table.rows[2][2].endswith("(1)")


def test_the_command_compares_with_the_peers_asked_for(tmp_path: Path) -> None:
    arguments = ["run", INFER[0], "--against", "torch, loop", "--seconds", "0.001", "--report", str(tmp_path)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "Ratios of minimums" in result.stdout
    (problem,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["problems"]
    assert problem["peers"]["loop"]["ratio_minimum"] > 0.0
    assert problem["ratio_minimum"] == problem["peers"]["torch"]["ratio_minimum"]


@pytest.mark.parametrize("name", [name for name in RIVALS if PEERS[name].packages])
def test_a_missing_package_is_a_usage_error_that_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _name: None)
    result = CliRunner().invoke(cli, ["run", INFER[0], "--against", f"loop,{name}"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"{name} needs {', '.join(PEERS[name].packages)}: pip install 'fused_rnn[peers]'" in result.stderr
