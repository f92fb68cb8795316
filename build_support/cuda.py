"""What the build has to know of CUDA: whether the kernels are built, with which nvcc, and for which GPUs.

Environment: FUSED_RNN_CUDA=auto|visible|0|1, CUDA_HOME (the toolkit, else the nvcc in PATH), TORCH_CUDA_ARCH_LIST (such
as "8.0 9.0a 12.0+PTX"). auto, the default, builds where nvcc is found and torch is built with CUDA, for all common GPUs
whatever the machine has, as torch's own extensions do. visible, which the Makefile asks for, builds for the GPUs of
this machine alone. FORCE_CUDA=1 is another spelling of 1. Named architectures are built in any case but 0. What the
user got wrong is a ValueError that says it in one sentence.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# 8.6 and 8.9 run the code of 8.0, 10.3 that of 10.0, 12.1 that of 12.0; 9.0a has what only Hopper has.
DEFAULT_TARGETS = ["8.0", "9.0a", "10.0", "12.0"]
OLDEST_TARGET = (8, 0)  # the first that multiplies bfloat16 and TF32 matrices
UNWANTED = "FUSED_RNN_CUDA=0"
NO_GPU = "no GPU is visible"
NO_CUDA_IN_TORCH = "torch is built for CPUs alone"
RUNTIME = "libcudart_static.a"  # looks for the driver when it is first called, so the module loads without one


@dataclass(frozen=True)
class Target:
    """A GPU architecture such as 9.0a: machine code for it and, where `ptx`, the text that newer GPUs compile."""

    name: str
    ptx: bool = False

    @property
    def codes(self) -> list[str]:
        """nvcc's words for what is built: sm_90a, compute_90a."""
        digits = self.name.replace(".", "")
        return [f"sm_{digits}", *([f"compute_{digits}"] if self.ptx else [])]

    @property
    def flags(self) -> list[str]:
        """nvcc's flags that ask for them."""
        return ["-gencode", f"arch={self.codes[0].replace('sm', 'compute')},code=[{','.join(self.codes)}]"]

    def __str__(self) -> str:
        """The entry of TORCH_CUDA_ARCH_LIST."""
        return self.name + ("+PTX" if self.ptx else "")


@dataclass(frozen=True)
class Cuda:
    """The toolkit found and what it builds for."""

    nvcc: str
    version: str
    runtime: str  # the static library
    targets: list[Target]

    def __str__(self) -> str:
        """Such as "13.0 for 8.0 9.0a", whose end repeats the build as TORCH_CUDA_ARCH_LIST; build_info shows it."""
        return f"{self.version} for {' '.join(map(str, self.targets))}"


def requested(environment: Mapping[str, str]) -> str:
    """What the user wants: auto, visible, 0 or 1."""
    value = environment.get("FUSED_RNN_CUDA") or ("1" if environment.get("FORCE_CUDA") == "1" else "auto")
    if value not in {"auto", "visible", "0", "1"}:
        raise ValueError(f'FUSED_RNN_CUDA must be auto, visible, 0 or 1, got "{value}".')
    return value


def default_targets(knows: Callable[[str], bool]) -> list[Target]:
    """The default ones that this nvcc knows; the newest that is no dead end ("a") also as PTX."""
    names = [name for name in DEFAULT_TARGETS if knows(name)]
    with_ptx = next((name for name in reversed(names) if name[-1].isdigit()), None)
    return [Target(name, name == with_ptx) for name in names]


def visible_capabilities() -> list[str]:
    """Those of this machine's GPUs that the kernels can run on, such as ["9.0"]."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = run([program, "--query-gpu=compute_cap", "--format=csv,noheader"])
    found = re.findall(r"^(\d+)\.(\d+)$", listed.stdout, re.MULTILINE) if listed.returncode == 0 else []
    return sorted({f"{major}.{minor}" for major, minor in found if (int(major), int(minor)) >= OLDEST_TARGET})


def targets_of(capabilities: list[str], knows: Callable[[str], bool]) -> list[Target]:
    """A target for each: its own, such as 9.0a; for one that nvcc lacks, the newest that it knows, as PTX."""
    newest = next(target for target in default_targets(knows) if target.ptx)
    targets: dict[str, Target] = {}
    for capability in capabilities:
        name = next((one for one in DEFAULT_TARGETS if one.rstrip("af") == capability), capability)
        targets[name] = Target(name) if knows(name) else newest
    return list(dict.fromkeys(targets.values()))


def parse_targets(arch_list: str, knows: Callable[[str], bool]) -> list[Target]:
    """The targets of TORCH_CUDA_ARCH_LIST, each once; `knows` tells whether nvcc has one such as "9.0a"."""
    ptx: dict[str, bool] = {}
    for entry in re.split(r"[\s;]+", arch_list.strip(" \t;")):
        found = re.fullmatch(r"((\d+)\.(\d)[af]?)(\+PTX)?", entry)
        if found is None or not knows(found[1]):
            raise ValueError(
                f'TORCH_CUDA_ARCH_LIST has the entry "{entry}", which nvcc does not know (say "8.0 9.0a 12.0+PTX").'
            )
        if (int(found[2]), int(found[3])) < OLDEST_TARGET:
            raise ValueError(f'TORCH_CUDA_ARCH_LIST has the entry "{entry}", but the kernels need 8.0 or newer.')
        ptx[found[1]] = ptx.get(found[1], False) or found[4] is not None
    return [Target(name, with_ptx) for name, with_ptx in ptx.items()]


def compiler_flags(compiler: list[str]) -> list[str]:
    """nvcc's flags for a host compiler that may have a launcher before it and options behind it."""
    options = [word for word in compiler if word.startswith("-")]
    program = [word for word in compiler if not word.startswith("-")][-1]
    return ["-ccbin", program, *host_flags(options)]


def host_flags(flags: list[str]) -> list[str]:
    """Flags of the C++ compiler as nvcc passes them on."""
    return [word for flag in flags for word in ("-Xcompiler", flag)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """The command's result, with all that it printed in `stdout`."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def find_nvcc(environment: Mapping[str, str]) -> str | None:
    """That of CUDA_HOME, else the one in PATH."""
    in_home = Path(environment.get("CUDA_HOME") or os.devnull, "bin", "nvcc")
    return str(in_home) if os.access(in_home, os.X_OK) else shutil.which("nvcc", path=environment.get("PATH"))


def dry_run(nvcc: str, flags: list[str]) -> subprocess.CompletedProcess[str]:
    """What nvcc would do to compile a source."""
    return run([nvcc, "--dryrun", *flags, "-x", "cu", "-c", os.devnull, "-o", os.devnull])


def nvcc_knows(nvcc: str, target: str) -> bool:
    """Whether nvcc compiles for a target such as "9.0a"; it lists its architectures only without their letters."""
    return dry_run(nvcc, Target(target).flags).returncode == 0


def find_runtime(nvcc: str) -> str | None:
    """The static runtime of nvcc's own toolkit, which nvcc names itself: the one in PATH may be a script elsewhere."""
    words = dry_run(nvcc, []).stdout
    folders = [word[2:] for line in re.findall(r"LIBRARIES=(.*)", words) for word in shlex.split(line)]
    for top in re.findall(r"TOP=(.*)", words):
        folders += [f"{top.strip()}/lib64", f"{top.strip()}/lib"]
    found = (Path(folder, RUNTIME) for folder in folders)
    return next((str(path.resolve()) for path in found if path.exists()), None)


def why_unusable(nvcc: str, compiler: list[str]) -> str | None:
    """What nvcc says where it cannot compile C++20 with this compiler: it may be too old for the other."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.touch()
        command = [nvcc, "-std=c++20", *compiler_flags(compiler), "-E", str(source), "-o", str(Path(folder, "probe"))]
        result = run(command)
    if result.returncode == 0:
        return None
    errors = [line for line in result.stdout.splitlines() if "error" in line or "fatal" in line]
    detail = f" ({errors[0].strip()})" if errors else ""
    return f"{nvcc} cannot compile C++20 with {shlex.join(compiler)}{detail}"


def find_toolkit(environment: Mapping[str, str], compiler: list[str]) -> tuple[str, str] | str:
    """nvcc and the static runtime, or what is missing."""
    nvcc = find_nvcc(environment)
    if nvcc is None:
        return "nvcc not found"
    runtime = find_runtime(nvcc)
    if runtime is None:
        return f"{RUNTIME} not found in the toolkit of {nvcc}"
    return why_unusable(nvcc, compiler) or (nvcc, runtime)


def torch_has_cuda(torch: Path) -> bool:
    """Whether the torch of that folder is built with CUDA, as its version.py says."""
    return re.search(r"^cuda\b[^=\n]*= *['\"]", (torch / "version.py").read_text(), re.MULTILINE) is not None


def find_cuda(environment: Mapping[str, str], compiler: list[str], torch: Path) -> Cuda | str:
    """The toolkit to build the kernels with beside the torch of a folder, or the reason why there will be none."""
    wish = requested(environment)
    if wish == "0":
        return UNWANTED
    arch_list = environment.get("TORCH_CUDA_ARCH_LIST", "").strip(" \t;")
    by_gpus = wish == "visible" and not arch_list
    capabilities = visible_capabilities() if by_gpus else []
    if by_gpus and not capabilities:
        return NO_GPU
    if wish == "auto" and not arch_list and not torch_has_cuda(torch):
        return NO_CUDA_IN_TORCH
    found = find_toolkit(environment, compiler)
    if isinstance(found, str):
        if wish == "1":
            raise ValueError(f"CUDA kernels are wanted, but {found}: set CUDA_HOME to a toolkit, 12.0 or newer.")
        return found
    nvcc, runtime = found
    knows = partial(nvcc_knows, nvcc)
    if arch_list:
        targets = parse_targets(arch_list, knows)
    else:
        targets = targets_of(capabilities, knows) if capabilities else default_targets(knows)
    release = re.search(r"release (\S+),", run([nvcc, "--version"]).stdout)
    return Cuda(nvcc, release[1] if release else "of unknown version", runtime, targets)


def decision(cuda: Cuda | str) -> str | None:
    """The line of the set-up's output; nothing where the user has decided against CUDA."""
    if isinstance(cuda, Cuda):
        return f"CUDA {cuda}"
    if cuda == UNWANTED:
        return None
    if cuda == NO_GPU:
        return f"no CUDA kernels: {cuda} (make CUDA=1, or FUSED_RNN_CUDA=1, builds them)"
    if cuda == NO_CUDA_IN_TORCH:
        return f"no CUDA kernels: {cuda} (FUSED_RNN_CUDA=1 builds them all the same)"
    return f"no CUDA kernels: {cuda} (set CUDA_HOME, or FUSED_RNN_CUDA=0 to silence)"
