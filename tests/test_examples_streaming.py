"""The streaming example learns its filter, and a sample at a time it says what the whole sequence says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from examples import streaming

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("options", [["--seed", "0"], ["--seed", "1"]])
def test_the_effect_is_learnt_better_than_by_the_best_linear_filter(options: list[str]) -> None:
    error, linear = streaming.main(["--quick", *options])
    assert error < 0.8 * linear


def test_the_network_is_saved_for_the_program_in_cpp(tmp_path: Path) -> None:
    streaming.main(["--steps", "1", "--save", str(tmp_path / "amplifier.frnn")])
    assert (tmp_path / "amplifier.frnn").read_bytes()[1:5] == b"FRNN"


@pytest.mark.parametrize("kind", [fused_rnn.LSTM, fused_rnn.GRU, fused_rnn.RNN, torch.nn.GRU])
def test_sample_by_sample_is_the_whole_sequence(kind: Any) -> None:
    layer = kind(1, 16)
    x = streaming.sound(200, 1).unsqueeze(2)
    streamed, microseconds = streaming.stream(layer, x)
    torch.testing.assert_close(streamed, layer(x)[0], rtol=1e-5, atol=1e-6)
    assert microseconds.shape == (200,)
    assert microseconds.min() > 0
