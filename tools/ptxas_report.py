"""Prints what ptxas said of each CUDA kernel of the last build: registers, shared memory, spills, stack.

Usage: python -m tools.ptxas_report [NAME ...]

With names, only the kernels whose demangled name holds all of them. The build keeps the output of `ptxas -v` beside
each object under build/native.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from typing import TYPE_CHECKING

from build_support.toolchain import ROOT

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_NAME = 96


@dataclass
class Function:
    """A kernel, or a function that kernels call, as compiled for one target; sizes in bytes."""

    name: str  # mangled
    target: str  # such as sm_90a
    registers: int = 0  # 0: not a kernel, ptxas does not tell
    shared: int = 0  # static
    spill_stores: int = 0
    spill_loads: int = 0
    stack: int = 0

    def __str__(self) -> str:
        sizes = f"{self.spill_stores} bytes of spill stores, {self.spill_loads} of spill loads, {self.stack} of stack"
        return f"{self.name} for {self.target}: {sizes}"


def parse(log: str) -> list[Function]:
    """Every function that a log of `ptxas -v` describes."""
    found: list[Function] = []
    kernel = described = Function("", "")
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(.+)' for '(.+)'", line):
            kernel = Function(match[1], match[2])
            found.append(kernel)
        elif match := re.search(r"Function properties for (\S+)", line):
            described = kernel
            if match[1] != kernel.name:
                described = Function(match[1], kernel.target)
                found.append(described)
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            described.stack, described.spill_stores, described.spill_loads = map(int, match.groups())
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+)(?:\+\d+)? bytes smem", line)
            kernel.registers, kernel.shared = int(match[1]), int(shared[1]) if shared else 0
    return found


def runs(log: str) -> int:
    """How many times ptxas ran, which is once for each target, also where a source has no kernel."""
    return len(re.findall(r"bytes gmem", log))


def logs() -> list[Path]:
    """The logs of the build for this Python; none where the build has no CUDA."""
    folder = ROOT / "build" / "native" / f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    sources = (path.relative_to(ROOT) for path in (ROOT / "csrc" / "cuda").rglob("*.cu"))
    return sorted(path for source in sources if (path := (folder / source).with_suffix(".o.log")).exists())


def shorten(name: str) -> str:
    """What tells a demangled kernel from the others: `void a::run_kernel<a::Name>(a::Name)` is Name."""
    short = re.sub(r"fused_rnn::(cuda::)?|^void ", "", name)
    depth, end = 0, len(short)
    while short.endswith(")") and end > 0:  # back over the parameters, whose types may have parentheses in them
        end -= 1
        depth += {")": 1, "(": -1}.get(short[end], 0)
        if depth == 0:
            short = short[:end]
    kernel = re.fullmatch(r"run_kernel<(.*?) ?>", short)
    return kernel[1] if kernel else short


def demangle(names: list[str]) -> list[str]:
    """The names as C++ writes them, or as they are where there is no c++filt."""
    program = shutil.which("c++filt")
    if program is None or not names:
        return names
    text = subprocess.run([program], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return text.splitlines()


def main() -> int:
    """Prints the table; returns the exit code, 1 where something spills."""
    functions = [function for path in logs() for function in parse(path.read_text())]
    if not functions:
        print("no kernels were built: see build_info()['cuda']")
        return 0
    print(f"{'target':8} {'registers':>9} {'shared':>7} {'spilled':>7} {'loaded':>7} {'stack':>6}  kernel")
    names = map(shorten, demangle([function.name for function in functions]))
    rows = zip(names, functions, strict=True)
    for name, one in sorted(rows, key=lambda row: (row[0], len(row[1].target), row[1].target)):
        if all(word in name for word in sys.argv[1:]):
            short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
            registers = one.registers or "-"
            sizes = f"{one.shared:7} {one.spill_stores:7} {one.spill_loads:7} {one.stack:6}"
            print(f"{one.target:8} {registers:>9} {sizes}  {short}")
    return 1 if any(one.spill_stores + one.spill_loads for one in functions) else 0


if __name__ == "__main__":
    sys.exit(main())
