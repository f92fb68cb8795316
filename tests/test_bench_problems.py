"""Problem strings: they round trip, name what is wrong in them, and describe the layers that they build."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.problems import CELLS, SUITE_NAMES, TYPES, Problem, suite


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    cell = draw(st.sampled_from(CELLS))
    hidden_size = draw(st.integers(1, 2000))
    proj = draw(st.integers(0, hidden_size - 1)) if cell == "lstm" else 0
    dtype, factors = draw(st.sampled_from(list(TYPES.values())))
    return Problem(
        cell,
        draw(st.integers(0, 70_000)),
        draw(st.integers(0, 500)),
        draw(st.integers(1, 2000) | st.just(8)),  # i8 is a type, too
        hidden_size,
        dtype,
        factors != torch.int8 and draw(st.booleans()),
        draw(st.integers(1, 4)),
        draw(st.booleans()),
        proj,
        factors,
    )


@given(problems())
def test_every_problem_is_parsed_from_its_own_string(problem: Problem) -> None:
    assert Problem.parse(str(problem)) == problem


@given(problems(), st.randoms(use_true_random=False))
def test_fields_may_come_in_any_order(problem: Problem, random: object) -> None:
    cell, _, fields = str(problem).partition(":")
    parts = fields.split(",")
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert Problem.parse(f"{cell}:{', '.join(parts)}") == problem


@given(st.text())
def test_any_other_text_is_one_line_of_value_error(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Problem.parse(text)
    assert len(str(caught.value).splitlines()) == 1


def test_the_canonical_string_is_kept() -> None:
    for text in (
        "lstm:t100,b16,i128,h128,f32,train",
        "lstm:t7,b1,i3,h9,l2,bi,p4,bf16,infer",
        "gru:t7,b1,i8,h9,i8,infer",
        "gru:t7,b1,i8,h9,f32-bf16,train",
    ):
        assert str(Problem.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lstm", "has no ':'"),
        ("lstn:t1,b1,i1,h1,f32,train", "unknown cell 'lstn': use lstm, gru, rnn_tanh, rnn_relu"),
        ("lstm:t1,b1,i1,f32,train", "lacks h (hidden size)"),
        ("lstm:t1,b1,i1,h1", "lacks a dtype (f32, f64, bf16, f16, i8, f32-bf16), a mode (train or infer)"),
        ("lstm:t1,b1,i8,h1,infer", "lacks a dtype"),
        ("lstm:t1,b1,i1,h1,i8,f32,infer", "'f32' sets dtype a second time"),
        ("lstm:t1,b1,i1,i2,h1,f32,infer", "'i2' sets input_size a second time"),
        ("gru:t1,b1,i1,h1,i8,train", "i8 is for inference: layers with int8 weights have no gradients"),
        ("lstm:t1,b1,i1,h1,f33,train", "bad field 'f33'"),
        ("lstm:t1,b1,i1,h1,f32,train,", "bad field ''"),
        ("lstm:t-1,b1,i1,h1,f32,train", "bad field 't-1'"),
        ("lstm:t1,b1,i1,h0,f32,train", "hidden_size (h) must be at least 1, got 0"),
        ("lstm:t1,b1,i0,h1,f32,train", "input_size (i) must be at least 1, got 0"),
        ("lstm:t1,b1,i1,h1,l0,f32,train", "layers (l) must be at least 1, got 0"),
        ("lstm:t1,b1,i1,h2,p0,f32,train", "proj (p) must be at least 1, got 0"),
        ("lstm:t1,b1,i1,h2,p2,f32,train", "the projection p2 must be smaller than the hidden size h2"),
        ("gru:t1,b1,i1,h4,p2,f32,train", "needs the cell lstm, got gru"),
        ("lstm:t1,b1,i1,h4,t2,f32,train", "'t2' sets time_steps a second time"),
        ("lstm:t1,b1,i1,h4,f32,train,infer", "'infer' sets training a second time"),
    ],
)
def test_an_error_names_the_bad_part(text: str, named: str) -> None:
    with pytest.raises(ValueError) as caught:
        Problem.parse(text)
    assert named in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_i8_is_the_type_beside_an_input_size_and_else_the_input_size() -> None:
    one, other = (Problem.parse(f"lstm:t1,b1,h1,{fields},infer") for fields in ("i8,i4", "i8,f32"))
    assert (one.input_size, one.dtype, one.factors) == (4, torch.float32, torch.int8)
    assert (other.input_size, other.dtype, other.factors) == (8, torch.float32, None)


def test_a_constructed_problem_is_checked_too() -> None:
    with pytest.raises(ValueError, match="unknown dtype"):
        Problem("lstm", 1, 1, 1, 1, torch.int8)


@pytest.mark.parametrize("text", [f"{cell}:t2,b3,i4,h5,l2,bi,f64,infer" for cell in CELLS])
def test_a_layer_has_the_shapes_of_its_problem(text: str) -> None:
    problem = Problem.parse(text)
    layer: Any = problem.make_layer(torch.nn)
    assert not layer.training
    output, state = layer(torch.zeros(problem.input_shape, dtype=problem.dtype))
    h_n = state[0] if problem.cell == "lstm" else state
    assert output.shape == (2, 3, problem.directions * problem.output_size)
    assert h_n.shape == problem.h_shape
    assert layer.weight_hh_l0.shape[0] == problem.gates * problem.hidden_size


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projected_layer_has_the_shapes_of_its_problem() -> None:
    problem = Problem.parse("lstm:t2,b3,i4,h5,p2,f64,train")
    output, (h_n, c_n) = problem.make_layer(torch.nn)(torch.zeros(problem.input_shape, dtype=problem.dtype))
    assert output.shape[-1] == problem.output_size == 2
    assert (h_n.shape, c_n.shape) == (problem.h_shape, problem.c_shape)


def test_the_nonlinearity_is_in_the_cell_name() -> None:
    layers = [Problem.parse(f"{cell}:t1,b1,i1,h1,f32,train").make_layer(torch.nn) for cell in ("rnn_tanh", "rnn_relu")]
    assert [layer.nonlinearity for layer in layers] == ["tanh", "relu"]


def test_flops_count_both_products_and_three_times_as_many_in_training() -> None:
    one_layer = 2 * 4 * 5 * (3 + 5) * 7 * 2  # multiply-add, gates, hidden, input + hidden, time, batch
    assert Problem.parse("lstm:t7,b2,i3,h5,f32,infer").flops() == one_layer
    assert Problem.parse("lstm:t7,b2,i3,h5,f32,train").flops() == 3 * one_layer
    two_layers_both_ways = 2 * 7 * 2 * (2 * 3 * 5 * (3 + 5) + 2 * 3 * 5 * (10 + 5))
    assert Problem.parse("gru:t7,b2,i3,h5,l2,bi,f32,infer").flops() == two_layers_both_ways
    assert Problem.parse("lstm:t7,b2,i3,h5,p2,f32,infer").flops() == 2 * 7 * 2 * (4 * 5 * (3 + 2) + 5 * 2)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_suites_hold_distinct_problems_in_canonical_form(name: str) -> None:
    assert len(set(suite(name))) == len(suite(name)) > 0


def test_the_quick_suite_has_all_cells_and_both_modes() -> None:
    quick = suite("quick")
    assert {problem.cell for problem in quick} == set(CELLS)
    assert {problem.training for problem in quick} == {True, False}
    assert 10 <= len(quick) <= 16


def test_the_suite_all_holds_every_other_one_but_repeats_nothing() -> None:
    everything = set(suite("all"))
    assert everything >= set(suite("lstm")) | set(suite("gru")) | set(suite("rnn")) | set(suite("quick"))


def test_an_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown suite .slow.: use quick, lstm, gru, rnn, .*, all"):
        suite("slow")
