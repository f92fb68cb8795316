"""Text generation, one to many: a network that predicts the next character writes text, its state carried along.

A vanilla RNN has 50 units and reads one-hot characters, LSTM and GRU have 128 on an embedding of 256. All learn from
each of the 40 steps of a window. With `--last-only` they learn from the last one alone, as some tutorials do, and know
much less after as many windows. `--toy` learns "abcabcabc", which must go on as the cycle it is; otherwise the text is
the documentation that comes with Python.

    python examples/text.py --cell gru                    # about 60 s on one core; with --quick 10 s
    python examples/text.py --cell rnn --toy
"""

from __future__ import annotations

import argparse
import math
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
ROWS = 64  # windows a step


# Features of a character (None for one-hot vectors), and units.
RECIPES = {"rnn": (None, 50), "lstm": (256, 128), "gru": (256, 128)}


class CharModel(nn.Module):
    """Characters to scores of the next character."""

    def __init__(self, implementation: str, cell: str, alphabet: int) -> None:
        super().__init__()
        features, units = RECIPES[cell]
        if features is None:
            self.embedding = nn.Embedding(alphabet, alphabet, _weight=torch.eye(alphabet), _freeze=True)
        else:
            self.embedding = nn.Embedding(alphabet, features)
        layer = getattr(IMPLEMENTATIONS[implementation], cell.upper())
        self.recurrent = layer(self.embedding.embedding_dim, units)
        self.head = nn.Linear(units, alphabet)

    def forward(self, codes: Tensor, *, last_only: bool = False) -> Tensor:
        """Scores [T, B, alphabet] ([1, B, alphabet] with `last_only`) for codes [T, B]."""
        output, _ = self.recurrent(self.embedding(codes))
        scores: Tensor = self.head(output[-1:] if last_only else output)
        return scores


def windows(codes: Tensor, length: int, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Characters [length, B] from each start on, and the ones that follow them."""
    window = codes[starts + torch.arange(length + 1).unsqueeze(1)]
    return window[:-1], window[1:]


def train(model: CharModel, codes: Tensor, length: int, steps: int, *, last_only: bool) -> None:
    """Adam on random windows, with a learning rate that falls to zero as a cosine."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in (progress := trange(steps, desc="training", leave=False)):
        inputs, targets = windows(codes, length, torch.randint(len(codes) - length, (ROWS,)))
        scores = model(inputs, last_only=last_only)
        loss = F.cross_entropy(scores.flatten(0, 1), targets[-len(scores) :].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(bits=f"{loss.item() / math.log(2):.2f}", refresh=False)


@torch.no_grad()
def generate(model: CharModel, prompt: Tensor, length: int, temperature: float) -> list[int]:
    """Characters after the prompt [T], each drawn from the scores and fed back; temperature 0 takes the likeliest."""
    stepper, codes = fused_rnn.Stepper(model.recurrent), prompt.tolist()  # of torch.nn's layers, too
    for place in range(len(prompt) + length - 1):
        output = stepper.step(model.embedding(torch.tensor([codes[place]])))
        if place >= len(prompt) - 1:
            scores = model.head(output)[0]
            chosen = torch.multinomial(F.softmax(scores / temperature, 0), 1) if temperature else scores.argmax()
            codes.append(int(chosen))
    return codes[len(prompt) :]


@torch.no_grad()
def bits_of_model(model: CharModel, codes: Tensor, length: int) -> float:
    """Bits that a character of `codes` costs when the `length` characters before it are known."""
    inputs, targets = windows(codes, length, torch.arange(0, len(codes) - length, 7))
    scores = model(inputs, last_only=True)
    return F.cross_entropy(scores[0], targets[-1]).item() / math.log(2)


def bits_of_pairs(train_codes: Tensor, codes: Tensor, alphabet: int) -> float:
    """Bits that a character costs when the one before it is known, by counts of pairs, each begun at one."""
    counts = torch.ones(alphabet, alphabet)
    counts.index_put_((train_codes[:-1], train_codes[1:]), torch.tensor(1.0), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True)
    return -shares[codes[:-1], codes[1:]].log2().mean().item()


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Bits a held-out character costs, and by pairs; of the toy: the share of right characters, and by chance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--cell", choices=RECIPES, default="lstm", help="(default: %(default)s)")
    parser.add_argument("--toy", action="store_true", help='learn "abcabcabc" in windows of 3')
    parser.add_argument("--last-only", action="store_true", help="learn from the last character of a window alone")
    parser.add_argument("--steps", type=int, help="of training (default: 1500, or 100 for the toy)")
    parser.add_argument("--quick", dest="steps", action="store_const", const=50, help="as --steps 50")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.6, help="below 1 is safer, above 1 is wilder (default: %(default)s)"
    )
    parser.add_argument("--length", type=int, default=300, help="characters to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    text = "abcabcabc" if options.toy else "\n".join(topics[name] for name in sorted(topics))
    alphabet = "".join(sorted(set(text)))
    codes = torch.tensor([alphabet.index(character) for character in text])
    length, steps, prompt, temperature = (3, 100, "ab", 0.0) if options.toy else (40, 1500, "The ", options.temperature)
    learnt, held_out = codes.tensor_split([len(codes) if options.toy else len(codes) * 19 // 20])
    model = CharModel(options.impl, options.cell, len(alphabet))
    train(model, learnt, length, options.steps or steps, last_only=options.last_only)

    start = torch.tensor([alphabet.index(character) for character in prompt])
    written = "".join(alphabet[code] for code in generate(model, start, options.length, temperature))
    print(prompt + written)
    if options.toy:
        figure = sum(map(str.__eq__, written, "cab" * options.length)) / options.length
        print(f"text toy, {options.cell}: {figure:.1%} of {options.length} characters continue the cycle, chance 33.3%")
        return figure, 1 / 3
    figure, baseline = bits_of_model(model, held_out, length), bits_of_pairs(learnt, held_out, len(alphabet))
    print(f"text, {options.cell}: {figure:.2f} bits per held-out character, pairs of characters {baseline:.2f}")
    return figure, baseline


if __name__ == "__main__":
    main()
