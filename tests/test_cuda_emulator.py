"""Builds and runs the CUDA kernels in the emulator, where there is no GPU: every schedule, cell and type."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from build_support import native
from fused_rnn._published_cells import SLSTMCell
from tests import cuda_mutants
from tests.own_cells import DiagonalLSTM, InputGatedGRU, OwnElman, OwnGRU, OwnLSTM

if TYPE_CHECKING:
    from collections.abc import Iterator

EMULATOR = native.ROOT / "tests" / "cuda_on_cpu"
DEVICE = '-DFUSED_RNN_EMULATED_DEVICE="emulated_device.h"'
# What every program is linked with, compiled once with sanitizers and once without.
MACHINE = EMULATOR / "emulator.cpp"
PARTS = [MACHINE, native.ROOT / "csrc" / "cuda" / "select.cpp"]
SANITIZERS = [*native.SANITIZERS, "-fno-omit-frame-pointer", "-g1"]
# Program: its source and the flags of its own; by its name, sanitizers too, which find what is outside a buffer or
# misaligned.
PROGRAMS = {
    "emulator": ("test_emulator.cpp", []),
    "mutation": ("test_mutation.cpp", []),
    "rnn_tanh": ("test_schedules.cpp", ["-DFUSED_RNN_TEST_CELL=ElmanCell<Tanh>"]),
    # Relu differs from it in formulas alone, which test_cells.cpp has.
    "gru": ("test_schedules.cpp", ["-DFUSED_RNN_TEST_CELL=GruCell"]),
    "lstm": ("test_schedules.cpp", ["-DFUSED_RNN_TEST_CELL=LstmCell"]),
    "own_cells": ("test_own_cells.cpp", []),
    "cell_mutants": ("test_cell_mutants.cpp", []),
    "repeated_cells": ("test_repeated_cells.cpp", []),
    "gru-edges-sanitized": (
        "test_schedules.cpp",
        ["-DFUSED_RNN_TEST_CELL=GruCell", "-DFUSED_RNN_TEST_EDGES=BFloat16"],
    ),
    "lstm-edges-sanitized": (
        "test_schedules.cpp",
        ["-DFUSED_RNN_TEST_CELL=LstmCell", "-DFUSED_RNN_TEST_EDGES=float"],
    ),
    # The one cell with weights of single units.
    "lstm_peephole-edges-sanitized": (
        "test_schedules.cpp",
        ["-DFUSED_RNN_TEST_CELL=PeepholeLstmCell", "-DFUSED_RNN_TEST_EDGES=float"],
    ),
}


def compile_object(source: Path, flags: list[str], output: Path) -> Path:
    """Compiles one source."""
    # Headers in a folder of the source's own come before those of csrc.
    folders = (output.parent / source.stem, EMULATOR, EMULATOR.parent / "native", output.parent)
    includes = [word for folder in folders for word in ("-I", str(folder))]
    # "#pragma unroll" is for nvcc. What an update makes is stored only where there was one, which gcc does not see.
    quiet = ["-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]
    # The machine runs most of the time; kernels and oracles take longer to compile than to run.
    level = "-O2" if source == MACHINE else "-Og"
    options = [*includes, *native.common_flags(), level, *quiet, *flags, DEVICE]
    return native.compile_cpp([*options, "-c", str(source)], output)


def is_sanitized(name: str) -> bool:
    return name.endswith("-sanitized")


def run_program(name: str, parts: list[Future[Path]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Compiles and runs one test program."""
    source, flags = PROGRAMS[name]
    flags = [*flags, *(SANITIZERS if is_sanitized(name) else [])]
    linked = [compile_object(EMULATOR / source, flags, folder / f"{name}.o"), *(part.result() for part in parts)]
    program = str(native.compile_cpp([*flags, *map(str, linked)], folder / name))
    # Fibers change stacks under the sanitizer, which is told; what it would remember of each slows it down a lot.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    return subprocess.run(
        [program], capture_output=True, text=True, timeout=native.PATIENCE, check=False, env=environment
    )


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """What each program that this run needs printed; they compile and run side by side from the start."""
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    for cell in (DiagonalLSTM, InputGatedGRU, OwnElman, OwnGRU, OwnLSTM, SLSTMCell):
        Path(folder, f"{cell.__name__}.h").write_text(cell.source())
    cuda_mutants.write(folder / "test_cell_mutants")
    wanted = {
        item.callspec.params["program"]
        for item in request.session.items
        if getattr(item, "module", None) is request.module and hasattr(item, "callspec")
    }
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        parts: dict[bool, list[Future[Path]]] = {}
        for sanitized in {is_sanitized(name) for name in wanted}:
            flags, kind = (SANITIZERS, "sanitized") if sanitized else ([], "plain")
            parts[sanitized] = [
                pool.submit(compile_object, path, flags, folder / f"{path.stem}-{kind}.o") for path in PARTS
            ]
        # The longest first; what a program waits for was begun before it.
        names = [name for name in reversed(PROGRAMS) if name in wanted]
        yield {name: pool.submit(run_program, name, parts[is_sanitized(name)], folder) for name in names}


@pytest.mark.parametrize("program", PROGRAMS)
def test_emulated_program_reports_no_failure(
    program: str, results: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    result = results[program].result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.rstrip().endswith(" checks, 0 failed")


def test_every_source_is_listed() -> None:
    listed = {source for source, _ in PROGRAMS.values()}
    assert {path.name for path in EMULATOR.glob("test_*.cpp")} - {"test_micro.cpp"} == listed
