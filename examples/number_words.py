"""Sequence to sequence, many to many: numbers in digits are read and written as English words.

An encoder reads the digits, with their `lengths`; its final state is the decoder's first. The decoder writes a word at
a time, each fed back, until it writes the end. Numbers in the test are never learnt from.
The baseline answers with the words of the nearest number that was learnt.

Source: Sutskever, Vinyals and Le, "Sequence to sequence learning with neural networks", 2014; the words are num2words'.

    python examples/number_words.py --cell gru            # about 30 s on one core; with --quick 10 s
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

import torch
from num2words import num2words
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from tqdm import trange

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
ROWS = 128  # numbers a step
PAD, BEGIN, END = 0, 1, 2


def words_of(number: int) -> list[str]:
    """ "one hundred and five" as its words, with commas and hyphens for themselves."""
    return re.findall(r"\w+|[,-]", num2words(number))


# The words that occur, from those of a few numbers which have them all.
VOCABULARY = ["<pad>", "<begin>", "<end>", *sorted({word for n in (*range(100), 1001, 1100) for word in words_of(n)})]
CODES = {word: code for code, word in enumerate(VOCABULARY)}


def encode(numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Digits [T, B] and their lengths [B], and words [S, B], which end with END and go on with PAD."""
    digits = [torch.tensor([int(digit) for digit in str(number)]) for number in numbers]
    words = [torch.tensor([*(CODES[word] for word in words_of(number)), END]) for number in numbers]
    return pad_sequence(digits), torch.tensor([len(row) for row in digits]), pad_sequence(words)


class Translator(nn.Module):
    """Encoder and decoder of the same size, so that the one's state is the other's."""

    def __init__(self, implementation: str, cell: str, units: int) -> None:
        super().__init__()
        self.fused = implementation == "fused"
        layer = getattr(IMPLEMENTATIONS[implementation], cell.upper())
        self.digits = nn.Embedding(10, 32)
        self.encoder = layer(32, units)
        self.words = nn.Embedding(len(VOCABULARY), 32)
        self.decoder = layer(32, units)
        self.head = nn.Linear(units, len(VOCABULARY))

    def encode(self, digits: Tensor, lengths: Tensor) -> Any:
        """The state after each row's last digit; torch.nn needs a PackedSequence for that."""
        x = self.digits(digits)
        if self.fused:
            return self.encoder(x, lengths=lengths)[1]
        return self.encoder(pack_padded_sequence(x, lengths, enforce_sorted=False))[1]

    def decode(self, words: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Scores [S, B, vocabulary] of the word after each of `words` [S, B], and the state after them."""
        output, state = self.decoder(self.words(words), state)
        return self.head(output), state

    @torch.no_grad()
    def translate(self, digits: Tensor, lengths: Tensor, steps: int) -> Tensor:
        """Words [steps, B], the likeliest at each step; PAD after END."""
        state = self.encode(digits, lengths)
        word = torch.full((1, digits.shape[1]), BEGIN)
        ended, written = torch.zeros_like(word, dtype=torch.bool), []
        for _ in range(steps):
            scores, state = self.decode(word, state)
            word = scores.argmax(2).masked_fill(ended, PAD)
            written.append(word)
            ended = ended | (word == END)
        return torch.cat(written)


def train(model: Translator, data: tuple[Tensor, Tensor, Tensor], steps: int) -> None:
    """Adam with the right words as the decoder's input (teacher forcing), and a cosine learning rate."""
    digits, lengths, words = data
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    before = torch.cat((torch.full((1, words.shape[1]), BEGIN), words[:-1]))
    for _ in (progress := trange(steps, desc="training", leave=False)):
        rows = torch.randint(len(lengths), (ROWS,))
        scores, _ = model.decode(before[:, rows], model.encode(digits[:, rows], lengths[rows]))
        loss = F.cross_entropy(scores.flatten(0, 1), words[:, rows].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """The shares of held-out numbers whose words are all right, by the network and by the nearest number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="gru", help="(default: %(default)s)")
    parser.add_argument("--units", type=int, default=128, help="of encoder and decoder (default: %(default)s)")
    parser.add_argument("--numbers", type=int, default=10_000, help="learnt; a tenth more is held out (default: 10000)")
    parser.add_argument("--limit", type=int, default=100_000, help="what the numbers are below (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="as --limit 1000 --numbers 700 --steps 150")
    options = parser.parse_args(arguments)
    if options.quick:
        options.limit, options.numbers, options.steps = 1000, 700, 150
    torch.manual_seed(options.seed)

    # Uniform in their logarithm, or nearly all would have the most digits.
    shares = torch.rand(4 * options.numbers, dtype=torch.float64).tolist()
    numbers = sorted({int(options.limit**share) for share in shares})
    drawn = [numbers[place] for place in torch.randperm(len(numbers)).tolist()]
    held_out, learnt = drawn[: options.numbers // 10], drawn[options.numbers // 10 :][: options.numbers]
    model = Translator(options.impl, options.cell, options.units)
    train(model, encode(learnt), options.steps)

    digits, lengths, words = encode(held_out)
    written = model.translate(digits, lengths, len(words))
    figure = (written == words).all(0).float().mean().item()
    number = held_out[0]
    print(number, *(VOCABULARY[code] for code in written[:, 0].tolist() if code not in {PAD, END}))
    nearest = (torch.tensor(held_out).unsqueeze(1) - torch.tensor(learnt)).abs().argmin(1)
    same = [words_of(learnt[near]) == words_of(number) for near, number in zip(nearest, held_out, strict=True)]
    baseline = sum(same) / len(same)
    print(
        f"number_words, {options.cell}: {figure:.1%} of {len(held_out)} held-out numbers are written right, "
        f"{baseline:.1%} by the nearest learnt"
    )
    return figure, baseline


if __name__ == "__main__":
    main()
