"""The compiler, what it can do and with which flags it compiles, and the packages that the build needs.

Environment: CXX (the compiler), FUSED_RNN_WERROR=1 (warnings are errors, as in the project's continuous integration).
What is missing ends the build with one sentence.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The oldest torch whose stable ABI is used: the built module serves this version and all later ones.
MIN_TORCH = (2, 11)

COMMON_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-fno-math-errno"]
COMMON_FLAGS += ["-ffp-contract=off", "-Wall", "-Wextra"]
# Each unit is compiled for exactly its instruction set, so that a binary built on one machine runs on every other.
ISA_FLAGS = {
    "baseline": [],
    "neon": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"],
}
# Of each kind of machine, as compilers and Python name them; all others have the baseline alone.
UNITS_OF_MACHINE = {
    "x86_64": ["baseline", "avx2", "avx512"],
    "aarch64": ["neon"],
    "arm64": ["neon"],
}
# Concepts, and the vector shuffle that gcc has from version 12 on.
CXX20_PROBE = """
#include <concepts>
template <std::integral T> T f(T x) { return x; }
using Vector [[gnu::vector_size(16)]] = int;
int main() { return f(__builtin_shufflevector(Vector{}, Vector{}, 1, 0, 3, 2)[0]); }
"""
OPENMP_PROBE = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"


def fail(sentence: str) -> SystemExit:
    """An exit that shows one sentence instead of a traceback."""
    return SystemExit(f"fused_rnn: {sentence}")


def version(root: Path = ROOT) -> str | None:
    """That of the package in a checkout, read without importing it."""
    found = re.search(r'^__version__ = "(.+)"$', (root / "fused_rnn/__init__.py").read_text(), re.MULTILINE)
    return found[1] if found else None


def werror_flags() -> list[str]:
    """-Werror where the environment says so."""
    return ["-Werror"] if os.environ.get("FUSED_RNN_WERROR") == "1" else []


def units_of(machine: str) -> list[str]:
    """The instruction sets that are compiled for a machine, the plainest first."""
    return UNITS_OF_MACHINE.get(machine, ["baseline"])


@dataclass(frozen=True)
class Toolchain:
    """The compiler found and what it can do."""

    compiler: list[str]
    instruction_sets: list[str]
    openmp_compile: list[str]
    openmp_link: list[str]


def compiles(compiler: list[str], code: str, flag: str) -> bool:
    """Whether the compiler makes a program of `code`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(code)
        command = [*compiler, flag, str(source), "-o", str(Path(folder, "probe"))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def output_of(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def find_compiler() -> list[str]:
    """The words of CXX, or the first compiler in PATH."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next((words for words in map(shlex.split, names) if shutil.which(words[0])), None)
    if compiler is None:
        raise fail(f"no C++ compiler found (looked for {', '.join(names)}): install g++ 12 or newer, or set CXX.")
    return compiler


def openmp_flags(compiler: list[str]) -> list[str]:
    """-fopenmp where the compiler has it."""
    return ["-fopenmp"] if compiles(compiler, OPENMP_PROBE, "-fopenmp") else []


def find_toolchain() -> Toolchain:
    """The compiler and what was tried of it."""
    if os.name != "posix":
        raise fail("the kernels build on Linux and macOS only.")
    compiler = find_compiler()
    if not compiles(compiler, CXX20_PROBE, "-std=c++20"):
        raise fail(f"{shlex.join(compiler)} does not compile C++20: install g++ 12 or newer, or set CXX.")
    machine = output_of([*compiler, "-dumpmachine"]).split("-")[0]
    openmp = openmp_flags(compiler)
    # torch has loaded an OpenMP runtime before this module is imported, under a file name that differs between wheels.
    # Code from gcc takes its OpenMP symbols from there and is linked to no runtime: a second one would have threads of
    # its own and not see torch.set_num_threads. clang calls a runtime of another interface (libomp), so it brings it.
    brings_runtime = bool(openmp) and (sys.platform == "darwin" or "clang" in output_of([*compiler, "--version"]))
    return Toolchain(
        compiler,
        units_of(machine),
        openmp,
        openmp if brings_runtime else [],
    )


def find_torch() -> Path:
    """The folder of the installed torch (which is not imported)."""
    wanted = f"torch>={MIN_TORCH[0]}.{MIN_TORCH[1]}"
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise fail(
            f"{wanted} is needed to build: install it, then run `pip install --no-build-isolation .`; or let "
            "`pip install .` download it for the build."
        )
    version = importlib.metadata.version("torch")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < MIN_TORCH:
        raise fail(f"{wanted} is needed, found {version}.")
    return Path(next(iter(spec.submodule_search_locations)))


def find_pybind11() -> str:
    """The folder of its headers."""
    try:
        import pybind11
    except ImportError:
        raise fail("pybind11 is needed to build: run `pip install pybind11 ninja setuptools wheel`.") from None
    return str(pybind11.get_include())


def find_ninja() -> str:
    """The program, of the package or in PATH."""
    try:
        import ninja
    except ImportError:
        program = shutil.which("ninja")
    else:
        program = str(Path(ninja.BIN_DIR, "ninja"))
    if program is None:
        raise fail("ninja is needed to build: run `pip install ninja`.")
    return program


def find_python_headers() -> list[str]:
    """Their folders."""
    folders = sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})
    if not any(Path(folder, "Python.h").exists() for folder in folders):
        raise fail(f"Python.h is not in {folders[0]}: install this Python's development files (python3-dev).")
    return folders
