"""Python in a process of its own that has imported torch already: forked from one that did nothing else.

A new interpreter takes 2 seconds to import torch, and most tests that need another process (since an instruction set is
chosen once in each) have nothing to say about that. What an environment tells torch or its libraries at import is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from build_support import native

if TYPE_CHECKING:
    from collections.abc import Sequence

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch"])


def _work(words: Sequence[str], folder: str, environment: dict[str, str], outputs: Sequence[str]) -> None:
    """What the process does in place of the interpreter."""
    assert "fused_rnn" not in sys.modules
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for target, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), target)
    sys.path[:0] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [words[0], *words[2:]] if words[0] == "-c" else list(words[words[0] == "-m" :])
    if words[0] == "-c":
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 # as `python -c`
    elif words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def python(*words: str, cwd: Path = native.ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `python` with these words does: `-c`, `-m` or a file, and arguments."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        for path in outputs:
            path.touch()
        given = (words, str(cwd), {**os.environ, **environment}, list(map(str, outputs)))
        process = _SERVER.Process(target=_work, args=given)
        process.start()
        process.join(native.PATIENCE)
        process.kill()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(words, process.exitcode, *(path.read_text() for path in outputs))
