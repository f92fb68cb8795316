"""Clang, from version 14 on, compiles what the build's compiler does. Only its reading is tested, which is quick."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from build_support import native
from build_support.ninja import glob

pytestmark = pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++")

WIDEST = list(native.isa_flags())[-1]
# The units hold all headers of csrc/cpu and csrc/stream, and these programs most of those of the tests.
SOURCES = [*glob(f"csrc/cpu/isa/{WIDEST}/*.cpp"), f"csrc/stream/isa/{WIDEST}.cpp"]
SOURCES += [f"tests/native/test_{name}.cpp" for name in ("not_finite", "single_steps", "rows")]


@pytest.mark.parametrize("source", SOURCES)
def test_clang_reads_a_source_without_a_warning(source: str) -> None:
    flags = [*native.common_flags(), *native.isa_flags()[WIDEST], "-Werror", "-I", str(native.ROOT / "tests/native")]
    command = ["clang++", *flags, "-fsyntax-only", str(native.ROOT / source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
