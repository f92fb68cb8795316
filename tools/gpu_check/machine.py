"""What the check runs on: the GPU, its software, and which tools and packages are missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from build_support.toolchain import ROOT

# Package or program: what goes without it.
PACKAGES = {
    "numpy": "tests",
    "pytest": "tests",
    "hypothesis": "tests",
    "expecttest": "some tests",
    "ninja": "build",
    "pybind11": "build",
    "setuptools": "build",
    "click": "the CPU benchmark",
    "rich": "the CPU benchmark",
    "matplotlib": "the CPU benchmark",
    "flashrnn": "a peer",
    "xlstm": "a peer",
}
PROGRAMS = {"nvcc": "build, micro", "compute-sanitizer": "sanitizer", "nvidia-smi": "the driver's version"}

# In a process of its own, so that the check itself holds no memory of the GPU.
_ASK_TORCH = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda}
try:
    found["available"] = torch.cuda.is_available()
    if found["available"]:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name, "capability": list(torch.cuda.get_device_capability(0)),
            "multiprocessors": properties.multi_processor_count, "memory": properties.total_memory,
            "cudnn": torch.backends.cudnn.version(), "gpus": torch.cuda.device_count(),
        }
except Exception as error:
    found |= {"available": False, "error": str(error)}
print(json.dumps(found))
"""


def ask_torch() -> dict[str, Any]:
    """Versions of torch and CUDA, and the first GPU where there is one."""
    try:
        command = [sys.executable, "-W", "ignore", "-c", _ASK_TORCH]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return {"available": False, "error": "torch did not answer within two minutes"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"available": False, "error": f"torch does not run: {last}"}
    found = json.loads(done.stdout.splitlines()[-1])
    return found if isinstance(found, dict) else {"available": False}


def architecture(capability: tuple[int, int]) -> str:
    """The name for TORCH_CUDA_ARCH_LIST; Hopper has instructions of its own, which need the suffix."""
    major, minor = capability
    return f"{major}.{minor}" + "a" * (major == 9)


def nvcc_target(architecture_name: str) -> str:
    """The -gencode value of an architecture such as 9.0a."""
    number = architecture_name.replace(".", "")
    return f"arch=compute_{number},code=sm_{number}"


def find_program(name: str) -> str | None:
    """A program of the CUDA toolkit, on the PATH or in the toolkit's folder."""
    homes = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    places = [str(Path(home, "bin")) for home in homes if home]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def missing() -> dict[str, str]:
    """Packages and programs that are not there, and what goes without them."""
    packages = {name: what for name, what in PACKAGES.items() if find_spec(name) is None}
    return packages | {name: what for name, what in PROGRAMS.items() if find_program(name) is None}


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """The commit of the checkout, with `-dirty` for local changes."""
    head = _output("git", "rev-parse", "--short=12", "HEAD")
    if not head:
        return "not a checkout"
    return head + "-dirty" * bool(_output("git", "status", "--porcelain", "--untracked-files=no"))


def describe(torch_says: dict[str, Any]) -> dict[str, Any]:
    """The environment, for the report."""
    smi, nvcc = find_program("nvidia-smi"), find_program("nvcc")
    drivers = _output(smi, "--query-gpu=driver_version", "--format=csv,noheader").splitlines() if smi else []
    releases = [line for line in _output(nvcc, "--version").splitlines() if "release" in line] if nvcc else []
    return {
        **{name: value for name, value in torch_says.items() if name != "available"},
        "driver": drivers[0].strip() if drivers else "unknown",
        "nvcc": releases[0].strip() if releases else "not found",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "missing": missing(),
    }
