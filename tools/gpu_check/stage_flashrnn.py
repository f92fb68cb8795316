"""Stage flashrnn: the recurrence of one head of 768 units and 16 rows against FlashRNN's fused kernel."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

import fused_rnn

from .events import measure, microseconds
from .records import STARTED, one_line

if TYPE_CHECKING:
    from .worker import Work

_TIME_STEPS, _BATCH, _HIDDEN, _GATES = 1024, 16, 768, 4


def run(work: Work) -> int:
    """Forward pass, given the gates; the gate orders differ, so times are compared and not values."""
    name = f"lstm:t{_TIME_STEPS},b{_BATCH},h{_HIDDEN},bf16,infer"
    if find_spec("flashrnn") is None:
        work.record(case=name, status="skipped", reason="FlashRNN is not installed")
        return 0
    work.record(case=name, status=STARTED)
    try:
        flashrnn = importlib.import_module("flashrnn").flashrnn

        def draw(*shape: int) -> torch.Tensor:
            return 0.1 * torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

        their_x = draw(_BATCH, _TIME_STEPS, _GATES, 1, _HIDDEN)
        their_r, their_b = draw(_GATES, 1, _HIDDEN, _HIDDEN), draw(_GATES, 1, _HIDDEN)
        our_x = draw(_TIME_STEPS, _BATCH, 1, _GATES, _HIDDEN)
        our_w, our_b = draw(1, _GATES * _HIDDEN, _HIDDEN), draw(1, _GATES * _HIDDEN)

        def theirs() -> object:
            return flashrnn(their_x, their_r, their_b, function="lstm", backend="cuda_fused")

        def ours() -> object:
            return torch.ops.fused_rnn.forward("lstm", our_x, our_w, our_b, *(None,) * 9, False, False)

        with torch.no_grad():
            timings = measure({"ours": ours, "theirs": theirs}, 2.0)
    except Exception as error:  # noqa: BLE001 - a peer that does not build is no failure of this project
        work.record(case=name, status="skipped", reason=f"FlashRNN does not run: {one_line(error)}")
        return 0
    found = {f"{peer}_us": microseconds(timing, _TIME_STEPS) for peer, timing in timings.items()}
    work.record(case=name, status="ok", version=fused_rnn.__version__, **found)
    return 0
