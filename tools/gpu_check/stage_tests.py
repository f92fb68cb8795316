"""Stage tests: the repository's own tests of GPU and CPU kernels, a short CPU benchmark, and two processes on two GPUs.

All on four threads, since they run beside each other."""

from __future__ import annotations

import os
import re
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from build_support.native import processor_flags

from . import machine
from .stages import FOLDER, run_logged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .worker import Work

TESTS = ("tests/test_ops.py", "tests/test_parity.py")
TIMED = (
    "lstm:t100,b1,i64,h64,f32,infer",
    "lstm:t100,b16,i256,h256,f32,train",
    "gru:t100,b16,i256,h256,f32,train",
    "lstm:t100,b16,i1024,h1024,f32,infer",
)
_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


BENCHMARK_NEEDS = ("click", "rich", "matplotlib")
_TESTS_NEED = ("pytest", "numpy", "hypothesis")


def lacking(packages: Iterable[str]) -> str:
    """What is not installed of them, as a reason; empty: nothing."""
    names = [name for name in packages if find_spec(name) is None]
    return f"needs {', '.join(names)}" if names else ""


def plan(part: str) -> tuple[list[str], dict[str, str], str]:
    """The command of a part, its environment, and why it cannot run or ''."""
    module = [sys.executable, "-m"]
    environment = {"OMP_NUM_THREADS": "4"}
    if part == "cpu_bench":
        return [*module, "bench", "run", *TIMED, "--seconds", "1"], environment, lacking(BENCHMARK_NEEDS)
    pytest = [*module, "pytest", "-q", "-p", "no:cacheprovider"]
    reason = lacking(_TESTS_NEED)
    if part == "cuda":  # all failures, each in a line; nvcc takes longer than there is for cells of one's own
        return [*pytest, "--tb=line", "tests/test_cuda.py", "-k", "not own_cells"], environment, reason
    tests = [*pytest, "-x"]
    if part == "nccl":
        reason = reason if int(machine.ask_torch().get("gpus", 0)) > 1 else "needs two GPUs"
        return [*tests, "tests/test_distributed.py", "-k", "nccl"], environment, reason
    if part == "avx512":
        environment |= {"FUSED_RNN_CPU_ISA": "avx512"}
        reason = reason if processor_flags() >= _AVX512 else "the processor has no AVX-512"
    return [*tests, *TESTS], environment, reason


def run(work: Work) -> int:
    """Record the end of the output."""
    command, environment, reason = plan(work.part)
    if reason:
        work.record(case=work.part, status="skipped", reason=reason)
        return 0
    started = time.monotonic()
    variables = {**os.environ, **environment}
    code, text = run_logged(command, FOLDER / f"{work.part}.log", work.left, variables)
    # Slow: all that ran passed. The first failure ends it, or is an F among pytest's dots.
    stopped = "failed" if re.search(r"^[.sx]*[FE]", text, re.MULTILINE) else "slow"
    status = {0: "ok", None: stopped}.get(code, "failed")
    print(text[-4000:])
    lines = text.strip().splitlines()
    shown = lines[-40:] if work.part in {"cpu_bench", "cuda"} else lines[-12 if status == "failed" else -1 :]
    work.record(case=work.part, status=status, seconds=time.monotonic() - started, output=shown)
    return int(status == "failed")
