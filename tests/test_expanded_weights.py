"""torch.nn.utils' older way to per-sample gradients is refused with the name of the newer one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

import fused_rnn


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("frozen", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_expanded_weights_are_refused_with_what_works(name: str, frozen: bool, options: dict[str, Any]) -> None:
    module = getattr(fused_rnn, name)(3, 5, **({} if name.endswith("Cell") else {"batch_first": True, **options}))
    next(module.parameters()).requires_grad_(not frozen)
    x = torch.randn(2, 3) if name.endswith("Cell") else torch.randn(2, 4, 3)
    with pytest.raises(NotImplementedError, match=rf"^{name}: .*torch\.func\.vmap\(torch\.func\.grad\(\.\.\.\)\)"):
        call_for_per_sample_grads(module)(x)  # type: ignore[no-untyped-call]
    module(x)  # without them it works on
