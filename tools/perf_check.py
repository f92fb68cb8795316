"""Guards of speed that do not depend on what else the machine does: shares of a peak, and counts of instructions.

Usage: python -m tools.perf_check [--update | --plans], in the root of a checkout; it needs a C++ compiler and neither
torch nor a build. Against tools/native/expected.json it holds

- every register tile of the recurrent GEMM, as a share of the peak of one core's multiply-adds measured in the same
  run: below FLOOR of the recorded share it fails, which no noise brings about and a spilled register does;
- the instructions of every schedule on one problem, counted by valgrind in the AVX2 unit (it does not know AVX-512):
  more than MARGIN above the recorded number fails. Numbers are of one compiler; others are not held to them.

--update records what it finds instead. --plans times the ways in which threads share the work, beside what the model
of this processor (csrc/cpu/runtime/machine.cpp) would choose.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from build_support import native

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCES = native.ROOT / "tools" / "native"
EXPECTED = SOURCES / "expected.json"
FLOOR = 0.5  # of a tile's recorded share of the peak
MARGIN = 0.01  # of a schedule's recorded instructions
ROUNDS = 300  # of timing; each lasts about 2 ms
COUNTED_ISA = "avx2"
LINKED = {  # of csrc/cpu
    "plan_times": ("runtime/machine", "runtime/plan", "runtime/team"),
    "schedule_counts": ("runtime/stepping", "runtime/team", "schedules/weight_gradients"),
    "tile_speed": ("runtime/machine",),
}
PLAN_SECONDS = "0.1"  # for each way to share a pass

Shares = dict[str, float]  # by tile: `float 4x6x1` is its type, columns, rows and blocks
Counts = dict[str, int]  # by schedule and its problem


class Tile(NamedTuple):
    """What was measured of a register tile."""

    name: str
    gflops: float
    share: float  # of the peak


def build(source: str, isa: str, folder: Path, *further: str) -> Path:
    """Compile a program of tools/native with the library's flags for an instruction set, and further ones."""
    flags = [
        *native.common_flags(),
        *native.isa_flags()[isa],
        "-I",
        str(native.ROOT / "tests/native"),
    ]
    files = [SOURCES / f"{source}.cpp", *(native.ROOT / f"csrc/cpu/{name}.cpp" for name in LINKED[source])]
    return native.compile_cpp([*flags, *further, *map(str, files)], folder / f"{source}-{isa}")


def tile_speeds(program: Path, rounds: int = ROUNDS) -> list[Tile]:
    """Run tile_speed."""
    output = subprocess.run([str(program), str(rounds)], capture_output=True, text=True, check=True).stdout
    tiles = []
    for line in output.splitlines():
        kind, columns, rows, blocks, gflops, share = line.split()
        tiles.append(Tile(f"{kind} {columns}x{rows}x{blocks}", float(gflops), float(share)))
    return tiles


def schedules(program: Path) -> list[str]:
    """The schedules that schedule_counts can run."""
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()


def run_schedule(program: Path, schedule: str, *tool: str) -> subprocess.CompletedProcess[str]:
    """Run one schedule, by a tool where there is one; schedule_counts prints the problem."""
    return subprocess.run([*tool, str(program), schedule], capture_output=True, text=True, check=True)


def instructions(program: Path, schedule: str, valgrind: str) -> tuple[str, int]:
    """The problem of a schedule, and how many instructions a pass takes."""
    options = ("--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=counted_pass")
    done = run_schedule(program, schedule, valgrind, *options)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"valgrind counted nothing: {done.stderr[-300:]}")
    return f"{schedule}: {done.stdout.strip()}", int(found[1])


def compiler_name() -> str:
    """Such as `gcc 12`."""
    compiler = native.compiler()

    def ask(option: str) -> str:
        return subprocess.run([*compiler, option], capture_output=True, text=True, check=True).stdout

    return f"{'clang' if 'clang' in ask('--version') else 'gcc'} {ask('-dumpversion').split('.')[0].strip()}"


def slow_tiles(tiles: Iterable[Tile], recorded: Shares) -> list[str]:
    """A line for each tile below its floor."""
    return [
        f"{tile.name}: {tile.share:.2f} of the peak, floor {FLOOR * recorded[tile.name]:.2f}"
        for tile in tiles
        if tile.share < FLOOR * recorded.get(tile.name, 0.0)
    ]


def grown_counts(counts: Counts, recorded: Counts) -> list[str]:
    """A line for each schedule with too many instructions."""
    return [
        f"{name}: {count:,} instructions, {count / recorded[name] - 1.0:+.1%} of the recorded {recorded[name]:,}"
        for name, count in counts.items()
        if name in recorded and count > (1.0 + MARGIN) * recorded[name]
    ]


def unrecorded(found: Iterable[str], recorded: Iterable[str]) -> list[str]:
    """What has no record to be held against."""
    return sorted(set(found) - set(recorded))


class Check:
    """One run: prints tables, and collects what failed and what to record."""

    def __init__(self, expected: dict[str, dict[str, dict[str, float]]], folder: Path) -> None:
        self.expected, self.folder = expected, folder
        self.found: dict[str, dict[str, dict[str, float]]] = {"tile_shares": {}, "instructions": {}}
        self.failures: list[str] = []

    def tiles(self, isa: str) -> None:
        """Time the tiles of an instruction set."""
        tiles = tile_speeds(build("tile_speed", isa, self.folder))
        recorded = self.expected["tile_shares"].get(isa, {})
        print(f"\n{isa}: register tiles of the GEMM (type, columns x rows x blocks), one thread")
        print(f"{'tile':<14}{'GFLOP/s':>9}{'of peak':>9}{'recorded':>10}{'floor':>7}")
        for tile in tiles:
            share = recorded.get(tile.name)
            limits = "" if share is None else f"{share:>10.2f}{FLOOR * share:>7.2f}"
            print(f"{tile.name:<14}{tile.gflops:>9.1f}{tile.share:>9.2f}{limits}")
        self._unrecorded([tile.name for tile in tiles], recorded)
        self.failures += [f"{isa} {line}" for line in slow_tiles(tiles, recorded)]
        self.found["tile_shares"][isa] = {tile.name: round(tile.share, 2) for tile in tiles}

    def counts(self) -> None:
        """Count the instructions of the schedules, where that is possible."""
        valgrind = shutil.which("valgrind")
        if valgrind is None or COUNTED_ISA not in native.runnable_instruction_sets():
            print(f"\ninstructions: SKIPPED, which needs valgrind and a processor with {COUNTED_ISA}")
            return
        compiler = compiler_name()
        program = build("schedule_counts", COUNTED_ISA, self.folder)
        counts = dict(instructions(program, schedule, valgrind) for schedule in schedules(program))
        recorded = {name: int(count) for name, count in self.expected["instructions"].get(compiler, {}).items()}
        print(f"\n{COUNTED_ISA}, {compiler}: instructions of a pass of each schedule")
        for name, count in counts.items():
            change = f"  {count / recorded[name] - 1.0:+.2%}" if name in recorded else ""
            print(f"{name:<62}{count:>12,}{change}")
        self._unrecorded(counts, recorded)
        self.failures += grown_counts(counts, recorded)
        self.found["instructions"][compiler] = dict(counts)

    def _unrecorded(self, found: Iterable[str], recorded: Iterable[str]) -> None:
        if missing := unrecorded(found, recorded):
            print(f"not recorded, so not checked: {len(missing)} (make perf-check UPDATE=1 records)")


def main() -> int:
    """Run everything; 0 when nothing failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"record what is found in {EXPECTED.name}")
    parser.add_argument("--plans", action="store_true", help="time the ways to share the work, and check nothing")
    arguments = parser.parse_args()
    update = arguments.update
    if arguments.plans:
        with tempfile.TemporaryDirectory() as folder:
            isa = native.runnable_instruction_sets()[-1]
            program = build("plan_times", isa, Path(folder), *native.openmp_flags())
            return subprocess.run([str(program), PLAN_SECONDS], check=False).returncode
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        check = Check(expected, Path(folder))
        for isa in native.runnable_instruction_sets():
            check.tiles(isa)
        check.counts()
    if update:
        merged = {kind: {**expected[kind], **found} for kind, found in check.found.items()}
        EXPECTED.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
        print(f"\nrecorded in {EXPECTED}")
        return 0
    print("\n" + ("\n".join(f"FAILED {line}" for line in check.failures) or "nothing failed"))
    print(f"recorded: {EXPECTED.relative_to(native.ROOT)}")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
