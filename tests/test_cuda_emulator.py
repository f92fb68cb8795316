"""Builds and runs the tests of the CUDA emulator, in which kernels will run where there is no GPU."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests import native_build

if TYPE_CHECKING:
    from pathlib import Path

EMULATOR = native_build.ROOT / "tests" / "cuda_on_cpu"
DEVICE = '-DFUSED_RNN_EMULATED_DEVICE="emulated_device.h"'


def test_the_emulator_runs_right_kernels_and_catches_wrong_ones(tmp_path: Path) -> None:
    folders = ["-I", str(EMULATOR), "-I", str(EMULATOR.parent / "native")]
    sources = [str(EMULATOR / "test_emulator.cpp"), str(EMULATOR / "emulator.cpp")]
    program = native_build.compile_cpp(
        [*native_build.common_flags(), "-O1", *folders, DEVICE, *sources], tmp_path / "test_emulator"
    )
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.rstrip().endswith(" checks, 0 failed")
