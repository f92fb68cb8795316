"""Stage tests: the repository's own tests of the CPU kernels on this machine's processor, and short CPU benchmarks.

Tests and the first benchmark run on four threads, the second one on all cores."""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from build_support.native import processor_flags

from .stages import FOLDER, run_logged

if TYPE_CHECKING:
    from .worker import Work

TESTS = ("tests/test_ops.py", "tests/test_parity.py")
TIMED = (
    "lstm:t100,b1,i64,h64,f32,infer",
    "lstm:t100,b16,i256,h256,f32,train",
    "gru:t100,b16,i256,h256,f32,train",
    "lstm:t100,b16,i1024,h1024,f32,infer",
)
_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def plan(part: str) -> tuple[list[str], dict[str, str], str]:
    """The command of a part, its environment, and why it cannot run or ''."""
    module = [sys.executable, "-m"]
    environment = {"OMP_NUM_THREADS": str(os.cpu_count() or 1) if part == "cpu_cores" else "4"}
    if part in {"cpu_bench", "cpu_cores"}:
        needed = ("click", "rich", "matplotlib")
        command = [*module, "bench", "run", *TIMED, "--seconds", "1"]
    else:
        needed = ("pytest", "numpy", "hypothesis")
        command = [*module, "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS]
        environment |= {"FUSED_RNN_CPU_ISA": "avx512"} if part == "avx512" else {}
    lacking = [name for name in needed if find_spec(name) is None]
    reason = f"needs {', '.join(lacking)}" if lacking else ""
    if part == "avx512" and not processor_flags() >= _AVX512:
        reason = "the processor has no AVX-512"
    return command, environment, reason


def run(work: Work) -> int:
    """Record the end of the output."""
    command, environment, reason = plan(work.part)
    if reason:
        work.record(case=work.part, status="skipped", reason=reason)
        return 0
    started = time.monotonic()
    variables = {**os.environ, **environment}
    code, text = run_logged(command, FOLDER / f"{work.part}.log", work.left, variables)
    # Slow: all that ran passed, since the first failure ends it.
    status = {0: "ok", None: "slow"}.get(code, "failed")
    print(text[-4000:])
    lines = text.strip().splitlines()
    shown = lines[-40:] if work.part.startswith("cpu_") else lines[-12 if status == "failed" else -1 :]
    work.record(case=work.part, status=status, seconds=time.monotonic() - started, output=shown)
    return int(status == "failed")
