"""Compiles C++ sources for the tests with the very flags of setup.py."""

from __future__ import annotations

import ast
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 3600  # seconds that a program of a test may take: only what hangs takes them, however busy the machine is
# Without the checks of pointers that compiling spends half of its time on, of which AddressSanitizer sees what matters.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=null,object-size,pointer-overflow,vptr"]
SANITIZERS += ["-fno-sanitize-recover=all"]


@cache
def settings() -> dict[str, object]:
    """The constants of setup.py, which cannot be imported: importing it runs it."""
    constants: dict[str, object] = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
            if isinstance(target, ast.Name):
                constants[target.id] = constants[target.id] + value if isinstance(node, ast.AugAssign) else value
    return constants


def common_flags() -> list[str]:
    """The flags of every source of the extension module, warnings being errors where the build says so."""
    flags = settings()["COMMON_FLAGS"]
    assert isinstance(flags, list)
    return [*flags, "-I", str(ROOT / "csrc"), *(["-Werror"] if os.environ.get("FUSED_RNN_WERROR") == "1" else [])]


def isa_flags() -> dict[str, list[str]]:
    """The flags of each instruction set that the compiler's machine has at all."""
    flags = settings()["ISA_FLAGS"]
    assert isinstance(flags, dict)
    return dict(flags) if platform.machine() in {"x86_64", "AMD64"} else {"baseline": flags["baseline"]}


def processor_flags() -> set[str]:
    """What Linux says that this processor has."""
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def runnable_instruction_sets() -> list[str]:
    """Those of `isa_flags` that this processor can run."""
    present = processor_flags()
    needed = {
        "baseline": set(),
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    }
    return [name for name in isa_flags() if needed[name] <= present]


@cache
def compiler() -> list[str]:
    """The compiler that setup.py would choose."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = next((words for words in map(shlex.split, names) if shutil.which(words[0])), None)
    assert found is not None, f"no C++ compiler found (looked for {', '.join(names)})"
    return found


def openmp_flags() -> list[str]:
    """-fopenmp where the compiler has it."""
    command = [*compiler(), "-fopenmp", "-x", "c++", "-fsyntax-only", "-"]
    probe = subprocess.run(command, input="#include <omp.h>\n", capture_output=True, text=True, check=False)
    return ["-fopenmp"] if probe.returncode == 0 else []


def compile_cpp(arguments: list[str], output: Path) -> Path:
    """Runs the compiler; its messages are the failure's message."""
    command = [*compiler(), *arguments, "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr[-8000:]}"
    return output
