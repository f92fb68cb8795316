"""Builds and runs the torch-free C++ tests of tests/native for every instruction set here, and under sanitizers."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from build_support import native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NATIVE = native.ROOT / "tests" / "native"
SOURCES = sorted(path.stem for path in NATIVE.glob("test_*.cpp"))
TEAM = "csrc/cpu/runtime/team.cpp"
# What a program is linked with, compiled once for all: parts of the library, and the schedules that the programs run.
LINKED = {
    "test_diagonal": ["diagonals", TEAM],
    "test_matrix_product": [TEAM],
    "test_not_finite": ["sweeps", "pairs", "rows", TEAM],
    "test_pairs": ["pairs", TEAM],
    "test_rows": ["rows", "sweeps", TEAM],
    "test_sharing": ["sweeps", "rows", TEAM],
    "test_single_steps": [TEAM],
    "test_sweep": ["sweeps", TEAM],
    "test_stream_stages": ["csrc/stream/stage.cpp"],
    "test_team": [TEAM],
    "test_weight_gradients": ["sweeps", "rows", "diagonals", "csrc/cpu/schedules/weight_gradients.cpp", TEAM],
    "test_workspace": ["sweeps", TEAM, "csrc/cpu/runtime/workspace.cpp"],
}
SCHEDULES = {"sweeps", "pairs", "rows", "diagonals"}
# Where an optimiser might undo what code does to bits. All else is hardly optimised, which halves the compile time, and
# schedules not at all, which halves it again; tests/test_parity.py runs the library's own.
AS_SHIPPED = {"test_cells", "test_quantized", "test_storage", "test_vec_math"}
UNOPTIMIZED = {*SCHEDULES, "test_single_steps"}  # the last has schedules of its own
INSTRUCTION_SETS = native.runnable_instruction_sets()
FLAVOURS = [*INSTRUCTION_SETS, "sanitized"]
THREADED = ["test_diagonal", "test_sharing", "test_team", "test_weight_gradients"]  # watched by ThreadSanitizer too
# What knows no vectors, or takes long to compile, runs on the widest set, and sanitized where it is the only one to run
# its code; tests/test_parity.py runs the library's own on each set. What a sanitized build leaves out is there a
# repetition: the same template with another cell or type, which has no other branch (IdentityType, kRepeats,
# kEveryType). The widest set has them all.
WIDEST = INSTRUCTION_SETS[-1:]
FEWER_FLAVOURS = {
    **{name: [*WIDEST, "sanitized"] for name in ("test_cells", "test_diagonal", "test_rows", "test_single_steps")},
    **{name: [*WIDEST, "sanitized"] for name in ("test_stream_stages", "test_sweep", "test_team", "test_workspace")},
    **{name: [*WIDEST, "sanitized"] for name in ("test_matrix_product", "test_weight_gradients")},
    "test_plain_recurrence": WIDEST,
    "test_sharing": WIDEST,
    "test_not_finite": WIDEST,
    # With a stand-in for the instruction; with the instruction itself below.
    "test_pairs": [name for name in INSTRUCTION_SETS if name != "avx512"][-1:],
}
CASES = [(source, flavour) for source in SOURCES for flavour in FEWER_FLAVOURS.get(source, FLAVOURS)] + [
    *((source, "threads") for source in THREADED),
    pytest.param(
        *("test_pairs", "avx512"),
        marks=pytest.mark.skipif("avx512_bf16" not in native.processor_flags(), reason="needs AVX-512 BF16"),
    ),
]
Results = dict[tuple[str, str], Future[subprocess.CompletedProcess[str]]]


def flavour_flags(flavour: str) -> list[str]:
    """The shipped flags of an instruction set; or those of AVX2, else of the plainest, with sanitizers."""
    if flavour in INSTRUCTION_SETS:
        return [*native.openmp_flags(), *native.isa_flags()[flavour]]
    sanitized_isa = "avx2" if "avx2" in INSTRUCTION_SETS else INSTRUCTION_SETS[0]
    flags = [*native.isa_flags()[sanitized_isa], "-fno-omit-frame-pointer"]
    # Not optimised: compiling takes longer than running.
    if flavour == "threads":  # without OpenMP, whose synchronisation ThreadSanitizer does not see
        return [*flags, "-O0", "-pthread", "-fsanitize=thread"]
    return [*flags, "-O0", *native.openmp_flags(), *native.SANITIZERS]


def compile_object(name: str, flavour: str, folder: Path) -> Path:
    """Compiles a source of tests/native, or the file of the library at this path."""
    source = native.ROOT / name if "/" in name else NATIVE / f"{name}.cpp"
    level = [] if name in AS_SHIPPED else ["-O0" if name in UNOPTIMIZED else "-O1"]
    flags = [*native.common_flags(), *level, *flavour_flags(flavour), "-I", str(NATIVE)]
    return native.compile_cpp([*flags, "-c", str(source)], folder / f"{source.stem}-{flavour}.o")


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """What each program that this run needs printed; they compile and run side by side from the start."""
    folder = tmp_path_factory.mktemp("native")
    cases = [
        (case["source"], case["flavour"])
        for item in request.session.items
        if getattr(item, "module", None) is request.module
        and {"source", "flavour"} <= (case := getattr(getattr(item, "callspec", None), "params", {})).keys()
    ]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        parts = {(name, flavour) for source, flavour in cases for name in (source, *LINKED.get(source, []))}
        # The longest first; what a program waits for was begun before it.
        order = sorted(parts, key=lambda part: (part[0] not in {*SCHEDULES, "test_single_steps"}, part))
        objects = {part: pool.submit(compile_object, *part, folder) for part in order}

        def run(source: str, flavour: str) -> subprocess.CompletedProcess[str]:
            linked = [str(objects[name, flavour].result()) for name in (source, *LINKED.get(source, []))]
            program = native.compile_cpp([*flavour_flags(flavour), *linked], folder / f"{source}-{flavour}")
            return subprocess.run([str(program)], capture_output=True, text=True, timeout=native.PATIENCE, check=False)

        yield {case: pool.submit(run, *case) for case in cases}


@pytest.mark.parametrize(("source", "flavour"), CASES)
def test_native_program_reports_no_failure(source: str, flavour: str, results: Results) -> None:
    result = results[source, flavour].result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.rstrip().endswith(" checks, 0 failed")


def test_every_native_source_is_listed() -> None:
    assert set(SOURCES) >= {
        "test_cells",
        "test_diagonal",
        "test_matrix_product",
        "test_not_finite",
        "test_pairs",
        "test_plain_recurrence",
        "test_rows",
        "test_sharing",
        "test_single_steps",
        "test_storage",
        "test_stream_stages",
        "test_sweep",
        "test_team",
        "test_vec_math",
        "test_weight_gradients",
        "test_workspace",
    }
    assert {path.stem for path in NATIVE.glob("*.cpp")} == {*SOURCES, *SCHEDULES}
    assert LINKED.keys() | AS_SHIPPED <= set(SOURCES)
