"""Builds the C library with its tests and examples by CMake, once for all processes of a test run."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from build_support import native


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The result of a command that succeeds; its messages are the failure's message."""
    words = list(map(str, command))
    result = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert result.returncode == 0, f"{words}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result


def compiler_option() -> str:
    """CMake's word for the compiler of the extension module."""
    return f"-DCMAKE_CXX_COMPILER={shutil.which(native.compiler()[0])}"


# Compiled in a fifth of the time. The other units are as they are shipped, and have its templates and its bits.
UNOPTIMIZED = "baseline" if native.runnable_instruction_sets()[-1] != "baseline" else ""


def build(folder: Path) -> Path:
    """The folder of the build, which the first of several processes makes."""
    folder.mkdir(exist_ok=True)
    with Path(folder, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Path(folder, "done").exists():
            jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
            options = [compiler_option(), "-DFUSED_RNN_WERROR=ON", f"-DFUSED_RNN_UNOPTIMIZED_UNITS={UNOPTIMIZED}"]
            run("cmake", "-S", native.ROOT, "-B", folder, *options)
            run("cmake", "--build", folder, "--parallel", jobs)
            Path(folder, "done").touch()
    return folder
