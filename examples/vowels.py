"""Classification of rows of many lengths, many to one: who of nine speakers said it?

Each recording is two Japanese vowels as 7 to 29 steps of 12 coefficients of the spectrum (LPC cepstrum). A
bidirectional layer reads the padded batch with its `lengths`, so that each direction ends at a recording's own end, and
the two final states name the speaker. torch.nn has no `lengths` and gets the same rows as a PackedSequence.

The baseline knows no order: the nearest of the speakers' mean coefficients.

Data: Kudo, Toyama and Shimbo, "Multidimensional curve classification using passing-through regions", 1999, with its
split of 270 recordings to learn from and 370 to be tested on, as it comes with sktime.

    python examples/vowels.py --cell lstm                 # about 15 s on one core; with --quick 10 s
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import torch
from sktime.datasets import load_japanese_vowels
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from tqdm import trange

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
SPEAKERS, COEFFICIENTS = 9, 12
ROWS = 30  # recordings a step
NOISE = 0.3  # added to the coefficients in training, in standard deviations


def load(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Recordings [T, B, 12], zero beyond their lengths [B], and speakers [B] from 0 on."""
    recordings, speakers = load_japanese_vowels(split, return_type="df-list")
    rows = [torch.tensor(recording.to_numpy(), dtype=torch.float32) for recording in recordings]
    lengths = torch.tensor([len(row) for row in rows])
    return pad_sequence(rows), lengths, torch.tensor([int(speaker) - 1 for speaker in speakers])


class Classifier(nn.Module):
    """A bidirectional layer, and a score for each speaker from its two final states."""

    def __init__(self, implementation: str, cell: str, units: int) -> None:
        super().__init__()
        self.fused = implementation == "fused"
        layer = getattr(IMPLEMENTATIONS[implementation], cell.upper())
        self.recurrent = layer(COEFFICIENTS, units, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(2 * units, SPEAKERS))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scores [B, 9] for recordings [T, B, 12]."""
        if self.fused:
            _, state = self.recurrent(x, lengths=lengths)
        else:
            _, state = self.recurrent(pack_padded_sequence(x, lengths, enforce_sorted=False))
        h_n = state[0] if isinstance(state, tuple) else state  # [2, B, units]
        scores: Tensor = self.head(torch.cat((h_n[0], h_n[1]), dim=1))
        return scores


def train(model: Classifier, x: Tensor, lengths: Tensor, speakers: Tensor, epochs: int) -> None:
    """Adam on batches in random order, with a learning rate that falls to zero as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in (progress := trange(epochs, desc="training", leave=False)):
        for rows in torch.split(torch.randperm(len(speakers)), ROWS):
            noisy = x[:, rows] + NOISE * torch.randn(x.shape[0], len(rows), COEFFICIENTS)
            loss = F.cross_entropy(model(noisy, lengths[rows]), speakers[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


def means(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean coefficients of each recording, [B, 12]; x is zero beyond the lengths."""
    return x.sum(0) / lengths.unsqueeze(1)


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """The shares of test recordings whose speaker is named rightly, by the network and by the nearest mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="lstm", help="(default: %(default)s)")
    parser.add_argument("--units", type=int, default=64, help="of each direction (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="of training (default: %(default)s)")
    parser.add_argument("--quick", dest="epochs", action="store_const", const=15, help="as --epochs 15")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    x, lengths, speakers = load("train")
    test_x, test_lengths, test_speakers = load("test")
    inside = torch.arange(len(x)).unsqueeze(1) < lengths  # [T, B]
    mean, deviation = x[inside].mean(0), x[inside].std(0)
    model = Classifier(options.impl, options.cell, options.units)
    train(model, (x - mean) / deviation, lengths, speakers, options.epochs)

    with torch.no_grad():
        named = model((test_x - mean) / deviation, test_lengths).argmax(1)
    figure = (named == test_speakers).float().mean().item()
    centres = torch.stack([means(x, lengths)[speakers == speaker].mean(0) for speaker in range(SPEAKERS)])
    nearest = torch.cdist(means(test_x, test_lengths) / deviation, centres / deviation).argmin(1)
    baseline = (nearest == test_speakers).float().mean().item()
    print(
        f"vowels, {options.cell}: {figure:.1%} of {len(test_speakers)} test recordings have their speaker named, "
        f"{baseline:.1%} by the nearest mean"
    )
    return figure, baseline


if __name__ == "__main__":
    main()
