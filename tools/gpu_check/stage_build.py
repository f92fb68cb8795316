"""Stage build: the module with CUDA kernels for the GPU that is here and no other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from build_support.toolchain import ROOT

from . import machine

if TYPE_CHECKING:
    from .worker import Work


def run(work: Work) -> int:
    """Compile; the compiler's messages are the log."""
    capability = machine.ask_torch()["capability"]
    architecture = machine.architecture((capability[0], capability[1]))
    environment = {**os.environ, "FUSED_RNN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    seconds = time.monotonic() - started
    status = "ok" if done.returncode == 0 else "failed"
    work.record(status=status, architecture=architecture, seconds=seconds)
    if done.returncode == 0:
        show = "import fused_rnn; print(*(f'{k}: {v}' for k, v in fused_rnn.build_info().items()), sep='; ')"
        info = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=False)
        print(info.stderr, end="")
        work.record(status="ok" if info.returncode == 0 else "failed", build_info=info.stdout.strip())
    return done.returncode
