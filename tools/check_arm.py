"""Compiles the C++ sources for AArch64 and runs the C++ tests there under qemu, on a machine of any kind.

Usage: python -m tools.check_arm [--library] [--streams] [--binding] [PROGRAM ...]

Needs g++-aarch64-linux-gnu and qemu-user (as Debian names them). Without options the named programs of tests/native
run, or all, on a processor with every instruction. --library compiles all that knows no torch with the flags of the
build, links it with tools/native/unit_check.cpp and runs that on several processors and on each of their instruction
sets. --streams does so with the C library, which CMake builds, and its tests. --binding compiles the rest against the
installed torch's headers. It is not linked: that takes a torch for AArch64.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_support import native
from build_support.ninja import common_flags, glob, source_groups
from build_support.toolchain import ISA_FLAGS, ROOT, find_toolchain, find_torch
from tests.test_native import AS_SHIPPED, LINKED, NATIVE, SOURCES

MODEL = ROOT / "tests/stream/model.frnn"
COMPILER, EMULATOR, SYSROOT = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
# Of qemu's processors, the sets that each has: with every instruction, with those for int8, with none of these.
PROCESSORS = {
    "max": ["neon", "neon_dot", "neon_bf16"],
    "cortex-a76": ["neon", "neon_dot"],
    "cortex-a72": ["neon"],
}


class CheckError(Exception):
    """Something is not as it should be on AArch64."""


def require(condition: bool, message: str) -> None:
    """An error with this message where the condition does not hold."""
    if not condition:
        raise CheckError(message)


def missing() -> list[str]:
    """What is not installed of what this needs."""
    return [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]


def compile_program(name: str, folder: Path, *, quickly: bool = False) -> Path:
    """A program of tests/native, as shipped where tests/test_native.py says so, else hardly optimised."""
    objects = []
    for part in [name, *LINKED.get(name, [])]:
        source = ROOT / part if "/" in part else NATIVE / f"{part}.cpp"
        objects.append(folder / f"{source.stem}.o")
        if objects[-1].exists():
            continue
        level = [] if part in AS_SHIPPED and not quickly else ["-O1"]
        flags = [*native.common_flags(), *ISA_FLAGS["neon"], "-fopenmp", "-I", str(NATIVE), *level]
        native.compile_cpp([*flags, "-c", str(source)], objects[-1], [COMPILER])
    return native.compile_cpp(["-fopenmp", *map(str, objects)], folder / name, [COMPILER])


def run_program(program: Path, processor: str = "max", isa: str = "") -> str:
    """What a program prints on a processor; an error if it fails or has a failure to report."""
    command = [EMULATOR, "-L", SYSROOT, "-cpu", processor, str(program)]
    environment = {**os.environ, "FUSED_RNN_CPU_ISA": isa}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=native.PATIENCE, check=False, env=environment
    )
    passed = result.returncode == 0 and " checks, 0 failed" in result.stdout
    require(passed, f"{program.name} on {processor}\n{result.stdout[-8000:]}{result.stderr[-2000:]}")
    return result.stdout


def compile_library(folder: Path, *, binding: bool) -> list[Path]:
    """The objects of all sources that know no torch, or of those that do."""
    os.environ["CXX"] = COMPILER
    toolchain = find_toolchain()
    require(toolchain.instruction_sets == ["neon"], f"{COMPILER} compiles {toolchain.instruction_sets}")
    if binding:
        groups = source_groups(toolchain, "not for AArch64", find_torch(), "0")[:2]
        work = [(name, group.flags) for group in groups for name in group.sources]
    else:
        units = [source for name in toolchain.instruction_sets for source in glob(f"csrc/cpu/isa/{name}/*.cpp")]
        others = [name for name in glob("csrc/cpu/**/*.cpp") if "/isa/" not in name]
        work = [(name, []) for name in (*units, *others, *glob("csrc/cuda/*.cpp"))]

    def compile_source(name: str, flags: list[str]) -> Path:
        output = folder / f"{name.replace('/', '-')}.o"
        arguments = [*common_flags(toolchain), *flags, "-c", str(ROOT / name)]
        native.compile_cpp(arguments, output, [COMPILER])
        print(f"compiled {name}", flush=True)
        return output

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        return list(pool.map(compile_source, *zip(*work, strict=True)))


def check_library(folder: Path) -> None:
    """Runs the library on each processor and set."""
    objects = [str(path) for path in compile_library(folder, binding=False)]
    flags = [*native.common_flags(), "-fopenmp", "-O1", "-I", str(NATIVE), str(ROOT / "tools/native/unit_check.cpp")]
    program = native.compile_cpp([*flags, *objects], folder / "unit_check", [COMPILER])
    checksums = set()
    for processor, sets in PROCESSORS.items():
        for isa in ["", *sets]:
            lines = run_program(program, processor, isa).splitlines()
            expected = [f"sets {' '.join(sets)}", f"in use {isa or sets[-1]}"]
            require(lines[:2] == expected, f"{processor}: {lines[:2]} instead of {expected}")
            checksums.add(lines[-1])
            print(f"{processor}, {lines[1]}: {lines[-2]}, {lines[-1]}", flush=True)
    require(len(checksums) == 1, "int8 layers differ between sets")


def check_streams(folder: Path) -> None:
    """Runs tests of the C library on each processor and set; sanitizers do not run under qemu."""
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DFUSED_RNN_BUILD_EXAMPLES=OFF"]
    compilers = [f"-DCMAKE_CXX_COMPILER={COMPILER}", f"-DCMAKE_C_COMPILER={COMPILER.replace('g++', 'gcc')}"]
    programs = ("c_program", "cpp_program", "borders")
    cmake = shutil.which("cmake") or "/usr/bin/cmake"
    subprocess.run([cmake, "-S", str(ROOT), "-B", str(folder), *system, *compilers], check=True)
    subprocess.run([cmake, "--build", str(folder), "--parallel", jobs, "--target", *programs], check=True)
    for processor, sets in PROCESSORS.items():
        for isa, name in itertools.product(["", *sets], programs):
            command = [EMULATOR, "-L", SYSROOT, "-cpu", processor, str(folder / "tests/stream" / name), str(MODEL)]
            subprocess.run(command, check=True, env={**os.environ, "FUSED_RNN_CPU_ISA": isa})
            print(f"{processor}, {isa or 'no choice'}: {name}", flush=True)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="of tests/native, without .cpp")
    parser.add_argument("--library", action="store_true", help="all of csrc without the binding, run as a whole")
    parser.add_argument("--streams", action="store_true", help="the C library of streams, with its tests")
    parser.add_argument("--binding", action="store_true", help="objects of csrc/binding and csrc/python")
    options = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"{' and '.join(lacking)} needed: install g++-aarch64-linux-gnu and qemu-user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = options.programs or ([] if options.library or options.streams or options.binding else SOURCES)
        for program in chosen:
            print(f"{program}: {run_program(compile_program(program, folder)).splitlines()[-1]}", flush=True)
        if options.library:
            check_library(folder)
        if options.streams:
            check_streams(folder / "streams")
        if options.binding:
            compile_library(folder, binding=True)


if __name__ == "__main__":
    main()
