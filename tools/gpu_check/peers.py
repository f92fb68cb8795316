"""Forward passes beside the kernels of a package that publishes its own: `python -m tools.gpu_check.peers PACKAGE`.

A line of JSON for each case. The packages compile their kernels when they are first called, which takes minutes. Orders
of gates and scales differ, so times are compared and not values: tests/test_recurrent_peers.py has those.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn

from .events import measure, microseconds
from .records import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

TIME_STEPS, BATCH, SIZE, GATES = 1024, 16, 768, 4
_SECONDS = 2.0


@dataclass(frozen=True)
class Case:
    """A layer of 768 units in bfloat16, so many of them in a head of their own."""

    cell: str
    heads: int

    @property
    def name(self) -> str:
        """Such as `lstm, 12 heads of 64`."""
        return f"{self.cell}, {self.heads} heads of {SIZE // self.heads}"


CASES = {
    "flashrnn": (Case("lstm", 1), Case("lstm", 12), Case("slstm", 12)),
    "xlstm": (Case("slstm", 12),),
}


def draw(*shape: int, device: str) -> torch.Tensor:
    """Small numbers."""
    return 0.1 * torch.randn(*shape, device=device, dtype=torch.bfloat16)


def ours(case: Case, device: str = "cuda", time_steps: int = TIME_STEPS) -> Callable[[], Any]:
    """The recurrence alone of an LSTM; an sLSTM's layer, which multiplies x, too (about 0.1 us a step)."""
    units = SIZE // case.heads
    if case.cell == "slstm":
        layer = fused_rnn.SLSTM(SIZE, SIZE, num_heads=case.heads, device=device, dtype=torch.bfloat16)
        x = draw(time_steps, BATCH, SIZE, device=device)
        return lambda: layer(x)
    gates = draw(time_steps, BATCH, case.heads, GATES, units, device=device)
    w_hh, b_hh = (draw(case.heads, GATES * units, *columns, device=device) for columns in ((units,), ()))
    absent = (None,) * 9
    return lambda: torch.ops.fused_rnn.forward("lstm", gates, w_hh, b_hh, *absent, False, False, case.heads)


def flashrnn(case: Case) -> Callable[[], Any]:
    """FlashRNN's fused kernel."""
    run = importlib.import_module("flashrnn.flashrnn").flashrnn
    units = SIZE // case.heads
    gates = draw(BATCH, TIME_STEPS, GATES, case.heads, units, device="cuda")
    weights = draw(GATES, case.heads, units, units, device="cuda")
    bias = draw(GATES, case.heads, units, device="cuda")
    return lambda: run(gates, weights, bias, function=case.cell, backend="cuda_fused")


def xlstm(case: Case) -> Callable[[], Any]:
    """The sLSTM of xLSTM."""
    module = importlib.import_module("xlstm.blocks.slstm.cell")
    sizes = {"hidden_size": SIZE, "num_heads": case.heads, "batch_size": BATCH}
    cell = module.sLSTMCell(module.sLSTMCellConfig(**sizes, backend="cuda", dtype="bfloat16")).cuda().eval()
    gates = draw(BATCH, TIME_STEPS, GATES * SIZE, device="cuda")
    return lambda: cell(gates)


PEERS = {"flashrnn": flashrnn, "xlstm": xlstm}


def main(package: str) -> int:
    """Every case of a package; what does not build or run is no failure of this project."""
    for case in CASES[package]:
        found: dict[str, Any] = {"case": f"{package}: {case.name}"}
        try:
            with torch.no_grad():
                tasks = {"ours": ours(case), "theirs": PEERS[package](case)}
                timings = measure(tasks, _SECONDS)
        except Exception as error:  # noqa: BLE001
            found |= {"status": "skipped", "reason": one_line(error)}
        else:
            found |= {f"{name}_us": microseconds(timing, TIME_STEPS) for name, timing in timings.items()}
            found["status"] = "ok"
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
