"""The fuzz of tools/fuzz: its cases pass on what the machine can run, and it finds faults that are planted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from build_support import native
from tools.fuzz import modes, oracle
from tools.fuzz.__main__ import Found, main, search
from tools.fuzz.case import LAYOUTS, Case, draw, smallest
from tools.fuzz.problem import laid_out
from tools.fuzz.run import run

if TYPE_CHECKING:
    from collections.abc import Callable

# By instruction set, the best one last: the other repeats the first cases, which draw every mode, on its own kernels.
CASES = dict(zip(native.runnable_instruction_sets()[:-3:-1], (600, 200), strict=False))


@pytest.mark.parametrize("isa", CASES)
def test_random_cases_give_what_the_oracle_gives(
    isa: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUSED_RNN_CPU_ISA", isa)
    assert {draw(1, number).mode for number in range(CASES[isa])} == modes.MODES.keys()
    assert main(["--cases", str(CASES[isa]), "--seed", "1"]) == 0, capfd.readouterr().out


def test_a_case_is_its_line() -> None:
    for number in range(200):
        case = draw(1, number)
        assert Case.parse(str(case)) == case == draw(1, number)
    assert len({draw(seed, 0) for seed in range(50)}) == 50
    with pytest.raises(ValueError, match="case has no size"):
        Case.parse("module=GRU size=3")


def test_every_mode_and_every_option_is_drawn() -> None:
    cases = [draw(1, number) for number in range(2000)]
    assert {case.mode for case in cases} == modes.MODES.keys()
    default = Case()
    for name in vars(default):
        assert len({getattr(case, name) for case in cases}) > 1, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_holds_the_values(layout: str) -> None:
    values = torch.randn(3, 4)
    made = laid_out(values, layout)
    assert torch.equal(made, values[:1].expand(3, 4) if layout == "expanded" else values)
    assert made.is_neg() or made.storage_offset() or not made.is_contiguous()


def test_how_near_values_come_to_a_jump_is_seen() -> None:
    values = torch.tensor([0.3, -0.5, 0.25])
    for function, distance in (
        (lambda v: torch.where(v > 0.05, 0.05, v), 0.2),
        (lambda v: torch.where(v < -0.05, -0.05, v), 0.3),
        (torch.relu, 0.25),
    ):
        margin = oracle.Margin()
        with margin:
            function(values)
        assert margin.distance == pytest.approx(distance)


# --- Planted faults ---

PLAIN = Case(module="GRU", t=3, b=2, i=4, h=5, states=True, dtype="float64", seed=1)


def kinds(case: Case) -> list[str]:
    return [failure.kind for failure in run(case)]


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any]) -> None:
    """After a call of a GRU, `change` has its input and output and says what the output is."""
    forward = fused_rnn.GRU.forward

    def changed(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        output, h_n = forward(self, x, *args, **kwargs)
        return change(x, output), h_n

    monkeypatch.setattr(fused_rnn.GRU, "forward", changed)


@pytest.mark.parametrize("mode", ["infer", "train", "functional", "inplace", "double", "func"])
def test_a_right_layer_passes_in_every_mode(mode: str) -> None:
    assert kinds(replace(PLAIN, mode=mode)) == []


@pytest.mark.parametrize("mode", ["infer", "train", "functional", "double", "func"])
def test_a_wrong_value_is_found_in_every_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda _, output: output * (1 + 1e-11))
    assert "output: wrong" in kinds(replace(PLAIN, mode=mode))


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(_ctx: Any, d: Any) -> Any:
            return 2 * d

    plant(monkeypatch, lambda _, output: Doubled.apply(output))  # type: ignore[no-untyped-call]
    assert "d_x: wrong" in kinds(PLAIN)


def test_a_value_that_is_not_finite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda _, output: output.masked_fill(output == output.max(), torch.nan))
    assert kinds(replace(PLAIN, mode="infer")) == ["output: not finite"]


def test_a_gradient_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda _, output: output.detach())
    assert kinds(PLAIN) == ["output should require grad"]


def test_a_changed_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(x: Any, output: Any) -> Any:
        x.detach().mul_(0.5)
        return output

    plant(monkeypatch, change)
    assert "x was changed" in kinds(PLAIN)


def test_a_result_in_the_memory_of_an_argument_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(PLAIN, mode="infer", i=5)
    plant(monkeypatch, lambda x, output: x.detach().copy_(output))
    assert "output and the argument x share memory" in kinds(case)


def test_gradients_that_share_memory_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grad = torch.autograd.grad

    def shared(*args: Any, **kwargs: Any) -> Any:
        *others, _, last = grad(*args, **kwargs)
        return (*others, last, last)

    monkeypatch.setattr(torch.autograd, "grad", shared)
    assert kinds(PLAIN) == ["d_bias_ih and d_bias_hh share memory"]


def test_weights_of_an_earlier_call_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[torch.Tensor] = []

    def change(_: Any, output: Any) -> Any:
        held.append(output)
        return held[0].clone()

    plant(monkeypatch, change)
    assert kinds(replace(PLAIN, mode="infer")) == ["output: wrong"]


def test_other_bits_in_a_second_run_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def change(_: Any, output: Any) -> Any:
        calls.append(1)
        return output * (1 + len(calls) * 2.0**-52)

    plant(monkeypatch, change)
    assert kinds(replace(PLAIN, mode="infer")) == ["output of a second call has other bits"]
    assert "output has other bits again, threads=1" in kinds(replace(PLAIN, again=1))


def test_an_error_is_a_failure_without_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(x: Any, _: Any) -> Any:
        raise RuntimeError(f"no place for {x.numel()} values")

    plant(monkeypatch, change)
    assert kinds(PLAIN) == ["RuntimeError: no place for N values"]


def test_the_end_of_the_interpreter_is_a_failure_of_its_case() -> None:
    planted = (
        "import os\nfrom tools.fuzz import __main__ as command\n"
        "draw = command.draw\n"
        "def crash(seed, number):\n    if number == 2: os.abort()\n    return draw(seed, number)\n"
        "command.draw = crash\ncommand.main()\n"
    )
    found = list(search(1, range(4), program=("-c", planted)))
    assert [each for each in found if isinstance(each, int)] == [0, 1, 2, 3]
    (crash,) = [each for each in found if isinstance(each, Found) and each.kind.startswith("the interpreter")]
    assert (crash.number, crash.case, crash.kind) == (2, str(draw(1, 2)), "the interpreter ended with -6")


def test_a_failing_case_is_made_smaller() -> None:
    case = Case.parse("module=LSTM mode=train t=9 b=5 i=4 h=7 layers=2 dropout=0.5 resets=True into=oc seed=3")
    found = smallest(case, lambda other: other.h >= 3 and other.resets and "c" in other.into)
    assert str(found) == "module=LSTM mode=train t=1 b=1 i=1 h=3 resets=True into=c seed=3"


def test_a_case_given_as_a_line_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", str(PLAIN)]) == 0
    assert main(["--only", "3", "--seed", "1"]) == 0
    assert capsys.readouterr().out == f"{PLAIN}\n{draw(1, 3)}\n"
