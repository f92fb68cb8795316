"""A character language model: truncated backpropagation through time with carried state, then generated text.

The same model is trained once per implementation: same seed, same batches, same learning rates. The implementations
take turns step by step, so what else the machine does meets both alike, and their curves compare point by point.
Losses are in bits per character.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

import fused_rnn

from .corpus import Batch, Corpus, Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

IMPLEMENTATIONS: Mapping[str, ModuleType] = {"torch": torch.nn, "fused": fused_rnn}
CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
NATS_PER_BIT = math.log(2.0)

_EMBEDDING_SIZE = 64
_CLIP_NORM = 1.0
_WARM_UP_STEPS = 20  # learning rate rises linearly
_FINAL_RATE_SHARE = 0.05  # of the peak rate, reached by a cosine
_VALIDATION_CHARACTERS = 1 << 16  # at most, so that a long --text does not spend the time on validation
_FIRST_STEPS = 10
_EARLY_TOLERANCE = 1e-5  # relative, of the first losses: float32 rounding of the weights moves them by 1e-7
_LATE_TOLERANCE = 0.03  # relative, of mean losses: about what another seed changes
_UNTIMED_STEPS = 3  # left out of the speed: the first steps allocate

State = torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None


@dataclass(frozen=True)
class Settings:
    """What is trained and for how long: `steps` where given, else `seconds` for all implementations together."""

    cell: str = "lstm"
    hidden_size: int = 256
    batch: int = 32
    seq_len: int = 64
    steps: int | None = None
    seconds: float = 100.0
    seed: int = 0
    learning_rate: float = 1e-2
    validate_every: int = 50


@dataclass(frozen=True)
class Sampling:
    """The text asked of each trained model; temperature 0 takes the likeliest character."""

    prompt: str = "The "
    temperature: float = 0.7
    length: int = 500


class CharModel(torch.nn.Module):
    """Embedding, one recurrent layer of `namespace`, and a linear layer to the alphabet."""

    def __init__(self, namespace: ModuleType, cell: str, alphabet_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(alphabet_size, _EMBEDDING_SIZE)
        self.recurrent = getattr(namespace, CELLS[cell])(_EMBEDDING_SIZE, hidden_size)
        self.head = torch.nn.Linear(hidden_size, alphabet_size)

    def forward(self, codes: torch.Tensor, state: State = None) -> tuple[torch.Tensor, State]:
        """Logits [T, B, alphabet] and the state after the last step, for codes [T, B]."""
        output, state = self.recurrent(self.embedding(codes), state)
        return self.head(output), state


class DivergedError(RuntimeError):
    """A loss that is not finite: nothing after it means anything."""


def _detached(state: State) -> State:
    if isinstance(state, tuple):
        return state[0].detach(), state[1].detach()
    return None if state is None else state.detach()


@dataclass
class Curve:
    """What one implementation's training recorded; losses in bits per character."""

    losses: list[float] = field(default_factory=list)  # one per step
    validation: list[tuple[int, float]] = field(default_factory=list)  # (steps done, loss)
    step_seconds: list[float] = field(default_factory=list)

    def tokens_per_second(self, tokens: int) -> float:
        """Characters a second at the median step, when a step takes `tokens` characters."""
        return tokens / median(self.step_seconds[_UNTIMED_STEPS:] or self.step_seconds)


class Trainer:
    """One implementation's model, optimizer and carried state."""

    def __init__(self, namespace: ModuleType, corpus: Corpus, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        self.model = CharModel(namespace, settings.cell, len(corpus.alphabet), settings.hidden_size)
        self.curve = Curve()
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self._state: State = None
        codes = corpus.validation[:_VALIDATION_CHARACTERS]
        rows = max(1, min(settings.batch, (len(codes) - 1) // settings.seq_len))
        self._validation = Streams(codes, rows, min(settings.seq_len, len(codes) // rows - 1))

    def step(self, batch: Batch, learning_rate: float, clock: Callable[[], float]) -> None:
        """One update, recorded with its loss and time."""
        started = clock()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        logits, state = self.model(batch.inputs, None if batch.fresh else self._state)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        self._optimizer.step()
        self._state = _detached(state)
        bits = loss.item() / NATS_PER_BIT
        if not math.isfinite(bits):
            raise self._diverged(f"the loss is {bits}")
        self.curve.losses.append(bits)
        self.curve.step_seconds.append(clock() - started)

    def _diverged(self, what: str) -> DivergedError:
        where = f"after {len(self.curve.losses)} steps of {type(self.model.recurrent).__module__}"
        return DivergedError(f"the training diverged: {what} {where}; try a smaller --learning-rate")

    @torch.no_grad()
    def validate(self) -> float:
        """Loss on the validation part, read with carried state; also recorded."""
        self.model.eval()
        state: State = None
        total, count = 0.0, 0
        for batch in self._validation.one_pass():
            logits, state = self.model(batch.inputs, state)
            total += F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum").item()
            count += batch.targets.numel()
        self.model.train()
        loss = total / count / NATS_PER_BIT
        if not math.isfinite(loss):
            raise self._diverged(f"the validation loss is {loss}")
        self.curve.validation.append((len(self.curve.losses), loss))
        return loss

    @torch.no_grad()
    def generate(self, corpus: Corpus, sampling: Sampling, seed: int) -> str:
        """Text that continues the prompt, drawn character by character with the carried state."""
        self.model.eval()
        generator = torch.Generator().manual_seed(seed)
        logits, state = self.model(corpus.encode(sampling.prompt).unsqueeze(1))
        codes: list[int] = []
        for _ in range(sampling.length):
            scores = logits[-1, 0]
            if not bool(torch.isfinite(scores).all()):
                raise self._diverged("the model's scores are not finite")
            if sampling.temperature == 0.0:
                code = scores.argmax()
            else:
                code = torch.multinomial(F.softmax(scores / sampling.temperature, dim=0), 1, generator=generator)[0]
            codes.append(int(code))
            logits, state = self.model(code.view(1, 1), state)
        self.model.train()
        return corpus.decode(codes)


def _learning_rate(settings: Settings, step: int, progress: float) -> float:
    """Linear warm-up by step, times a cosine over `progress` (0 to 1)."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    decay = _FINAL_RATE_SHARE + (1.0 - _FINAL_RATE_SHARE) * cosine
    return settings.learning_rate * min(1.0, (step + 1) / _WARM_UP_STEPS) * decay


def train(
    trainers: Mapping[str, Trainer],
    streams: Streams,
    settings: Settings,
    on_step: Callable[[float, int], None] = lambda _progress, _step: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Train all implementations in turns; `on_step` gets the share done and the number of steps after each round."""
    started = clock()
    order = list(trainers.values())
    step, progress = 0, 0.0
    while progress < 1.0:
        batch = streams.batch(step)
        rate = _learning_rate(settings, step, progress)
        for trainer in order:
            trainer.step(batch, rate, clock)
        order.reverse()
        step += 1
        progress = step / settings.steps if settings.steps else (clock() - started) / settings.seconds
        if step % settings.validate_every == 0 or progress >= 1.0:
            for trainer in order:
                trainer.validate()
        on_step(progress, step)


@dataclass(frozen=True)
class Verdict:
    """Whether two loss curves agree, and the line that says so."""

    agree: bool
    line: str


def compare(first: Curve, second: Curve) -> Verdict:
    """The first losses must agree within rounding; later, as rounding grows in training, only on average."""
    early = max(_difference(a, b) for a, b in zip(first.losses[:_FIRST_STEPS], second.losses, strict=False))
    last = max(1, len(first.losses) // 4)
    late = _difference(fmean(first.losses[-last:]), fmean(second.losses[-last:]))
    validation = _difference(first.validation[-1][1], second.validation[-1][1])
    agree = early <= _EARLY_TOLERANCE and late <= _LATE_TOLERANCE and validation <= _LATE_TOLERANCE
    steps = min(_FIRST_STEPS, len(first.losses))
    return Verdict(
        agree,
        f"loss curves {'agree' if agree else 'DISAGREE'}: first {steps} losses within {early:.1e} "
        f"(allowed {_EARLY_TOLERANCE:.0e}), last quarter's mean within {late:.2%}, final validation loss within "
        f"{validation:.2%} (allowed {_LATE_TOLERANCE:.0%})",
    )


def _difference(a: float, b: float) -> float:
    return abs(a - b) / abs(a) if math.isfinite(a) and math.isfinite(b) else math.inf


@dataclass
class Outcome:
    """What a run of the workload found, per implementation."""

    settings: Settings
    sampling: Sampling
    corpus: Corpus
    threads: int
    curves: dict[str, Curve]
    texts: dict[str, str]
    verdict: Verdict | None  # with both implementations

    @property
    def title(self) -> str:
        """Cell and sizes in words."""
        settings = self.settings
        return (
            f"{settings.cell} with {settings.hidden_size} units, batch {settings.batch}, {settings.seq_len} characters "
            f"a step, on {self.corpus.name}, threads: {self.threads}"
        )

    def tokens_per_second(self, name: str) -> float:
        """Characters a second in training."""
        return self.curves[name].tokens_per_second(self.settings.batch * self.settings.seq_len)

    @property
    def ratio(self) -> float | None:
        """How many times as many characters a second fused_rnn trains on."""
        if not {"torch", "fused"} <= self.curves.keys():
            return None
        return self.tokens_per_second("fused") / self.tokens_per_second("torch")

    def to_json(self) -> dict[str, Any]:
        """Plain values; losses in bits per character."""
        return {
            "settings": asdict(self.settings),
            "sampling": asdict(self.sampling),
            "corpus": self.corpus.name,
            "characters": len(self.corpus.train) + len(self.corpus.validation),
            "alphabet_size": len(self.corpus.alphabet),
            "threads": self.threads,
            "loss_unit": "bits per character",
            "implementations": {
                name: {
                    "steps": len(curve.losses),
                    "characters_per_second": self.tokens_per_second(name),
                    "training_seconds": sum(curve.step_seconds),
                    "losses": curve.losses,
                    "validation": curve.validation,
                    "text": self.texts[name],
                }
                for name, curve in self.curves.items()
            },
            "ratio": self.ratio,
            "verdict": asdict(self.verdict) if self.verdict else None,
        }


class Workload:
    """The named implementations, ready to train; ValueError where text, sizes and prompt do not fit together."""

    def __init__(self, names: Sequence[str], corpus: Corpus, settings: Settings, sampling: Sampling) -> None:
        corpus.encode(sampling.prompt)  # a prompt that cannot be read must fail before the training, not after it
        self._corpus, self._settings, self._sampling = corpus, settings, sampling
        self._streams = Streams(corpus.train, settings.batch, settings.seq_len)
        self._trainers = {name: Trainer(IMPLEMENTATIONS[name], corpus, settings) for name in names}

    def run(self, on_step: Callable[[float, int], None] = lambda _progress, _step: None) -> Outcome:
        """Train, compare the curves where there are two, and let each model write."""
        settings, sampling = self._settings, self._sampling
        for name in self._trainers:  # what a process pays once must not be charged to the one that goes first
            warm_up = Trainer(IMPLEMENTATIONS[name], self._corpus, settings)
            warm_up.step(self._streams.batch(0), 0.0, time.perf_counter)
        train(self._trainers, self._streams, settings, on_step)
        curves = {name: trainer.curve for name, trainer in self._trainers.items()}
        texts = {
            name: trainer.generate(self._corpus, sampling, settings.seed) for name, trainer in self._trainers.items()
        }
        verdict = compare(*curves.values()) if len(curves) == 2 else None
        return Outcome(settings, sampling, self._corpus, torch.get_num_threads(), curves, texts, verdict)
