"""Writes the ninja file of the library of the operators and of the Python module beside it, and runs it.

The sources fall into groups that differ only in their compiler flags: the Python module (which alone sees Python), the
binding (which sees torch), the CPU dispatch, one unit per CPU instruction set, and the CUDA kernels, which nvcc
compiles. A new backend is one more group in `source_groups`. `python -m build_support.ninja` compiles what needs no
torch.

Environment: MAX_JOBS (parallel compilations); further toolchain.py and cuda.py.
"""

from __future__ import annotations

import json
import os
import re
import runpy
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
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
OPS_LIBRARY = f"libfused_rnn_ops{SUFFIX}"  # any program with torch's libraries may load it; the Python module needs it
# Of the sources whose functions the Python module calls. ops.map leaves it those of our namespace.
EXPORTED = ["-fvisibility=default"]
EXPORTS = ROOT / "build_support/ops.map"


@dataclass(frozen=True)
class SourceGroup:
    """Sources (relative to the repository) compiled with the same flags, by a rule of the ninja file."""

    sources: list[str]
    flags: list[str]
    rule: str = "compile"
    of_module: bool = False  # else of the operators' library


def glob(pattern: str) -> list[str]:
    """Files of the checkout, relative to it."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def cpu_groups(toolchain: Toolchain) -> list[SourceGroup]:
    """The CPU kernels and what dispatches to them, which need neither torch nor Python."""
    dispatch = [name for name in glob("csrc/cpu/**/*.cpp") if "/isa/" not in name]
    units = [SourceGroup(glob(f"csrc/cpu/isa/{name}/*.cpp"), ISA_FLAGS[name]) for name in toolchain.instruction_sets]
    return [SourceGroup(dispatch, EXPORTED), *units]


def source_groups(toolchain: Toolchain, cuda: Cuda | str, torch: Path, version: str) -> list[SourceGroup]:
    """What is compiled, and how each part differs from the rest."""
    torch_headers = [str(torch / "include"), str(torch / "include/torch/csrc/api/include")]
    built = str(cuda) if isinstance(cuda, Cuda) else f"not built: {cuda}"
    # -isystem: warnings of foreign headers are not ours.
    binding = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-DFUSED_RNN_CUDA_BUILD={json.dumps(built)}"]
    binding += [flag for folder in torch_headers for flag in ("-isystem", folder)]
    # pybind11 comes before torch, which carries a copy of its own.
    python = [flag for folder in (find_pybind11(), *find_python_headers()) for flag in ("-isystem", folder)]
    python += [*binding, f'-DFUSED_RNN_VERSION="{version}"', "-DNDEBUG"]  # pybind11 asks for the GIL at each reference
    # With these a cell of a user is compiled when it is first used.
    cell_flags = {"common": COMMON_FLAGS, **{name: ISA_FLAGS[name] for name in toolchain.instruction_sets}}
    python += [f"-DFUSED_RNN_CELL_FLAGS={json.dumps(json.dumps(cell_flags))}"]
    # A cell is compiled with the headers of a checkout, which may be newer than what was built.
    headers_mark = runpy.run_path(str(ROOT / "fused_rnn/_cell_headers.py"))["headers_mark"]()
    python += [f'-DFUSED_RNN_HEADERS_MARK="{headers_mark}"']
    binding_sources, host, kernels = glob("csrc/binding/*.cpp"), [], list[SourceGroup]()
    if isinstance(cuda, Cuda):
        # Not for csrc/cpu, which need not be compiled again where only this changes.
        host = ["-DFUSED_RNN_CUDA"]
        called = "csrc/cuda/runtime.cu"
        kernels.append(SourceGroup([name for name in glob("csrc/cuda/**/*.cu") if name != called], [], "compile_cuda"))
        kernels.append(SourceGroup([called], host_flags(EXPORTED), "compile_cuda"))
    else:
        binding_sources = [name for name in binding_sources if not Path(name).name.startswith("cuda_")]
    return [
        SourceGroup(glob("csrc/python/*.cpp"), [*host, *python], of_module=True),
        SourceGroup(binding_sources, [*host, *binding]),
        SourceGroup(glob("csrc/cuda/*.cpp"), [*host, *EXPORTED]),
        *cpu_groups(toolchain),
        *kernels,
    ]


def link_flags(toolchain: Toolchain, cuda: Cuda | str, torch: Path) -> list[str]:
    """Of the operators' library. libtorch brings all of torch's libraries; no rpath, since who loads this has torch."""
    if sys.platform == "darwin":
        named = ["-install_name", f"@rpath/{OPS_LIBRARY}"]
        return ["-dynamiclib", *named, "-undefined", "dynamic_lookup", *toolchain.openmp_link]
    cuda_runtime = [cuda.runtime, "-ldl", "-lrt", "-lpthread"] if isinstance(cuda, Cuda) else []
    torch_library = [f"-L{torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"]
    named = [f"-Wl,-soname,{OPS_LIBRARY}", f"-Wl,--version-script={EXPORTS}"]
    return ["-shared", *named, *torch_library, *toolchain.openmp_link, *cuda_runtime]


def module_link_flags(torch: Path) -> list[str]:
    """Of the Python module, which finds the operators' library beside itself."""
    if sys.platform == "darwin":
        return ["-bundle", "-undefined", "dynamic_lookup", "-Wl,-rpath,@loader_path"]
    return ["-shared", "-Wl,-rpath,$ORIGIN", f"-L{torch / 'lib'}", "-Wl,--as-needed", "-ltorch"]


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
        f"  command = {command} $flags -MD -MF $out.d -c $in -o $out > $out.log 2>&1 || {{ cat $out.log; exit 1; }}",
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


def compile_rule(toolchain: Toolchain, folder: Path) -> list[str]:
    """How a ninja file of the folder begins: the rule for C++ sources."""
    command = f"{ninja_words(toolchain.compiler)} {ninja_words(common_flags(toolchain))}"
    return [
        f"builddir = {ninja_path(folder)}",
        "rule compile",
        f"  command = {command} $flags -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]


def compile_group(group: SourceGroup, folder: Path) -> tuple[list[str], list[str]]:
    """The objects of a group, and the lines that make them."""
    objects = [ninja_path((folder / source).with_suffix(".o")) for source in group.sources]
    lines: list[str] = []
    for source, made in zip(group.sources, objects, strict=True):
        lines += [f"build {made}: {group.rule} {ninja_path(ROOT / source)}"]
        lines += [f"  flags = {ninja_words(group.flags)}", f"  description = compile {source}"]
    return objects, lines


def write_ninja_file(module: Path, toolchain: Toolchain, cuda: Cuda | str, torch: Path, version: str) -> Path:
    """Writes build.ninja beside what it makes; ninja tracks headers by depfiles and flags by its own log."""
    folder = module.parent
    lines = [
        *compile_rule(toolchain, folder),
        "rule link",
        f"  command = {ninja_words(toolchain.compiler)} $in $flags -o $out",
        *(cuda_rule(toolchain, cuda) if isinstance(cuda, Cuda) else []),
    ]
    objects: dict[bool, list[str]] = {False: [], True: []}
    for group in source_groups(toolchain, cuda, torch, version):
        made, compiling = compile_group(group, folder)
        objects[group.of_module] += made
        lines += compiling
    library = ninja_path(folder / OPS_LIBRARY)
    lines += [f"build {library}: link {' '.join(objects[False])} | {ninja_path(EXPORTS)}"]
    lines += [f"  flags = {ninja_words(link_flags(toolchain, cuda, torch))}", f"  description = link {OPS_LIBRARY}"]
    lines += [f"build {ninja_path(module)}: link {' '.join(objects[True])} {library}"]
    lines += [f"  flags = {ninja_words(module_link_flags(torch))}", f"  description = link {module.name}"]
    return write_lines(folder / "build.ninja", lines)


def write_lines(file: Path, lines: list[str]) -> Path:
    """The file of these lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def expected_time(toolchain: Toolchain, cuda: Cuda | str) -> str:
    """How long compiling everything takes at most: minutes of a core of a server of 2021 (Zen 3); and the memory."""
    cores = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    of_unit, of_target, of_others, of_source = 3.5, 6.0, 1.5, 1.5
    units = of_unit * len(toolchain.instruction_sets)
    kernels = of_target * len(cuda.targets) if isinstance(cuda, Cuda) else 0.0
    minutes = max((units + kernels + of_others) / cores, of_source)
    on = "1 core" if cores == 1 else f"{cores} cores"
    needs = f"at most about {minutes:.0f} minutes on {on}, and 1 GB of memory for each"
    return f"{needs}; less where build/native has objects already"


def build_folder() -> Path:
    """Where the objects live, so that installs, editable or not, share them."""
    return ROOT / f"build/native/{sys.implementation.cache_tag}-{sysconfig.get_platform()}"


def run_ninja(program: str, file: Path) -> None:
    """Make what the file says."""
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    if subprocess.run([program, "-f", str(file), *jobs], cwd=ROOT, check=False).returncode != 0:
        raise fail("the native module did not compile; the compiler's messages are above.")


def write_cpu_file(folder: Path, toolchain: Toolchain) -> Path:
    """A ninja file of the objects that need no torch, with the lines that build.ninja of that folder has for them."""
    lines = compile_rule(toolchain, folder)
    for group in cpu_groups(toolchain):
        lines += compile_group(group, folder)[1]
    return write_lines(folder / "cpu.ninja", lines)


def build_cpu_objects() -> None:
    """Compile what needs no torch, while torch is on its way; build_module then finds the objects."""
    toolchain, program = find_toolchain(), find_ninja()
    run_ninja(program, write_cpu_file(build_folder(), toolchain))


def build_module(name: str, version: str) -> Path:
    """The module of that file name, with the operators' library beside it, compiled as far as something changed."""
    torch, toolchain, program = find_torch(), find_toolchain(), find_ninja()
    try:
        cuda = find_cuda(os.environ, toolchain.compiler, torch)
    except ValueError as error:
        raise fail(str(error)) from None
    module = build_folder() / name
    file = write_ninja_file(module, toolchain, cuda, torch, version)
    units, openmp = ", ".join(toolchain.instruction_sets), "on" if toolchain.openmp_compile else "off"
    print(f"fused_rnn: building with {shlex.join(toolchain.compiler)}, CPU units {units}, OpenMP {openmp}", flush=True)
    if line := decision(cuda):
        print(f"fused_rnn: {line}", flush=True)
    print(f"fused_rnn: {expected_time(toolchain, cuda)}", flush=True)
    run_ninja(program, file)
    return module


if __name__ == "__main__":
    build_cpu_objects()
