"""Prints the instructions in the step loop of each CUDA kernel of an object, counted in its disassembly.

Usage: cuobjdump -sass OBJECT | python -m tools.loop_report [NAME ...]

With names, only the kernels whose mangled name holds all of them. The step loop is the longest loop with a barrier of
the block. cuobjdump comes with the CUDA toolkit.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# What a step waits for, or what the multiprocessor has few units of.
SHOWN = ("FFMA", "HMMA", "MUFU", "SHFL", "LDS", "STS", "BAR", "LDG", "STG")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", re.MULTILINE)


@dataclass(frozen=True)
class Loop:
    """The step loop of a kernel."""

    kernel: str  # mangled
    length: int  # instructions
    counts: Counter[str]  # of each kind of them, without suffixes

    def __str__(self) -> str:
        shown = " ".join(f"{name} {self.counts[name]}" for name in SHOWN if self.counts[name])
        return f"{self.length:6d}  {shown}  {self.kernel}"


def step_loop(kernel: str, listing: str) -> Loop | None:
    """The longest loop with a barrier in the disassembly of one kernel."""
    code = [(int(address, 16), name.split(".")[0], rest) for address, name, rest in _INSTRUCTION.findall(listing)]
    found: list[list[str]] = [[]]
    for end, name, rest in code:
        target = re.search(r"0x([0-9a-f]+)\s*$", rest) if name == "BRA" else None
        if target is not None and int(target[1], 16) < end:
            body = [kind for address, kind, _ in code if int(target[1], 16) <= address <= end]
            found.append(body if "BAR" in body else [])
    longest = max(found, key=len)
    return Loop(kernel, len(longest), Counter(longest)) if longest else None


def step_loops(listing: str) -> list[Loop]:
    """Those of every kernel of a disassembly that has one."""
    kernels = re.split(r"^\s*Function : (\S+)", listing, flags=re.MULTILINE)[1:]
    loops = (step_loop(*pair) for pair in zip(kernels[::2], kernels[1::2], strict=True))
    return [loop for loop in loops if loop is not None]


@cache
def loops_of(compiled: Path, target: str) -> list[Loop]:
    """Those of an object or a cubin for an architecture, such as sm_90a, by the cuobjdump in PATH."""
    command = ["cuobjdump", "-sass", "-arch", target, str(compiled)]
    return step_loops(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(names: list[str]) -> int:
    """Prints the report of what the standard input has."""
    for loop in step_loops(sys.stdin.read()):
        if all(name in loop.kernel for name in names):
            print(loop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
