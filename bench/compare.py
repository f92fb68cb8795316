"""Two runs side by side: how many times faster fused_rnn is in the newer one, problem by problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .noise import MARK
from .peers import BASELINE, SUBJECT
from .problems import Problem
from .regimes import regimes
from .table import Table, milliseconds, ratio_cell
from .timing import geometric_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .saved import Json

# What a measurement depends on besides the code.
_FACTS = ("processor", "cores", "threads", "system", "python", "torch", "build: active_instruction_set")


class Pair(NamedTuple):
    """A problem that both runs timed; times are minimums in seconds."""

    problem: str
    old_s: float
    new_s: float
    ratio: float
    torch_ratio: float | None  # the same of torch.nn, which says what the machine did
    noise: str | None


class Mean(NamedTuple):
    """Geometric means of a regime."""

    regime: str
    problems: int
    ratio: float
    torch_ratio: float | None


@dataclass
class Comparison:
    """What two runs have in common, and what one of them lacks."""

    pairs: list[Pair] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # a line each
    differences: list[str] = field(default_factory=list)  # of the environments, a line each

    @property
    def means(self) -> list[Mean]:
        """One of each regime in order of name, then of all; without the noisy pairs."""
        quiet = [pair for pair in self.pairs if not pair.noise]
        groups: dict[str, list[Pair]] = {}
        for pair in quiet:
            for regime in regimes(Problem.parse(pair.problem)):
                groups.setdefault(regime, []).append(pair)
        ordered = dict(sorted(groups.items())) | ({"all": quiet} if quiet else {})
        return [_mean(regime, pairs) for regime, pairs in ordered.items()]


def _mean(regime: str, pairs: Sequence[Pair]) -> Mean:
    theirs = [pair.torch_ratio for pair in pairs if pair.torch_ratio is not None]
    torch_ratio = geometric_mean(theirs) if len(theirs) == len(pairs) else None
    return Mean(regime, len(pairs), geometric_mean(pair.ratio for pair in pairs), torch_ratio)


def _time(row: Json, peer: str) -> float | None:
    found: float | None = row.get("peers", {}).get(peer, {}).get("minimum_s")
    return found


def compare(old: Json, new: Json) -> Comparison:
    """Hold a run against an older one."""
    olds, news = ({row["problem"]: row for row in run["problems"]} for run in (old, new))
    found = Comparison(differences=list(_differences(old.get("environment", {}), new.get("environment", {}))))
    for problem in dict.fromkeys([*olds, *news]):
        absent = [name for name, rows in (("OLD", olds), ("NEW", news)) if problem not in rows]
        if absent:
            found.missing.append(f"{problem}: not in {absent[0]}")
            continue
        pair = olds[problem], news[problem]
        ours = [_time(row, SUBJECT) for row in pair]
        if ours[0] is None or ours[1] is None:
            untimed = " and ".join(name for name, time in zip(("OLD", "NEW"), ours, strict=True) if time is None)
            found.missing.append(f"{problem}: not timed in {untimed}")
            continue
        theirs = [_time(row, BASELINE) for row in pair]
        torch_ratio = theirs[0] / theirs[1] if theirs[0] and theirs[1] else None
        noise = "; ".join(
            f"{name}: {row['noise']}" for name, row in zip(("OLD", "NEW"), pair, strict=True) if row.get("noise")
        )
        found.pairs.append(Pair(problem, ours[0], ours[1], ours[0] / ours[1], torch_ratio, noise or None))
    return found


def _differences(old: Json, new: Json) -> Iterator[str]:
    for fact in _FACTS:
        before, after = (environment.get(fact, "unknown") for environment in (old, new))
        if before != after:
            yield f"{fact.removeprefix('build: ')}: {before} in OLD, {after} in NEW"


def tables(found: Comparison) -> tuple[Table, ...]:
    """The pairs and their means."""
    note = "ratio: fused_rnn's time in OLD over that in NEW; torch.nn: the same of torch.nn, which the code is not in."
    noisy = f" {MARK}: noisy, left out of the means." * any(pair.noise for pair in found.pairs)
    pairs = Table(
        "Comparison of minimums",
        ("problem", "OLD ms", "NEW ms", "ratio", "torch.nn"),
        [
            (
                pair.problem,
                milliseconds(pair.old_s),
                milliseconds(pair.new_s),
                ratio_cell(pair.ratio, pair.noise),
                ratio_cell(pair.torch_ratio),
            )
            for pair in found.pairs
        ],
        note=note + noisy,
    )
    means = [
        (mean.regime, str(mean.problems), ratio_cell(mean.ratio), ratio_cell(mean.torch_ratio)) for mean in found.means
    ]
    return pairs, Table("Geometric means of the ratios", ("regime", "problems", "ratio", "torch.nn"), means)


def lines(found: Comparison) -> list[str]:
    """What the tables do not say, one line each."""
    return [
        *(f"differs {line}" for line in found.differences),
        *(f"missing {line}" for line in found.missing),
        *(f"noisy {pair.problem}: {pair.noise}" for pair in found.pairs if pair.noise),
    ]


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything about a comparison."""
    return {
        "differences": found.differences,
        "compared": _plain(found.pairs),
        "geometric_means": _plain(found.means),
        "missing": found.missing,
    }


def _plain(rows: Iterable[Pair] | Iterable[Mean]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]
