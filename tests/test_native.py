"""Builds and runs the torch-free C++ tests of tests/native for every instruction set here, and under sanitizers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from build_support import native

NATIVE = native.ROOT / "tests" / "native"
SOURCES = sorted(path.stem for path in NATIVE.glob("test_*.cpp"))
# Parts of the library that are not headers, for the tests that need them.
USING_TEAMS = (
    *(
        "test_not_finite",
        "test_pairs",
        "test_rows",
        "test_sharing",
        "test_single_steps",
        "test_sweep",
        "test_team",
        "test_workspace",
    ),
)
LINKED = {source: ["csrc/cpu/runtime/team.cpp"] for source in USING_TEAMS}
LINKED["test_workspace"].append("csrc/cpu/runtime/workspace.cpp")
INSTRUCTION_SETS = native.runnable_instruction_sets()
FLAVOURS = [*INSTRUCTION_SETS, "sanitized"]
THREADED = ["test_sharing", "test_team"]  # what these share is watched by ThreadSanitizer too
# What takes a minute to compile runs on the widest set, and sanitized where it is the only one to run its code;
# tests/test_parity.py runs the library's own on each set.
FEWER_FLAVOURS = {
    "test_plain_recurrence": INSTRUCTION_SETS[-1:],
    "test_rows": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_single_steps": [INSTRUCTION_SETS[-1], "sanitized"],
    "test_sharing": INSTRUCTION_SETS[-1:],
    "test_sweep": [INSTRUCTION_SETS[-1], "sanitized"],
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
    """The shipped flags of an instruction set; or those of AVX2, else baseline, with sanitizers."""
    if flavour in INSTRUCTION_SETS:
        return [*native.openmp_flags(), *native.isa_flags()[flavour]]
    sanitized_isa = "avx2" if "avx2" in INSTRUCTION_SETS else "baseline"
    flags = [*native.isa_flags()[sanitized_isa], "-fno-omit-frame-pointer"]
    if flavour == "threads":  # without OpenMP, whose synchronisation ThreadSanitizer does not see
        return [*flags, "-O1", "-pthread", "-fsanitize=thread"]
    # Not optimised: compiling takes longer than running.
    return [*flags, "-O0", *native.openmp_flags(), *native.SANITIZERS]


def build_program(source: str, flavour: str, folder: Path) -> Path:
    """Compiles one test program."""
    sources = [str(NATIVE / f"{source}.cpp"), *(str(native.ROOT / name) for name in LINKED.get(source, []))]
    flags = [*native.common_flags(), *flavour_flags(flavour), "-I", str(NATIVE)]
    return native.compile_cpp([*flags, *sources], folder / f"{source}-{flavour}")


@pytest.fixture(scope="module")
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Gives the program of a case; all programs that this run needs compile side by side from the start."""
    folder = tmp_path_factory.mktemp("native")
    futures: dict[tuple[str, str], Future[Path]] = {}
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        for item in request.session.items:
            case = getattr(getattr(item, "callspec", None), "params", {})
            if getattr(item, "module", None) is request.module and {"source", "flavour"} <= case.keys():
                key = (case["source"], case["flavour"])
                futures[key] = pool.submit(build_program, *key, folder)
        yield lambda source, flavour: futures[source, flavour].result()


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
        "test_not_finite",
        "test_pairs",
        "test_plain_recurrence",
        "test_rows",
        "test_sharing",
        "test_single_steps",
        "test_storage",
        "test_sweep",
        "test_team",
        "test_vec_math",
        "test_workspace",
    }
    assert {path.stem for path in NATIVE.glob("*.cpp")} == set(SOURCES)
