"""How near the recurrence of a diagonal cell comes to the speed of a copy of as many bytes, which computes nothing.

Usage: python -m tools.copy_share [--threads 1 2] [--rounds 30], in the root of a checkout with the package built. It
prints a Markdown table: float32, T = 100, the gates given, the least time of each in turns. Bytes are those of all that
an operator reads and writes once; the copy moves half of them from one tensor to another.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn
from fused_rnn import _ops
from fused_rnn._tensors import Arguments, Incoming
from tools.performance_tables import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TIME_STEPS = 100
SIZES = ((8, 256), (16, 512), (32, 512), (32, 1024))  # B, H
LAYERS = (fused_rnn.MinGRU, fused_rnn.IndRNN, fused_rnn.MinLSTM)


def least_time(run: Callable[[], Any]) -> float:
    """Of three calls, of which the first finds other data in the caches."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def calls_of(kind: Any, batch: int, hidden_size: int) -> dict[str, tuple[Callable[[], Any], list[Tensor]]]:
    """The operators by name, and the tensors that each reads or writes."""
    layer = kind(1, hidden_size)
    layer(torch.zeros(1, 1, 1))  # which has its kernels compiled
    cell, spec = layer.cell, _ops.CELLS[layer.cell]
    shape = (TIME_STEPS, batch, 1)
    gates, w_hh = torch.randn(*shape, spec.gates, hidden_size), torch.empty(1, 0, hidden_size)
    units = torch.rand(1, spec.unit_weights, hidden_size) if spec.unit_weights else None
    arguments = Arguments(gates, w_hh, unit_weights=units)
    made = _ops.forward(cell, arguments, True)
    incoming = Incoming(torch.randn(*shape, hidden_size))
    d_gates = torch.empty_like(gates)

    def backward() -> Any:
        return _ops.backward(cell, incoming, arguments, made.output, made.cells, made.saved)

    d_output: Any = incoming.d_output
    return {
        "forward": (lambda: _ops.forward(cell, arguments, False), [gates, made.output]),
        "forward, training": (lambda: _ops.forward(cell, arguments, True), [gates, made.output, made.saved]),
        "backward": (backward, [made.output, made.saved, d_output, d_gates]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rows = []
    for kind in LAYERS:
        for batch, hidden_size in SIZES:
            for name, (call, tensors) in calls_of(kind, batch, hidden_size).items():
                size = sum(tensor.nbytes for tensor in tensors)
                source, target = (torch.ones(size // 8) for _ in range(2))
                shares = []
                for threads in options.threads:
                    torch.set_num_threads(threads)
                    pairs = [
                        (least_time(call), least_time(lambda: target.copy_(source)))  # noqa: B023 - called at once
                        for _ in range(options.rounds)
                    ]
                    ours, copy = (min(times) for times in zip(*pairs, strict=True))
                    shares.append(f"{copy / ours:.2f} ({1e-9 * size / ours:.0f} GB/s)")
                problem = f"{kind.__name__}, B = {batch}, H = {hidden_size}"
                rows.append([problem, name, f"{1e-6 * size:.1f} MB", *shares])
    heads = [f"share of a copy, {threads} thread{'s' * (threads > 1)}" for threads in options.threads]
    print(table(["problem", "operator", "bytes", *heads], rows))


if __name__ == "__main__":
    main()
