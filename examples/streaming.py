"""Streaming, one to one: an audio effect runs sample by sample as it would beside a microphone.

A small network learns a guitar amplifier in miniature: a saturated low-pass filter that feeds its output back. Then it
hears a second of sound one sample at a time through a `Stepper`, which keeps the state, and must say what the whole
sequence in one call says. With torch.nn, each sample is a call of the layer. At 16 kHz a sample may take 62.5 us.
The baseline is the best linear filter of 32 taps.

Source: Wright, Damskaegg and Valimaki, "Real-time black-box modelling with recurrent neural networks", 2019, with its
measure of error: the energy of the error over that of the signal.

    python examples/streaming.py --cell gru               # about 15 s on one core; with --quick 10 s
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm, trange

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
RATE = 16_000  # samples a second
ROWS, LENGTH, WARM_UP = 32, 512, 64  # sounds and samples a step of training, of which the first do not count
TAPS = 32


def sound(samples: int, rows: int) -> Tensor:
    """[T, B]: three decaying tones each, from 80 to 2000 Hz, and a little noise."""
    seconds = torch.arange(samples).view(-1, 1, 1) / RATE
    pitch, loudness = 80 * 25 ** torch.rand(rows, 3), torch.rand(rows, 3)
    tones = loudness * torch.exp(-3 * seconds) * torch.sin(6.2832 * (pitch * seconds + torch.rand(rows, 3)))
    return tones.sum(2) + 0.01 * torch.randn(samples, rows)


def amplifier(x: Tensor) -> Tensor:
    """The effect on x [T, B]: y' = 0.7 y + 0.3 tanh(4 x - 1.5 y)."""
    y, heard = torch.zeros(x.shape[1]), []
    for sample in x:
        y = 0.7 * y + 0.3 * torch.tanh(4 * sample - 1.5 * y)
        heard.append(y)
    return torch.stack(heard)


def error(heard: Tensor, truth: Tensor) -> Tensor:
    """The energy of the error over that of the signal, after the warm-up."""
    return (heard - truth)[WARM_UP:].square().sum() / truth[WARM_UP:].square().sum()


def linear_filter(x: Tensor, truth: Tensor) -> Callable[[Tensor], Tensor]:
    """The filter of TAPS taps with the least error on x [T, B]."""

    def taps(x: Tensor) -> Tensor:
        padded = torch.cat((x.new_zeros(TAPS - 1, x.shape[1]), x))
        return padded.unfold(0, TAPS, 1)  # [T, B, TAPS]

    weights = torch.linalg.lstsq(taps(x).flatten(0, 1), truth.flatten().unsqueeze(1)).solution
    return lambda x: (taps(x) @ weights).squeeze(2)


def train(layer: Any, head: nn.Linear, steps: int) -> None:
    """Adam on new sounds, with a learning rate that falls to zero as a cosine."""
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in (progress := trange(steps, desc="training", leave=False)):
        x = sound(LENGTH, ROWS)
        loss = error(head(layer(x.unsqueeze(2))[0]).squeeze(2), amplifier(x))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(error=f"{loss.item():.2%}", refresh=False)


def stepper(layer: Any) -> Callable[[Tensor], Tensor]:
    """A function from a sample [1, 1] to the output [1, H] after it, which keeps the state."""
    if layer.__module__.startswith("fused_rnn"):
        return fused_rnn.Stepper(layer).step
    state: Any = None

    def step(x: Tensor) -> Any:
        nonlocal state
        output, state = layer(x.unsqueeze(0), state)
        return output[0]

    return step


@torch.no_grad()
def stream(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [T, 1, H] for samples x [T, 1, 1], and the microseconds [T] that each took."""
    step, outputs, ticks = stepper(layer), [], []
    for sample in tqdm(x.unbind(0), desc="streaming", leave=False, mininterval=1):
        started = time.perf_counter_ns()
        output = step(sample)
        ticks.append(time.perf_counter_ns() - started)
        outputs.append(output.clone())
    return torch.stack(outputs), torch.tensor(ticks) / 1000


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """The errors of the streamed network and of the linear filter, on a sound that neither learnt from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="gru", help="(default: %(default)s)")
    parser.add_argument("--units", type=int, default=16, help="of the layer (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--quick", dest="steps", action="store_const", const=70, help="as --steps 70")
    parser.add_argument("--save", metavar="FILE", help="write the network for the C++ program of examples/realtime")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    layer = getattr(IMPLEMENTATIONS[options.impl], options.cell.upper())(1, options.units)
    head = nn.Linear(options.units, 1)
    train(layer, head, options.steps)
    if options.save is not None:
        fused_rnn.save_stream(fused_rnn.Chain(layer, head), options.save)
    x = sound(LENGTH, ROWS)
    linear = linear_filter(x, amplifier(x))

    x = sound(RATE, 1)
    truth = amplifier(x)
    with torch.no_grad():
        whole, _ = layer(x.unsqueeze(2))
        streamed, microseconds = stream(layer, x.unsqueeze(2))
        figure, baseline = error(head(streamed).squeeze(2), truth).item(), error(linear(x), truth).item()
    median, slow, slowest = microseconds.quantile(torch.tensor([0.5, 0.99, 0.999])).tolist()
    print(
        f"streaming, {options.cell}: error {figure:.2%} of the signal, linear filter {baseline:.2%}; {median:.1f} us a "
        f"sample, 99% within {slow:.1f} us, 99.9% within {slowest:.1f} us; "
        f"streamed and whole differ by {(streamed - whole).abs().max():.1e}"
    )
    return figure, baseline


if __name__ == "__main__":
    main()
