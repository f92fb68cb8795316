"""Writes the ninja file of the extension module and runs it.

The sources fall into groups that differ only in their compiler flags: the binding (which alone sees torch and Python),
the CPU dispatch, one unit per CPU instruction set, and the CUDA kernels, which nvcc compiles. A new backend is one more
group in `source_groups`.

Environment: MAX_JOBS (parallel compilations); further toolchain.py and cuda.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from build_support.cuda import Cuda, compiler_flags, decision, find_cuda, host_flags
from build_support.toolchain import (
    COMMON_FLAGS,
    ISA_FLAGS,
    MIN_TORCH,
    ROOT,
    Toolchain,
    fail,
    find_ninja,
    find_pybind11,
    find_python_headers,
    find_toolchain,
    find_torch,
    werror_flags,
)

TORCH_TARGET_VERSION = f"0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"
NVCC_FLAGS = ["-std=c++20", "-O3"]  # those of COMMON_FLAGS that are nvcc's own, too


@dataclass(frozen=True)
class SourceGroup:
    """Sources (relative to the repository) compiled with the same flags, by a rule of the ninja file."""

    sources: list[str]
    flags: list[str]
    rule: str = "compile"


def glob(pattern: str) -> list[str]:
    """Files of the checkout, relative to it."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def source_groups(toolchain: Toolchain, cuda: Cuda | str, torch: Path, version: str) -> list[SourceGroup]:
    """What is compiled, and how each part differs from the rest."""
    # pybind11 comes before torch, which carries a copy of its own. -isystem: warnings of foreign headers are not ours.
    foreign = [find_pybind11(), *find_python_headers(), torch / "include", torch / "include/torch/csrc/api/include"]
    built = str(cuda) if isinstance(cuda, Cuda) else f"not built: {cuda}"
    binding = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f'-DFUSED_RNN_VERSION="{version}"']
    binding += [f"-DFUSED_RNN_CUDA_BUILD={json.dumps(built)}"]
    # With these a cell of a user is compiled when it is first used.
    cell_flags = {"common": COMMON_FLAGS, **{name: ISA_FLAGS[name] for name in toolchain.instruction_sets}}
    binding += [f"-DFUSED_RNN_CELL_FLAGS={json.dumps(json.dumps(cell_flags))}"]
    binding += [flag for folder in foreign for flag in ("-isystem", str(folder))]
    binding_sources, host = glob("csrc/binding/*.cpp"), []
    units = [SourceGroup([f"csrc/cpu/isa/{name}.cpp"], ISA_FLAGS[name]) for name in toolchain.instruction_sets]
    if isinstance(cuda, Cuda):
        # Not for csrc/cpu, which need not be compiled again where only this changes.
        host = ["-DFUSED_RNN_CUDA"]
        units.append(SourceGroup(glob("csrc/cuda/**/*.cu"), [], "compile_cuda"))
    else:
        binding_sources = [name for name in binding_sources if not Path(name).name.startswith("cuda_")]
    return [
        SourceGroup(binding_sources, [*host, *binding]),
        SourceGroup([name for name in glob("csrc/cpu/**/*.cpp") if "/isa/" not in name], []),
        SourceGroup(glob("csrc/cuda/*.cpp"), host),
        *units,
    ]


def link_flags(toolchain: Toolchain, cuda: Cuda | str, torch: Path) -> list[str]:
    """libtorch brings all of torch's libraries; no rpath, since importing torch loads them before this module."""
    if sys.platform == "darwin":
        return ["-bundle", "-undefined", "dynamic_lookup", *toolchain.openmp_link]
    cuda_runtime = [cuda.runtime, "-ldl", "-lrt", "-lpthread"] if isinstance(cuda, Cuda) else []
    torch_library = [f"-L{torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]
    return ["-shared", *torch_library, *toolchain.openmp_link, *cuda_runtime]


def cuda_rule(toolchain: Toolchain, cuda: Cuda) -> list[str]:
    """The rule for kernels. What ptxas says of each (registers, spills) stays beside the object, as its log."""
    flags = ["-I", str(ROOT / "csrc"), "-Xptxas", "-v", *(flag for target in cuda.targets for flag in target.flags)]
    for flag in COMMON_FLAGS:
        flags += [flag] if flag in NVCC_FLAGS else host_flags([flag])
    if werror := werror_flags():
        flags += ["-Werror", "all-warnings", *host_flags(werror)]
    command = ninja_words([cuda.nvcc, *compiler_flags(toolchain.compiler), *flags])
    return [
        "rule compile_cuda",
        f"  command = {command} -MD -MF $out.d -c $in -o $out > $out.log 2>&1 || {{ cat $out.log; exit 1; }}",
        "  depfile = $out.d",
        "  deps = gcc",
    ]


def ninja_path(path: Path) -> str:
    """A path as ninja reads it."""
    return re.sub(r"([$ :])", r"$\1", str(path))


def ninja_words(words: list[str]) -> str:
    """Words of a command as ninja reads them."""
    return shlex.join(words).replace("$", "$$")


def common_flags(toolchain: Toolchain) -> list[str]:
    """Of all C++ sources."""
    flags = [*COMMON_FLAGS, *werror_flags(), *toolchain.openmp_compile, "-I", str(ROOT / "csrc")]
    return flags + [f"-DFUSED_RNN_HAVE_{name.upper()}" for name in toolchain.instruction_sets if name != "baseline"]


def write_ninja_file(module: Path, toolchain: Toolchain, cuda: Cuda | str, torch: Path, version: str) -> Path:
    """Writes build.ninja beside the `module` it makes; ninja tracks headers by depfiles and flags by its own log."""
    folder = module.parent
    compiler = ninja_words(toolchain.compiler)
    lines = [
        f"builddir = {ninja_path(folder)}",
        "rule compile",
        f"  command = {compiler} {ninja_words(common_flags(toolchain))} $flags -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} $in {ninja_words(link_flags(toolchain, cuda, torch))} -o $out",
        *(cuda_rule(toolchain, cuda) if isinstance(cuda, Cuda) else []),
    ]
    objects = []
    for group in source_groups(toolchain, cuda, torch, version):
        for source in group.sources:
            objects.append(ninja_path((folder / source).with_suffix(".o")))
            lines += [f"build {objects[-1]}: {group.rule} {ninja_path(ROOT / source)}"]
            lines += [f"  flags = {ninja_words(group.flags)}", f"  description = compile {source}"]
    lines += [f"build {ninja_path(module)}: link {' '.join(objects)}", f"  description = link {module.name}"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "build.ninja"
    file.write_text("\n".join(lines) + "\n")
    return file


def expected_time(toolchain: Toolchain, cuda: Cuda | str) -> str:
    """How long compiling everything takes at most: minutes of one core of a server of 2021, by kind of source."""
    cores = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    of_unit, of_target, of_others = 4.5, 6.0, 1.5
    units = of_unit * len(toolchain.instruction_sets)
    kernels = of_target * len(cuda.targets) if isinstance(cuda, Cuda) else 0.0
    minutes = max((units + kernels + of_others) / cores, of_unit)
    return f"at most about {minutes:.0f} minutes on {cores} cores, less where build/native has objects already"


def build_module(name: str, version: str) -> Path:
    """The module of that file name, compiled as far as something changed.

    Its objects live in build/native, so that installs, editable or not, share them.
    """
    torch, toolchain, program = find_torch(), find_toolchain(), find_ninja()
    try:
        cuda = find_cuda(os.environ, toolchain.compiler)
    except ValueError as error:
        raise fail(str(error)) from None
    module = ROOT / f"build/native/{sys.implementation.cache_tag}-{sysconfig.get_platform()}" / name
    file = write_ninja_file(module, toolchain, cuda, torch, version)
    units, openmp = ", ".join(toolchain.instruction_sets), "on" if toolchain.openmp_compile else "off"
    print(f"fused_rnn: building with {shlex.join(toolchain.compiler)}, CPU units {units}, OpenMP {openmp}", flush=True)
    if line := decision(cuda):
        print(f"fused_rnn: {line}", flush=True)
    print(f"fused_rnn: {expected_time(toolchain, cuda)}", flush=True)
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    if subprocess.run([program, "-f", str(file), *jobs], cwd=ROOT, check=False).returncode != 0:
        raise fail("the native module did not compile; the compiler's messages are above.")
    return module
