"""A cell of one's own on real data: it names a speaker as LSTM and GRU do, with a twentieth of their parameters.

Each unit of `Leaky` is the moving average of one feature of the input, and learns over how many steps: no gate reads
the state, so there is no W_hh. It is written below in the way of docs/guides/own-cells.md, and `fused_rnn.Recurrent`
compiles it when it is first called, which takes some 10 s once. Beside it are LSTM and GRU with as many units, and with
as few parameters. The recordings are those of vowels.py, and so is the network: a bidirectional layer, whose two final
states name the speaker. Every cell gets the same seeds; one recording more or less is 0.3 %.

Data: Kudo, Toyama and Shimbo, "Multidimensional curve classification using passing-through regions", 1999, with its
split of 270 recordings to learn from and 370 to be tested on, as it comes with sktime.

    python examples/own_cell.py                           # about 40 s on one core; with --quick 20 s
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from sktime.datasets import load_japanese_vowels
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange

import fused_rnn
from fused_rnn.cells import relu, sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SPEAKERS, COEFFICIENTS = 9, 12
ROWS = 30  # recordings a step
NOISE = 0.3  # added to the coefficients in training, in standard deviations


class Leaky(fused_rnn.Cell):
    """h' = k h + (1 - k) relu(W x + b), where each unit has a k of its own, at first between 0.1 and 0.98."""

    input_gates = ("feature",)
    unit_weights = ("memory",)

    def step(self, gate: Any, state: Any, unit: Any) -> dict[str, Any]:  # type: ignore[override]
        """One step of a unit."""
        kept = sigmoid(unit.memory)
        return {"h": kept * state.h + (1 - kept) * relu(gate.feature)}

    def reset_parameters(self, parameters: dict[str, Tensor]) -> None:
        """Time constants of many lengths."""
        parameters["memory"].uniform_(-2, 4)


# By name: a layer, and its units.
LAYERS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "leaky": (partial(fused_rnn.Recurrent, Leaky), 64),
    "lstm": (fused_rnn.LSTM, 64),
    "gru": (fused_rnn.GRU, 64),
    "small-lstm": (fused_rnn.LSTM, 12),
    "small-gru": (fused_rnn.GRU, 12),
}


class Recordings(NamedTuple):
    """Rows of many lengths, zero beyond their ends."""

    x: Tensor  # [T, B, 12]
    lengths: Tensor  # [B]
    speakers: Tensor  # [B], from 0 on


def load() -> tuple[Recordings, Recordings]:
    """Those to learn from and those to be tested on, scaled by mean and deviation of the first."""
    found = []
    for split in ("train", "test"):
        recordings, speakers = load_japanese_vowels(split, return_type="df-list")
        rows = [torch.tensor(recording.to_numpy(), dtype=torch.float32) for recording in recordings]
        found.append((rows, torch.tensor([int(speaker) - 1 for speaker in speakers])))
    steps = torch.cat(found[0][0])
    mean, deviation = steps.mean(0), steps.std(0)
    learnt, tested = (
        Recordings(pad_sequence([(row - mean) / deviation for row in rows]), torch.tensor([*map(len, rows)]), speakers)
        for rows, speakers in found
    )
    return learnt, tested


class Classifier(nn.Module):
    """A bidirectional layer, and a score for each speaker from its two final states."""

    def __init__(self, name: str) -> None:
        super().__init__()
        kind, units = LAYERS[name]
        self.recurrent = kind(COEFFICIENTS, units, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(2 * units, SPEAKERS))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scores [B, 9] for recordings [T, B, 12]."""
        _, state = self.recurrent(x, lengths=lengths)
        h_n = state[0] if isinstance(state, tuple) else state  # [2, B, units]
        scores: Tensor = self.head(torch.cat((h_n[0], h_n[1]), dim=1))
        return scores


def train(model: Classifier, given: Recordings, epochs: int, label: str) -> None:
    """Adam on batches in random order, with a learning rate that falls to zero as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in trange(epochs, desc=label, leave=False):
        for rows in torch.split(torch.randperm(len(given.speakers)), ROWS):
            x = given.x[:, rows]
            scores = model(x + NOISE * torch.randn_like(x), given.lengths[rows])
            optimizer.zero_grad()
            F.cross_entropy(scores, given.speakers[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[int, list[float]]]:
    """For each layer its parameters, and the shares of test recordings whose speaker it names, by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=[*LAYERS], help="(default: all of them)")
    parser.add_argument("--seeds", type=int, default=5, help="how many are tried, from 0 on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="of training (default: %(default)s)")
    parser.add_argument("--quick", dest="seeds", action="store_const", const=2, help="as --seeds 2")
    options = parser.parse_args(arguments)
    learnt, tested = load()
    found = {}
    print(f"own_cell: {len(tested.speakers)} test recordings, mean and deviation over {options.seeds} seeds")
    for name in options.layers:
        shares = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = Classifier(name)
            train(model, learnt, options.epochs, name)
            with torch.no_grad():
                named = model.eval()(tested.x, tested.lengths).argmax(1)
            shares.append((named == tested.speakers).float().mean().item())
        size = sum(parameter.numel() for parameter in model.recurrent.parameters())
        found[name] = (size, shares)
        mean, spread = torch.tensor(shares).mean(), torch.tensor(shares).std(correction=0)
        print(f"  {name:10} {size:6} parameters   {mean:6.1%} +- {spread:.1%} have their speaker named")
    return found


if __name__ == "__main__":
    main()
