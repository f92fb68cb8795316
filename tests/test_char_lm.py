"""The character language model: its data, that it learns, that both implementations agree, and the text it writes."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
import torch

from bench.runner import thread_count
from bench.workloads.char_lm import CELLS, Curve, Outcome, Sampling, Settings, Workload, compare
from bench.workloads.corpus import Corpus, Streams, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
TINY = Settings(hidden_size=16, batch=4, seq_len=12, steps=40, learning_rate=2e-2, validate_every=15)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where the machine has other work."""
    with thread_count(1):
        yield


def run(names: tuple[str, ...], settings: Settings, sampling: Sampling | None = None) -> Outcome:
    corpus = Corpus.from_text(TEXT, "fox")
    return Workload(names, corpus, settings, sampling or Sampling("the ", 0.5, 10)).run()


def test_the_default_corpus_is_the_documentation_in_order() -> None:
    corpus = load(None)
    assert 300_000 < len(corpus.train) + len(corpus.validation) < 1_000_000
    assert len(corpus.validation) == pytest.approx(0.05 * len(corpus.train), rel=0.06)
    assert "assert" in corpus.decode(corpus.train[:20_000].tolist())


def test_a_corpus_decodes_what_it_encodes() -> None:
    corpus = Corpus.from_text(TEXT, "fox")
    assert corpus.decode(corpus.encode("lazy fox").tolist()) == "lazy fox"
    assert corpus.decode([*corpus.train.tolist(), *corpus.validation.tolist()]) == TEXT


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*gone\.txt: No such file"):
        load(tmp_path / "gone.txt")


def test_targets_are_the_inputs_one_character_later() -> None:
    streams = Streams(torch.arange(100), batch=3, seq_len=5)
    for batch in streams.one_pass():
        assert batch.inputs.shape == batch.targets.shape == (5, 3)
        assert torch.equal(batch.targets, batch.inputs + 1)


def test_a_stream_goes_on_where_the_batch_before_ended_until_it_starts_again() -> None:
    streams = Streams(torch.arange(100), batch=3, seq_len=5)
    first, second = streams.batch(0), streams.batch(1)
    assert first.inputs[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(second.inputs[0], first.targets[-1])
    assert (first.fresh, second.fresh, streams.batch(streams.batches_per_pass).fresh) == (True, False, True)


@pytest.mark.parametrize("cell", CELLS)
def test_both_implementations_start_alike_learn_and_agree(cell: str) -> None:
    outcome = run(("torch", "fused"), dataclasses.replace(TINY, cell=cell))
    assert outcome.verdict is not None
    assert outcome.verdict.agree, outcome.verdict.line
    for curve in outcome.curves.values():
        assert curve.losses[0] == pytest.approx(math.log2(len(outcome.corpus.alphabet)), rel=0.1)
        assert curve.losses[-1] < 0.75 * curve.losses[0]
        assert [step for step, _ in curve.validation] == [15, 30, 40]
        assert curve.validation[-1][1] < curve.validation[0][1]
    assert outcome.ratio is not None


def test_the_same_seed_gives_the_same_curve_and_text_and_another_seed_does_not() -> None:
    first, again, other = (run(("torch",), dataclasses.replace(TINY, steps=4, seed=seed)) for seed in (1, 1, 2))
    assert first.curves["torch"].losses == again.curves["torch"].losses
    assert first.texts == again.texts
    assert first.curves["torch"].losses != other.curves["torch"].losses
    assert first.verdict is None
    assert first.ratio is None


def test_a_trained_model_continues_the_prompt() -> None:
    settings = dataclasses.replace(TINY, hidden_size=48, steps=150)
    outcome = run(("fused",), settings, Sampling("the quick ", 0.0, 9))
    assert outcome.texts["fused"] == "brown fox"


def test_a_time_budget_ends_the_training_with_a_validation() -> None:
    outcome = run(("torch",), dataclasses.replace(TINY, steps=None, seconds=1e-6))
    assert len(outcome.curves["torch"].losses) == 1
    assert [step for step, _ in outcome.curves["torch"].validation] == [1]


def curve(losses: list[float], validation: float) -> Curve:
    return Curve(losses, [(len(losses), validation)], [1.0] * len(losses))


@pytest.mark.parametrize(
    ("second", "agree"),
    [
        (curve([5.0] * 20 + [2.0] * 20, 2.0), True),
        (curve([5.0] * 20 + [2.01] * 20, 2.03), True),
        (curve([5.0] * 4 + [5.01] * 16 + [2.0] * 20, 2.0), False),
        (curve([5.0] * 20 + [2.1] * 20, 2.0), False),
        (curve([5.0] * 20 + [2.0] * 20, 2.2), False),
        (curve([5.0] * 20 + [math.nan] * 20, 2.0), False),
    ],
)
def test_curves_agree_within_rounding_at_first_and_on_average_later(second: Curve, agree: bool) -> None:
    verdict = compare(curve([5.0] * 20 + [2.0] * 20, 2.0), second)
    assert verdict.agree is agree
    assert ("DISAGREE" in verdict.line) is not agree


def test_speed_is_that_of_the_median_step_without_the_first_ones() -> None:
    assert Curve(step_seconds=[9.0, 9.0, 9.0, 0.5, 0.5, 7.0]).tokens_per_second(100) == 200.0
