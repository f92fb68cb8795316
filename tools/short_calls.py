"""Training calls of small layers and cells as shares of torch.nn's time, on one thread.

Usage: python -m tools.short_calls [--rounds N] [NAME ...], with the package on the path. A call is a forward and a
backward pass whose gradients are added to those that are there; I = H. The two implementations take turns of three
calls, and the least of all turns counts, so that work beside it matters little.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import torch

import fused_rnn
from bench.timing import gc_paused, sample

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
HIDDEN_SIZES, TIME_STEPS, BATCHES = (8, 16, 32, 64), (1, 3, 10), (1, 4)
CALLS = 3  # of a turn, which a busy machine seldom interrupts


def outputs(name: str, found: Any) -> tuple[torch.Tensor, ...]:
    """What of the results of a call gets a gradient: both states of an LSTM's cell, and the output of a layer."""
    if name == "LSTMCell":
        h, c = found
        return h, c
    return (found if name.endswith("Cell") else found[0],)


def training(name: str, module: torch.nn.Module, x: torch.Tensor, hx: Any) -> Callable[[], None]:
    """A call of a layer or cell, whose outputs have the gradient 1 everywhere."""
    ones = [torch.ones_like(each) for each in outputs(name, module(x, hx))]
    return lambda: torch.autograd.backward(outputs(name, module(x, hx)), ones)


def compared(name: str, hidden_size: int, time_steps: int, batch: int, rounds: int) -> tuple[float, float]:
    """Seconds of torch.nn and of this package."""
    is_cell = name.endswith("Cell")
    x = torch.randn(batch, hidden_size) if is_cell else torch.randn(time_steps, batch, hidden_size)
    state = torch.randn(batch, hidden_size) if is_cell else None
    hx = (state, state) if name == "LSTMCell" else state
    calls = [
        training(name, getattr(library, name)(hidden_size, hidden_size), x, hx) for library in (torch.nn, fused_rnn)
    ]
    least = [float("inf")] * 2
    with gc_paused():
        for turn in range(rounds + 5):
            for which, call in enumerate(calls):
                spent = sample(call, CALLS)
                least[which] = min(least[which], spent) if turn >= 5 else least[which]
    return least[0], least[1]


def main() -> None:
    """Print a line for each class and hidden size: for T and B our time over torch.nn's, and both in microseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES, choices=[*NAMES, NAMES])
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        for hidden_size in HIDDEN_SIZES:
            line = [f"{name} H = {hidden_size}:"]
            for time_steps in (1,) if name.endswith("Cell") else TIME_STEPS:
                for batch in BATCHES:
                    theirs, ours = compared(name, hidden_size, time_steps, batch, options.rounds)
                    times = f"({ours * 1e6:.0f}, {theirs * 1e6:.0f})"
                    line.append(f"T {time_steps}, B {batch}: {ours / theirs:.2f} {times};")
            print(" ".join(line), flush=True)


if __name__ == "__main__":
    main()
