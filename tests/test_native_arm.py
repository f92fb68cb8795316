"""Compiles some of the C++ tests for AArch64 and runs them under qemu: the quick ones that know its instructions.

`python -m tools.check_arm` runs all of them, and the library as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.test_native import SOURCES
from tools import check_arm

if TYPE_CHECKING:
    from pathlib import Path

MISSING = check_arm.missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
PROGRAMS = ["test_quantized", "test_storage", "test_pairs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the objects and programs."""
    return tmp_path_factory.mktemp("arm")


@pytest.mark.parametrize("name", PROGRAMS)
def test_native_program_reports_no_failure_with_or_without_the_instructions(name: str, folder: Path) -> None:
    program = check_arm.compile_program(name, folder, quickly=True)
    for processor in check_arm.PROCESSORS:
        check_arm.run_program(program, processor)


def test_programs_are_those_of_test_native() -> None:
    assert set(PROGRAMS) <= set(SOURCES)
