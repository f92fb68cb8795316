"""Stage micro: compiles the programs of tools/micro for this GPU, all at once, and runs them one after another."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from build_support.toolchain import ROOT

from . import machine
from .records import parse_lines
from .stages import FOLDER, run_logged

if TYPE_CHECKING:
    from pathlib import Path

    from .worker import Work

SOURCES = ROOT / "tools" / "micro"
FLAGS = ("-std=c++20", "-O3", "-I", str(ROOT / "csrc"), "-Xcompiler", "-Wall,-Wextra", "-Werror", "all-warnings")


def compile_command(nvcc: str, source: Path, output: Path, *architectures: str) -> list[str]:
    """How a micro program is compiled."""
    targets = [word for name in architectures for word in ("-gencode", machine.nvcc_target(name))]
    return [nvcc, *FLAGS, *targets, str(source), "-o", str(output)]


def run(work: Work) -> int:
    """Record each line of each program."""
    nvcc = machine.find_program("nvcc")
    if nvcc is None:
        work.record(status="skipped", reason="nvcc is not there")
        return 0
    capability = machine.ask_torch()["capability"]
    architecture = machine.architecture((capability[0], capability[1]))
    folder = FOLDER / "micro"
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
        program = folder / source.stem
        command = compile_command(nvcc, source, program, architecture)
        return program, subprocess.run(command, capture_output=True, text=True, check=False)

    failed = 0
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(compile_one, sorted(SOURCES.glob("*.cu"))))
    for program, result in compiled:
        if result.returncode != 0:
            print(result.stderr)
            work.record(micro=program.name, status="failed", error="does not compile")
            failed = 1
            continue
        code, text = run_logged([str(program)], program.with_suffix(".log"), min(15.0, work.left))
        print(text, end="")
        if code not in {0, 1}:  # 1: an error, in a line of its own
            how = "did not end in time" if code is None else f"ended with {code}"
            work.record(micro=program.name, status="failed", error=how)
        for line in parse_lines(text):
            bad = "error" in line or line.get("verified") is False
            work.record(**line, status="failed" if bad else "skipped" if "skipped" in line else "ok")
            failed |= bad
        failed |= code != 0
    return failed
