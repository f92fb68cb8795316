"""The text a character model learns: its alphabet, the training streams and the validation part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALIDATION_SHARE = 0.05


@dataclass(frozen=True)
class Corpus:
    """A text as character codes, its first 95% for training and the rest for validation."""

    name: str
    alphabet: str
    train: torch.Tensor  # [characters], int64
    validation: torch.Tensor  # [characters], int64

    @classmethod
    def from_text(cls, text: str, name: str) -> Corpus:
        """Codes are positions in the sorted alphabet of the whole text."""
        alphabet = "".join(sorted(set(text)))
        if len(alphabet) < 2:
            raise ValueError(f"the text of {name} must have at least 2 different characters, got {len(alphabet)}")
        code = {character: index for index, character in enumerate(alphabet)}
        codes = torch.tensor([code[character] for character in text], dtype=torch.int64)
        cut = len(codes) - max(2, int(len(codes) * VALIDATION_SHARE))
        return cls(name, alphabet, codes[:cut], codes[cut:])

    def encode(self, text: str) -> torch.Tensor:
        """Codes of `text`; ValueError names the characters that the corpus does not have."""
        if not text:
            raise ValueError("the prompt must have at least one character")
        strange = sorted(set(text) - set(self.alphabet))
        if strange:
            raise ValueError(f"the text of {self.name} does not have {', '.join(map(repr, strange))}")
        return torch.tensor([self.alphabet.index(character) for character in text], dtype=torch.int64)

    def decode(self, codes: list[int]) -> str:
        """The text of `codes`."""
        return "".join(self.alphabet[code] for code in codes)


def load(path: Path | None) -> Corpus:
    """The corpus of a UTF-8 file, or the documentation texts that come with CPython (`pydoc_data.topics`)."""
    if path is not None:
        try:
            return Corpus.from_text(path.read_text(encoding="utf-8"), path.name)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text") from None
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError:
        raise ValueError("this Python comes without pydoc_data.topics: name a text with --text FILE") from None
    return Corpus.from_text("\n".join(topics[key] for key in sorted(topics)), "pydoc_data.topics")


@dataclass(frozen=True)
class Batch:
    """Characters and the ones that follow them, [T, B]; `fresh` at the start of the streams: no state is carried in."""

    inputs: torch.Tensor
    targets: torch.Tensor
    fresh: bool


class Streams:
    """`batch` contiguous pieces of the text, read side by side and over and over, `seq_len` characters at a time."""

    def __init__(self, codes: torch.Tensor, batch: int, seq_len: int) -> None:
        length = len(codes) // batch
        if length < seq_len + 1:
            needed = batch * (seq_len + 1)
            raise ValueError(
                f"{len(codes)} characters are too few for batch {batch} and sequence length {seq_len}; {needed} needed"
            )
        self._columns = codes[: length * batch].view(batch, length).t().contiguous()  # [length, B]
        self._seq_len = seq_len
        self.batches_per_pass = (length - 1) // seq_len

    def batch(self, step: int) -> Batch:
        """The batch of training step `step`, which depends on nothing else."""
        start = step % self.batches_per_pass * self._seq_len
        window = self._columns[start : start + self._seq_len + 1]
        return Batch(window[:-1], window[1:], fresh=start == 0)

    def one_pass(self) -> Iterator[Batch]:
        """Every batch once."""
        return map(self.batch, range(self.batches_per_pass))
