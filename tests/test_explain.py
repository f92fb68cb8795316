"""explain() says what would run, per layer, for people and for programs: the answer first, of models too."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import fused_rnn
from fused_rnn import _ops

LAYERS = ("LSTM", "GRU", "RNN")
H200 = fused_rnn.CudaDevice(90, 132, 232448)
of_every_layer = pytest.mark.parametrize("name", LAYERS)


def test_every_layer_of_a_stack_is_explained_with_its_own_sizes() -> None:
    layer = fused_rnn.LSTM(3, 8, num_layers=2, bidirectional=True, proj_size=2, batch_first=True)
    found = fused_rnn.explain(layer, torch.zeros(4, 6, 3))
    assert [plan.problem for plan in found.layers] == [
        "lstm: T=6 B=4 D=2 I=3 H=8 P=2 float32, training",
        "lstm: T=6 B=4 D=2 I=4 H=8 P=2 float32, training",
    ]


def test_the_backward_pass_is_explained_only_where_a_gradient_is_wanted() -> None:
    layer, x = fused_rnn.GRU(3, 8), torch.zeros(4, 6, 3)
    assert [each.name for each in fused_rnn.explain(layer, x).layers[0].passes] == ["forward", "backward"]
    with torch.no_grad():
        found = fused_rnn.explain(layer, x)
    assert [each.name for each in found.layers[0].passes] == ["forward"]
    assert found.layers[0].problem.endswith("inference")


def test_the_text_names_instruction_set_schedule_threads_and_reason() -> None:
    torch.set_num_threads(2)
    found = fused_rnn.explain(fused_rnn.RNN(3, 8), torch.zeros(4, 3))
    text = str(found)
    for part in (_ops.active_instruction_set(), "up to 2 threads", found.layers[0].schedule, "B=1"):
        assert part in text
    for each in found.layers[0].passes:
        assert each.why
        assert each.why in text
        assert 1 <= each.details["threads"] <= 2
    assert not re.search(r"\d\.\d{3}", text)  # no more digits than anybody reads


def test_other_ways_to_share_the_work_are_named_with_what_was_expected_of_them() -> None:
    torch.set_num_threads(2)
    layer = fused_rnn.LSTM(256, 256, bidirectional=True)
    for each in fused_rnn.explain(layer, torch.zeros(50, 4, 256)).layers[0].passes:
        ways = {
            "one thread",
            "2 threads share the 2 directions",
            "2 threads share the rows of the batch",
            "2 threads share the hidden units",
        }
        (chosen,) = (way for way in ways if each.why.startswith(way))
        assert set(each.others) == ways - {chosen}
        assert all("cycles per step" in expected for expected in each.others.values())
    (alone,) = fused_rnn.explain(fused_rnn.GRU(3, 8), torch.zeros(1, 1, 3)).layers[0].passes[:1]
    assert alone.schedule == "cpu_single_step"
    assert not alone.others


def test_nothing_is_computed() -> None:
    layer = fused_rnn.LSTM(3, 5, device="meta")
    assert fused_rnn.explain(layer, torch.empty(1000, 1000, 3, device="meta")).layers


def test_arguments_are_checked_as_in_a_call() -> None:
    layer = fused_rnn.GRU(3, 5)
    with pytest.raises(RuntimeError, match=r"input\.size\(-1\)"):
        fused_rnn.explain(layer, torch.zeros(4, 2, 7))
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        fused_rnn.explain(layer, torch.zeros(4, 2, 3), torch.zeros(1, 1, 5))


def test_a_layer_of_torch_is_refused_with_a_hint() -> None:
    with pytest.raises(TypeError, match=r"fused_rnn\.convert"):
        fused_rnn.explain(torch.nn.LSTM(3, 5), torch.zeros(4, 2, 3))
    with pytest.raises(
        TypeError, match=r"a fused_rnn LSTM, GRU or RNN, or a model with them, got torch\.nn\.Linear, which has none"
    ):
        fused_rnn.explain(torch.nn.Linear(3, 5), torch.zeros(4, 2, 3))


def test_build_info_is_text_by_name() -> None:
    info = fused_rnn.build_info()
    assert {"version", "compiler", "instruction_sets", "torch"} <= set(info)
    assert all(isinstance(value, str) for value in info.values())
    assert info["version"] == fused_rnn.__version__


# --- The answer ---


@of_every_layer
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"layer_norm": True}, {"zoneout": 0.1}], ids=str)
@pytest.mark.parametrize("device", [None, H200], ids=["cpu", "gpu"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_the_first_line_says_what_runs_why_and_what_would_be_faster(
    name: str, options: dict[str, Any], device: Any, grad: bool
) -> None:
    with torch.set_grad_enabled(grad):
        found = fused_rnn.explain(getattr(fused_rnn, name)(8, 64, **options), torch.randn(5, 3, 8), device=device)
    first, second = str(found).splitlines()[:2]
    assert second == found.device
    assert first == found.answer
    assert {plan.answer for plan in found.layers} == {first}
    what, _, rest = first.partition(". Why: ")
    assert what.startswith(f"{name}, {'training' if grad else 'inference'}: ")
    forward = found.layers[0].passes[0]
    assert forward.schedule in what or "plain torch" in what
    reason = forward.why if device else forward.route_why
    assert rest.startswith(reason.partition(":")[0])
    assert ". Faster: " in rest


def advice(layer: Any, *arguments: Any, **options: Any) -> str:
    return fused_rnn.explain(layer, *arguments, **options).answer.partition("Faster: ")[2]


@of_every_layer
def test_what_would_be_faster_on_a_cpu_follows_from_the_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = getattr(fused_rnn, name)(8, 64), torch.randn(5, 3, 8)
    monkeypatch.setattr(_ops, "active_instruction_set", lambda: "avx512_bf16")
    assert 'torch.backends.mkldnn.rnn.fp32_precision = "bf16" (less exact)' in advice(layer, x)
    assert "no_grad" not in advice(layer, x)
    assert "torch.no_grad()" in advice(layer.eval(), x)
    monkeypatch.setattr(_ops, "active_instruction_set", lambda: "avx2")
    with torch.no_grad():
        assert not any(word in advice(layer, x) for word in ("bf16", "no_grad", "Stepper"))
        assert "fused_rnn.Stepper" in advice(layer, x[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert "layer.to(torch.bfloat16) in place of autocast" in advice(layer, x)
    assert "float32" in advice(layer.double(), x.double())


def test_more_threads_are_named_where_the_planner_would_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    large, small = fused_rnn.LSTM(256, 256), fused_rnn.LSTM(2, 2)
    assert "torch.set_num_threads(2)" in advice(large, torch.randn(50, 16, 256))
    assert "set_num_threads" not in advice(small, torch.randn(2, 1, 2))
    torch.set_num_threads(2)
    assert "set_num_threads" not in advice(large, torch.randn(50, 16, 256))


def test_what_would_be_faster_on_a_gpu_is_the_planners_own_answer() -> None:
    x = torch.randn(100, 16, 128)
    assert "no layer_norm (grid, " in advice(fused_rnn.LSTM(128, 512, layer_norm=True), x, device=H200)
    half = fused_rnn.LSTM(128, 512, proj_size=64).bfloat16()
    why = ", a projection needs a second product in each step. Faster: nothing known."
    assert why in fused_rnn.explain(half, x.bfloat16(), device=H200).answer
    assert advice(fused_rnn.LSTM(128, 512).double(), x.double(), device=H200).startswith("float32 (grid, ")
    assert "bfloat16 (cluster, " in advice(fused_rnn.LSTM(128, 512), x, device=H200)
    assert advice(half.float(), x, device=fused_rnn.CudaDevice(75, 40, 65536)) == "nothing known."


# --- Lengths, and models ---


@of_every_layer
def test_lengths_and_resets_are_arguments_and_are_checked(name: str) -> None:
    layer, x = getattr(fused_rnn, name)(3, 5), torch.randn(6, 2, 3)
    found = fused_rnn.explain(layer, x, lengths=[6, 2], resets=torch.zeros(6, 2, dtype=torch.bool))
    assert found.layers[0].problem.endswith("float32, lengths, resets, training")
    with pytest.raises(ValueError, match="lengths must be from 0 to T = 6, got 7"):
        fused_rnn.explain(layer, x, lengths=[7, 2])


class Model(torch.nn.Module):
    """Every kind of layer at some depth, a loop, buffers, dropout, a layer of torch.nn and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 8)
        self.encoder = torch.nn.ModuleDict({"gru": fused_rnn.GRU(8, 16, batch_first=True)})
        self.norm, self.dropout = torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.5)
        self.decoder = fused_rnn.LSTM(16, 16, 2)
        self.frozen = fused_rnn.RNN(16, 3)
        self.idle, self.old = fused_rnn.RNN(3, 3), torch.nn.GRUCell(3, 3)

    def forward(self, ids: torch.Tensor, lengths: Any = None) -> torch.Tensor:
        x: torch.Tensor = self.encoder["gru"](self.embedding(ids), lengths=lengths)[0]
        x = self.dropout(self.norm(x.transpose(1, 2))).permute(2, 0, 1)
        state = None
        for step in x.unbind():
            y, state = self.decoder(step.unsqueeze(0), state)
        with torch.no_grad():
            output: torch.Tensor = self.frozen(input=y)[0]
        return output


def test_each_recurrent_layer_of_a_model_is_explained_with_what_the_model_gives_it() -> None:
    model, ids = Model(), torch.randint(9, (4, 6))
    found = fused_rnn.explain(model, ids, lengths=[6, 5, 4, 3])
    assert [plan.module for plan in found.layers] == ["encoder.gru", "decoder", "decoder", "frozen"]
    problems = {plan.module: plan.problem for plan in found.layers}
    assert problems["encoder.gru"] == "gru: T=6 B=4 D=1 I=8 H=16 float32, lengths, training"
    assert problems["decoder"] == "lstm: T=1 B=4 D=1 I=16 H=16 float32, training"
    assert problems["frozen"] == "rnn_tanh: T=1 B=4 D=1 I=16 H=3 float32, inference"
    assert found.notes == ("of torch.nn, for fused_rnn.convert to swap: old", "not reached by this call: idle")
    lines = str(found).splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["encoder.gru", "decoder", "frozen"]
    assert tuple(lines[3:5]) == found.notes
    assert "decoder layer 1: lstm: T=1" in str(found)


def test_a_model_stays_as_it_is() -> None:
    model, ids = Model(), torch.randint(9, (4, 6))
    before, generator = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    fused_rnn.explain(model, (ids,))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(IndexError):
        fused_rnn.explain(model, ids + 9)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_layers_of_a_model_are_explained_as_by_themselves() -> None:
    x = torch.randn(6, 2, 3)
    for name in LAYERS:
        layer = getattr(fused_rnn, name)(3, 5, num_layers=2)
        (of_model, by_itself) = (fused_rnn.explain(each, x).layers for each in (torch.nn.Sequential(layer), layer))
        assert [(plan.problem, plan.passes, plan.answer) for plan in of_model] == [
            (plan.problem, plan.passes, plan.answer) for plan in by_itself
        ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.GRU(3, 5), r"got torch.nn.GRU, .* torch.nn \(the model itself\): call fused_rnn.convert\(model\)"),
        (torch.nn.Sequential(torch.nn.GRU(3, 5)), r"Sequential, .* torch.nn \(0\): call fused_rnn.convert\(model\)"),
        (torch.nn.Sequential(fused_rnn.GRUCell(3, 5)), "got torch.nn.Sequential, whose cells all run one step$"),
        (torch.nn.Identity(), "got torch.nn.Identity, which has none$"),
        ("model", "or a model, got str$"),
    ],
    ids=["of torch.nn", "with torch.nn's", "cells", "nothing", "text"],
)
def test_what_has_no_recurrent_layer_is_refused(model: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"layer must be a fused_rnn LSTM, GRU or RNN, .*{message}"):
        fused_rnn.explain(model, torch.zeros(4, 2, 3))


def test_a_call_that_reaches_no_recurrent_layer_is_refused() -> None:
    model: Any = torch.nn.Identity()
    model.layer = fused_rnn.GRU(3, 5)
    with pytest.raises(ValueError, match="reaches none of its recurrent layers: layer"):
        fused_rnn.explain(model, torch.zeros(4, 2, 3))
