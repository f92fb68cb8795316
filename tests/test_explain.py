"""explain() says what would run, per layer, for people and for programs."""

from __future__ import annotations

import pytest
import torch

import fused_rnn
from fused_rnn import _ops


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
    with pytest.raises(TypeError, match="layer must be a fused_rnn LSTM, GRU or RNN, got Linear"):
        fused_rnn.explain(torch.nn.Linear(3, 5), torch.zeros(4, 2, 3))


def test_build_info_is_text_by_name() -> None:
    info = fused_rnn.build_info()
    assert {"version", "compiler", "instruction_sets", "torch"} <= set(info)
    assert all(isinstance(value, str) for value in info.values())
    assert info["version"] == fused_rnn.__version__


def test_layer_norms_on_a_gpu_are_said_to_run_in_plain_torch() -> None:
    layer, h200 = fused_rnn.LSTM(8, 64, layer_norm=True), fused_rnn.CudaDevice(90, 132, 232448)
    plan = fused_rnn.explain(layer, torch.randn(5, 3, 8), device=h200).layers[0].passes[0]
    assert plan.schedule == "plain_torch"
    assert set(plan.others) == {"one_block", "cluster", "grid", "per_step"}
