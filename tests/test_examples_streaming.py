"""The streaming example learns its filter, and a sample at a time it says what the whole sequence says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fused_rnn
from examples import streaming


@pytest.mark.parametrize("options", [["--seed", "0"], ["--seed", "1"]])
def test_the_effect_is_learnt_better_than_by_the_best_linear_filter(options: list[str]) -> None:
    error, linear = streaming.main(["--quick", *options])
    assert error < 0.8 * linear


@pytest.mark.parametrize("kind", [fused_rnn.LSTM, fused_rnn.GRU, fused_rnn.RNN, torch.nn.GRU])
def test_sample_by_sample_is_the_whole_sequence(kind: Any) -> None:
    layer = kind(1, 16)
    x = streaming.sound(200, 1).unsqueeze(2)
    streamed, microseconds = streaming.stream(layer, x)
    torch.testing.assert_close(streamed, layer(x)[0], rtol=1e-5, atol=1e-6)
    assert microseconds.shape == (200,)
    assert microseconds.min() > 0
