"""Builds and runs the torch-free C++ tests of tests/native for every instruction set here, and under sanitizers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_support import native

NATIVE = native.ROOT / "tests" / "native"
SOURCES = sorted(path.stem for path in NATIVE.glob("test_*.cpp"))
TEAM = "csrc/cpu/runtime/team.cpp"
# What a program is linked with, compiled once for all: parts of the library, and the schedules that the programs run.
LINKED = {
    "test_diagonal": ["diagonals", TEAM],
    "test_not_finite": ["sweeps", "pairs", "rows", TEAM],
    "test_pairs": ["pairs", TEAM],
    "test_rows": ["rows", "sweeps", TEAM],
    "test_sharing": ["sweeps", "rows", TEAM],
    "test_single_steps": [TEAM],
    "test_sweep": ["sweeps", TEAM],
    "test_stream_stages": ["csrc/stream/stage.cpp"],
    "test_team": [TEAM],
    "test_weight_gradients": ["csrc/cpu/schedules/weight_gradients.cpp", TEAM],
    "test_workspace": ["sweeps", TEAM, "csrc/cpu/runtime/workspace.cpp"],
}
SCHEDULES = {"sweeps", "pairs", "rows", "diagonals"}
# What the programs themselves have of the library is more than an oracle that calls schedules.
AS_SHIPPED = {
    "test_cells",
    "test_pairs",
    "test_quantized",
    "test_single_steps",
    "test_storage",
    "test_stream_stages",
    "test_vec_math",
    "test_workspace",
}
INSTRUCTION_SETS = native.runnable_instruction_sets()
FLAVOURS = [*INSTRUCTION_SETS, "sanitized"]
THREADED = [
    "test_diagonal",
    "test_sharing",
    "test_team",
    "test_weight_gradients",
]  # what these share is watched by ThreadSanitizer too
# What takes long to compile runs on the widest set, and sanitized where it is the only one to run its code;
# tests/test_parity.py runs the library's own on each set.
FEWER_FLAVOURS = {
    "test_diagonal": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_plain_recurrence": INSTRUCTION_SETS[-1:],
    "test_rows": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_single_steps": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_sharing": INSTRUCTION_SETS[-1:],
    "test_stream_stages": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_sweep": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_weight_gradients": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_workspace": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_not_finite": INSTRUCTION_SETS[-1:],
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
Build = Callable[[str, str], Path]


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
    optimised = name in SCHEDULES or name in AS_SHIPPED or "/" in name or flavour not in INSTRUCTION_SETS
    flags = [*native.common_flags(), *flavour_flags(flavour), "-I", str(NATIVE), *([] if optimised else ["-O1"])]
    return native.compile_cpp([*flags, "-c", str(source)], folder / f"{source.stem}-{flavour}.o")


@pytest.fixture(scope="module")
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Gives the program of a case; all objects that this run needs compile side by side from the start."""
    folder = tmp_path_factory.mktemp("native")
    cases = [
        (case["source"], case["flavour"])
        for item in request.session.items
        if getattr(item, "module", None) is request.module
        and {"source", "flavour"} <= (case := getattr(getattr(item, "callspec", None), "params", {})).keys()
    ]
    parts = {(name, flavour): None for source, flavour in cases for name in (source, *LINKED.get(source, []))}
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        # The longest first.
        order = sorted(parts, key=lambda part: part[0] not in SCHEDULES)
        objects = {part: pool.submit(compile_object, *part, folder) for part in order}

        def link(source: str, flavour: str) -> Path:
            names = [source, *LINKED.get(source, [])]
            linked = [str(objects[name, flavour].result()) for name in names]
            return native.compile_cpp([*flavour_flags(flavour), *linked], folder / f"{source}-{flavour}")

        yield link


@pytest.mark.parametrize(("source", "flavour"), CASES)
def test_native_program_reports_no_failure(source: str, flavour: str, build: Build) -> None:
    result = subprocess.run(
        [str(build(source, flavour))], capture_output=True, text=True, timeout=native.PATIENCE, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.rstrip().endswith(" checks, 0 failed")


def test_every_native_source_is_listed() -> None:
    assert set(SOURCES) >= {
        "test_cells",
        "test_diagonal",
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
