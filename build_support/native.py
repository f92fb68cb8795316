"""Compiles C++ programs of the tests and tools with the very flags of the extension module."""

from __future__ import annotations

import platform
import shlex
import subprocess
from functools import cache
from pathlib import Path

from build_support import toolchain

ROOT = toolchain.ROOT
PATIENCE = 3600  # seconds that a program of a test may take: only what hangs takes them, however busy the machine is
# Without the checks of pointers that compiling spends half of its time on, of which AddressSanitizer sees what matters.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=null,object-size,pointer-overflow,vptr"]
SANITIZERS += ["-fno-sanitize-recover=all"]


def common_flags() -> list[str]:
    """The flags of every source of the extension module, warnings being errors where the build says so."""
    return [*toolchain.COMMON_FLAGS, "-I", str(ROOT / "csrc"), *toolchain.werror_flags()]


def isa_flags() -> dict[str, list[str]]:
    """The flags of each instruction set that the compiler's machine has at all."""
    return {name: toolchain.ISA_FLAGS[name] for name in toolchain.units_of(platform.machine())}


def processor_flags() -> set[str]:
    """What Linux says that this processor has."""
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def runnable_instruction_sets() -> list[str]:
    """Those of `isa_flags` that this processor can run."""
    present = processor_flags()
    needed = {
        "baseline": set(),
        "neon": set(),
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    }
    return [name for name in isa_flags() if needed[name] <= present]


compiler = cache(toolchain.find_compiler)  # that of the build


def openmp_flags() -> list[str]:
    """-fopenmp where the compiler has it."""
    return toolchain.openmp_flags(compiler())


def compile_cpp(arguments: list[str], output: Path, using: list[str] | None = None) -> Path:
    """Runs the compiler, that of the build if no other; its messages are the failure's message."""
    command = [*(using or compiler()), *arguments, "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr[-8000:]}"
    return output
