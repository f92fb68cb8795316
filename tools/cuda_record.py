"""Says whether the CUDA kernels of this checkout were compiled and examined before, so that CI need not do it again.

Usage: python -m tools.cuda_record [--write]

tests/cuda_kernels.json names the text that kernels were compiled from, by its digest, and the compiler. Where both are
those at hand the exit code is 0; then a compilation would give the same kernels. --write makes the record. It needs a
build with kernels for TARGET, and runs tests/test_cuda_build.py, which examines them.

The record also names cells written in Python, by the digest of their C++, and the programs of tools/micro. Where it is
of these too, tests/test_cuda_cells.py and tests/test_gpu_check_problems.py do not compile them again; --write has them
compiled (5 minutes of a core).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from build_support import cuda, toolchain
from tools import ptxas_report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROOT = toolchain.ROOT
RECORD = ROOT / "tests" / "cuda_kernels.json"
TARGET = "sm_90a"  # every kernel is compiled for it; for GPUs before it some are left out
# Beside what is common, the folders that a build with CUDA compiles in another way than one without.
FOLDERS = ("build_support", "csrc/binding", "csrc/cells", "csrc/core", "csrc/cuda", "csrc/python")
MICRO = ("tools/micro",)


def text_digest(root: Path = ROOT, folders: Sequence[str] = FOLDERS) -> str:
    """Of all files below the folders, which have the flags, too, with their names."""
    digest = hashlib.sha256()
    files = (path for folder in folders for path in (root / folder).rglob("*"))
    for path in sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def compiler() -> str:
    """What `nvcc --version` says of itself, or that there is none."""
    nvcc = cuda.find_nvcc(os.environ)
    found = re.search(r"release .*", cuda.run([nvcc, "--version"]).stdout) if nvcc else None
    return found[0] if found else "no nvcc"


def here() -> dict[str, str]:
    """The record that this checkout would have."""
    return {"nvcc": compiler(), "target": TARGET, "text": text_digest()}


def own_cells() -> str:
    """The digest of the headers that own cells become, and of what compiles them; it needs a build, unlike `here`."""
    from fused_rnn import SLSTM
    from fused_rnn.cells import source_of
    from tests.own_cells import Everything, OwnElman, OwnGRU, OwnLSTM

    digest = hashlib.sha256((ROOT / "fused_rnn" / "_cuda_cells.py").read_bytes())
    for cell in (OwnLSTM(), OwnGRU(), OwnElman(), Everything(), SLSTM(1, 1)._definition):
        digest.update(source_of(cell).text.encode())
    return digest.hexdigest()


def _recorded(record: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    return found


def is_current(record: Path = RECORD) -> bool:
    """Whether the record is of this checkout and of the compiler at hand."""
    return here().items() <= _recorded(record).items()


def has_own_cells(record: Path = RECORD) -> bool:
    """Whether it is of the own cells of this checkout, too."""
    return is_current(record) and _recorded(record).get("own_cells") == own_cells()


def has_micro_programs(record: Path = RECORD) -> bool:
    """Whether it is of the programs of tools/micro, too."""
    return is_current(record) and _recorded(record).get("micro") == text_digest(folders=MICRO)


def why_not_examined() -> str | None:
    """What is missing of a build whose kernels the tests can examine, or what they found."""
    targets = {function.target for path in ptxas_report.logs() for function in ptxas_report.parse(path.read_text())}
    if targets != {TARGET}:
        return f"the build has kernels for {', '.join(sorted(targets)) or 'no GPU'}, not for {TARGET} alone"
    files = [f"tests/test_{name}.py" for name in ("cuda_build", "cuda_cells", "gpu_check_problems")]
    test = [sys.executable, "-m", "pytest", "-q", *files]
    done = subprocess.run(test, cwd=ROOT, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stdout[-2000:]


def main() -> int:
    """Answers by the exit code, or writes the record."""
    if sys.argv[1:] not in ([], ["--write"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not sys.argv[1:]:
        current = is_current()
        print(f"the CUDA kernels are {'those' if current else 'others than those'} of {RECORD.relative_to(ROOT)}")
        return 0 if current else 1
    if reason := why_not_examined():
        print(f"no record: {reason}", file=sys.stderr)
        return 1
    record = {**here(), "own_cells": own_cells(), "micro": text_digest(folders=MICRO)}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
