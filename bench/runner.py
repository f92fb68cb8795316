"""Runs problems: verifies each peer on it, then times the peers in turns, and keeps what was found."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .case import Case, Prepared
from .noise import current_load, noise_of
from .peers import BASELINE, SUBJECT, Peer, chosen
from .regimes import regimes
from .timing import Timing, geometric_mean, measure
from .verify import Errors, Tolerance, failures, tolerance_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .problems import Problem


# Workers of other libraries that are idle spin for up to about 16 ms (libgomp: 300,000 pauses) before they sleep.
WORKERS_SPIN = 0.02  # seconds


@dataclass
class Row:
    """What was found on one problem."""

    problem: Problem
    threads: int
    errors: dict[str, Errors] = field(default_factory=dict)  # by peer
    timings: dict[str, Timing] = field(default_factory=dict)  # by peer; empty when verification failed
    failures: list[str] = field(default_factory=list)  # of the subject
    notes: list[str] = field(default_factory=list)  # other peers that could not run it, or are too inaccurate
    against: tuple[str, ...] = (BASELINE,)  # the peers beside the subject
    refusals: dict[str, str] = field(default_factory=dict)  # by peer: why it was not asked to run it
    noise: str | None = None  # why the times are not to be trusted

    @property
    def verified(self) -> bool:
        """Whether the subject ran and was accurate."""
        return not self.failures

    @property
    def ratio_minimum(self) -> float | None:
        """How many times faster the subject is than the baseline, by minimums."""
        return self.ratio(BASELINE)

    @property
    def ratio_median(self) -> float | None:
        """How many times faster the subject is than the baseline, by medians."""
        return self.ratio(BASELINE, median=True)

    def ratio(self, peer: str, *, median: bool = False) -> float | None:
        """How many times faster the subject is than a peer: the peer's time over the subject's, minimums or medians.

        None where one was not timed.
        """
        if peer not in self.timings or SUBJECT not in self.timings:
            return None
        theirs, ours = self.timings[peer], self.timings[SUBJECT]
        return theirs.median / ours.median if median else theirs.minimum / ours.minimum

    def gflops(self, peer: str) -> float:
        """Thousand million operations a second at the peer's minimum."""
        return self.problem.flops() / self.timings[peer].minimum / 1e9

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in seconds."""
        peers: dict[str, dict[str, Any]] = {}
        for name, errors in self.errors.items():
            peers[name] = {"errors": {result: _finite(error) for result, error in errors.by_name.items()}}
        for name, timing in self.timings.items():
            peers[name] |= {
                "minimum_s": timing.minimum,
                "median_s": timing.median,
                "samples": len(timing.samples),
                "cpu": timing.cpu,
                "gflops": self.gflops(name),
                "ratio_minimum": self.ratio(name),
                "ratio_median": self.ratio(name, median=True),
            }
        return {
            "problem": str(self.problem),
            "flops": self.problem.flops(),
            "threads": self.threads,
            "verified": self.verified,
            "failures": self.failures,
            "notes": self.notes,
            "refusals": self.refusals,
            "noise": self.noise,
            "peers": peers,
            "ratio_minimum": self.ratio_minimum,
            "ratio_median": self.ratio_median,
        }


def _finite(error: float) -> float | str:
    """JSON has no infinity."""
    return error if math.isfinite(error) else "not finite"


def run_problem(problem: Problem, seconds: float, peers: Mapping[str, Peer] | None = None, seed: int = 0) -> Row:
    """Verify, then time for about `seconds`; what goes wrong is written into the row, so that the next still runs.

    `peers` are by default the baseline and the subject.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        warnings.filterwarnings(
            "ignore", message="The .grad attribute of a Tensor that is not a leaf"
        )  # the compiler's
        return _run_problem(problem, seconds, chosen() if peers is None else peers, seed)


def _run_problem(problem: Problem, seconds: float, peers: Mapping[str, Peer], seed: int) -> Row:
    row = Row(problem, torch.get_num_threads(), against=tuple(name for name in peers if name != SUBJECT))
    try:
        case = Case.draw(problem, seed)
        exact = {  # once for all peers that should have the same results
            of_peer: {with_state: of_peer(case, with_state=with_state) for with_state in (True, False)}
            for of_peer in dict.fromkeys(peer.exact for peer in peers.values())
        }
    except Exception as error:  # noqa: BLE001 - a problem too large for the memory must not end the run
        row.failures.append(f"cannot make the case: {_one_line(error)}")
        return row
    ready: dict[str, Prepared] = {}
    for name, peer in peers.items():
        if reason := peer.refuses(problem):
            row.refusals[name] = reason
            continue
        try:
            prepared = peer.prepare(case)
            errors = Errors()
            for with_state, values in exact[peer.exact].items():
                errors.add(prepared.results(with_state=with_state), values)
        except Exception as error:  # noqa: BLE001 - reported in the row
            lines = row.failures if judged(name, peer) else row.notes
            lines.append(f"{peer.name} cannot run it: {_one_line(error)}")
            continue
        ready[name], row.errors[name] = prepared, errors
    for name in list(ready):
        if name != BASELINE or peers[name].own:
            _judge(row, peers, name, ready)
    if row.verified:
        tasks = {name: prepared.step for name, prepared in ready.items()}
        row.timings = measure(tasks, seconds, idle=WORKERS_SPIN if any(peers[name].packages for name in ready) else 0)
        row.noise = noise_of(row.timings, current_load())
    return row


def _judge(row: Row, peers: Mapping[str, Peer], name: str, ready: dict[str, Prepared]) -> None:
    """Hold a peer to the tolerances: the problem fails where it is ours, another peer is not timed."""
    outputs, gradients = tolerance_of(row.problem)
    tolerance = Tolerance(max(outputs, peers[name].coarse), gradients)
    lines = failures(row.errors[name], _comparable(row, peers, name), tolerance)
    if name == SUBJECT:
        row.failures += lines
    elif peers[name].own:
        row.failures += [f"{peers[name].name}: {line}" for line in lines]
    elif lines:
        del ready[name]
        row.notes.append(f"{peers[name].name} is not timed: {'; '.join(lines)}")


def judged(name: str, peer: Peer) -> bool:
    """Whether the peer is fused_rnn, so that its errors fail a problem."""
    return name == SUBJECT or peer.own


def _comparable(row: Row, peers: Mapping[str, Peer], name: str) -> Errors | None:
    """The errors of the baseline, where it is not ours and should have the same results as the named peer."""
    baseline = peers.get(BASELINE)
    if baseline is None or baseline.own or baseline.exact != peers[name].exact:
        return None
    return row.errors.get(BASELINE)


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


@contextmanager
def thread_count(threads: int | None) -> Iterator[int]:
    """torch's number of threads inside, put back at the end; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Mean:
    """Geometric means of the ratios of one regime to one peer."""

    regime: str
    problems: int
    ratio_minimum: float
    ratio_median: float
    peer: str = BASELINE

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def geometric_means(rows: Sequence[Row]) -> list[Mean]:
    """For each peer one mean for each regime that has a timed problem, in order of name, then `all`.

    Noisy rows are left out.
    """
    return [mean for peer in dict.fromkeys(name for row in rows for name in row.against) for mean in _means(rows, peer)]


def _means(rows: Iterable[Row], peer: str) -> Iterator[Mean]:
    groups: dict[str, list[tuple[float, float]]] = {}
    everything: list[tuple[float, float]] = []
    for row in rows:
        minimum, median = row.ratio(peer), row.ratio(peer, median=True)
        if minimum is None or median is None or row.noise:
            continue
        everything.append((minimum, median))
        for regime in regimes(row.problem):
            groups.setdefault(regime, []).append((minimum, median))
    ordered = dict(sorted(groups.items())) | ({"all": everything} if everything else {})
    for regime, ratios in ordered.items():
        minimums, medians = zip(*ratios, strict=True)
        yield Mean(regime, len(ratios), geometric_mean(minimums), geometric_mean(medians), peer)
