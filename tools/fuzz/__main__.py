"""The command: a child process runs the cases and says which one comes next, so that a crash has a case, too."""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from tools.fuzz.case import Case, draw, smallest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LONGEST_CASE = 120.0  # seconds; then the child says where it hangs, and ends


class Found(NamedTuple):
    """One way in which one case fails."""

    number: int  # of the case, counted from that of the seed
    case: str
    kind: str
    detail: str


def fail_of(case: Case) -> list[tuple[str, str]]:
    """Kinds and details; torch is imported by the child alone."""
    from tools.fuzz.run import run

    return [(each.kind, each.detail) for each in run(case) if each.kind != "refused"]


def work(seed: int, indices: Sequence[int], until: float | None) -> None:
    """The child: run the cases and write down the index of each, and what fails."""
    import warnings

    warnings.simplefilter("error")
    for index in indices:
        if until is not None and time.time() > until:
            return
        print(json.dumps(index), flush=True)
        faulthandler.dump_traceback_later(_LONGEST_CASE, exit=True)
        case = draw(seed, index)
        for kind, detail in fail_of(case):
            print(json.dumps(Found(index, str(case), kind, detail)), flush=True)
    faulthandler.cancel_dump_traceback_later()


def search(
    seed: int, indices: range, until: float | None = None, program: Sequence[str] = ("-m", "tools.fuzz")
) -> Iterator[Found | int]:
    """Each case's index as it begins, and what fails; a child that ends before its time fails by its last case."""
    start, end = indices.start, indices.stop
    while start < end:
        options = ["--seed", str(seed), "--first", str(start), "--cases", str(end - start)]
        options += [] if until is None else ["--until", str(until)]
        with subprocess.Popen(
            [sys.executable, *program, "--work", *options], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None  # noqa: S101 - it is a pipe
            for line in child.stdout:
                said = json.loads(line)
                if isinstance(said, int):
                    start = said
                    yield said
                else:
                    yield Found(*said)
        if child.returncode == 0:
            return
        yield Found(start, str(draw(seed, start)), f"the interpreter ended with {child.returncode}", "")
        start += 1


def report(found: Sequence[Found], count: int, seconds: float, *, shrink: bool) -> None:
    """By kind, the most frequent first, each with a case that can be given again."""
    by_kind: dict[str, list[Found]] = collections.defaultdict(list)
    for each in found:
        by_kind[each.kind].append(each)
    for kind, those in sorted(by_kind.items(), key=lambda pair: -len(pair[1])):
        first = min(those, key=lambda each: len(each.case))
        case = Case.parse(first.case)
        if shrink and not kind.startswith("the interpreter"):
            case = smallest(case, lambda other, kind=kind: any(k == kind for k, _ in fail_of(other)))  # type: ignore[misc]
            detail = next((d for k, d in fail_of(case) if k == kind), first.detail)
        else:
            detail = first.detail
        print(f"\n{len(those)} x {kind}\n    {detail[:400]}\n    python -m tools.fuzz --case '{case}'", flush=True)
    failing = len({each.number for each in found})
    print(f"\n{count} cases in {seconds:.0f} s, {failing} failed in {len(by_kind)} ways")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 where something failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    parser.add_argument("--only", type=int, help="run this case of the seed alone")
    parser.add_argument("--case", help="run a case from its line")
    parser.add_argument("--seconds", type=float, help="begin no case after that time")
    parser.add_argument("--isa", help="the instruction set, as FUSED_RNN_CPU_ISA names it")
    parser.add_argument("--shrink", action="store_true", help="make the first case of each kind smaller")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.work:
        work(given.seed, range(given.first, given.first + given.cases), given.until)
        return 0
    if given.isa:
        os.environ["FUSED_RNN_CPU_ISA"] = given.isa
    if given.case or given.only is not None:
        case = Case.parse(given.case) if given.case else draw(given.seed, given.only)
        print(case, flush=True)
        failures = fail_of(case)
        for kind, detail in failures:
            print(f"    {kind}\n    {detail}")
        return int(bool(failures))
    began = time.time()
    until = None if given.seconds is None else began + given.seconds
    found, count = [], 0
    for each in search(given.seed, range(given.first, given.first + given.cases), until):
        if isinstance(each, Found):
            found.append(each)
            print(f"--only {each.number}: {each.kind}: {each.detail[:200]}\n    {each.case}", flush=True)
        else:
            count += 1
    report(found, count, time.time() - began, shrink=given.shrink)
    return int(bool(found))


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
