"""Builds the extension module fused_rnn._C with ninja; everything else about the package is in pyproject.toml.

The sources fall into groups that differ only in their compiler flags: the binding (which alone sees torch and Python),
the CPU dispatch, one unit per CPU instruction set, and the CUDA kernels, which nvcc compiles. A new backend is one more
group in `source_groups`.

Environment: CXX (the compiler), MAX_JOBS (parallel compilations), FUSED_RNN_WERROR=1 (warnings are errors, as in the
project's continuous integration); FUSED_RNN_CUDA, CUDA_HOME and TORCH_CUDA_ARCH_LIST, see cuda_build.py.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import setuptools
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))  # pip runs this file without its folder on the path

import cuda_build
from cuda_build import Cuda

ROOT = Path(__file__).resolve().parent
# The oldest torch whose stable ABI is used: the built module serves this version and all later ones.
MIN_TORCH = (2, 11)
MIN_SETUPTOOLS = 77  # the first that knows pyproject.toml's licence expression
TORCH_TARGET_VERSION = f"0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"

COMMON_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-fno-math-errno"]
COMMON_FLAGS += ["-ffp-contract=off", "-Wall", "-Wextra"]
NVCC_FLAGS = ["-std=c++20", "-O3"]  # those of COMMON_FLAGS that are nvcc's own, too
# Each unit is compiled for exactly its instruction set, so that a binary built on one machine runs on every other.
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"],
}
# Concepts, and the vector shuffle that gcc has from version 12 on.
CXX20_PROBE = """
#include <concepts>
template <std::integral T> T f(T x) { return x; }
using Vector [[gnu::vector_size(16)]] = int;
int main() { return f(__builtin_shufflevector(Vector{}, Vector{}, 1, 0, 3, 2)[0]); }
"""
OPENMP_PROBE = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"


def fail(sentence: str) -> SystemExit:
    """An exit that shows one sentence instead of a traceback."""
    return SystemExit(f"fused_rnn: {sentence}")


@dataclass(frozen=True)
class SourceGroup:
    """Sources (relative to the repository) compiled with the same flags, by a rule of the ninja file."""

    sources: list[str]
    flags: list[str]
    rule: str = "compile"


@dataclass(frozen=True)
class Toolchain:
    """The compiler found and what it can do."""

    compiler: list[str]
    instruction_sets: list[str]
    openmp_compile: list[str]
    openmp_link: list[str]


def compiles(compiler: list[str], code: str, flag: str) -> bool:
    """Whether the compiler makes a program of `code`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(code)
        command = [*compiler, flag, str(source), "-o", str(Path(folder, "probe"))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def output_of(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def find_toolchain() -> Toolchain:
    if os.name != "posix":
        raise fail("the kernels build on Linux and macOS only.")
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next((words for words in map(shlex.split, names) if shutil.which(words[0])), None)
    if compiler is None:
        raise fail(f"no C++ compiler found (looked for {', '.join(names)}): install g++ 12 or newer, or set CXX.")
    if not compiles(compiler, CXX20_PROBE, "-std=c++20"):
        raise fail(f"{shlex.join(compiler)} does not compile C++20: install g++ 12 or newer, or set CXX.")
    x86_64 = output_of([*compiler, "-dumpmachine"]).startswith("x86_64")
    openmp = compiles(compiler, OPENMP_PROBE, "-fopenmp")
    # torch has loaded an OpenMP runtime before this module is imported, under a file name that differs between wheels.
    # Code from gcc takes its OpenMP symbols from there and is linked to no runtime: a second one would have threads of
    # its own and not see torch.set_num_threads. clang calls a runtime of another interface (libomp), so it brings it.
    brings_runtime = openmp and (sys.platform == "darwin" or "clang" in output_of([*compiler, "--version"]))
    return Toolchain(
        compiler,
        list(ISA_FLAGS) if x86_64 else ["baseline"],
        ["-fopenmp"] if openmp else [],
        ["-fopenmp"] if brings_runtime else [],
    )


def find_cuda(toolchain: Toolchain) -> Cuda | str:
    """The CUDA toolkit, or the reason why the module will have no kernels for GPUs."""
    try:
        return cuda_build.find_cuda(os.environ, toolchain.compiler)
    except ValueError as error:
        raise fail(str(error)) from None


def find_torch() -> Path:
    """The folder of the installed torch (which is not imported)."""
    wanted = f"torch>={MIN_TORCH[0]}.{MIN_TORCH[1]}"
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise fail(f"{wanted} is needed to build: install it, then run `pip install --no-build-isolation .`")
    version = importlib.metadata.version("torch")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < MIN_TORCH:
        raise fail(f"{wanted} is needed, found {version}.")
    return Path(next(iter(spec.submodule_search_locations)))


def find_pybind11() -> str:
    try:
        import pybind11
    except ImportError:
        raise fail("pybind11 is needed to build: run `pip install pybind11 ninja setuptools wheel`.") from None
    return str(pybind11.get_include())


def find_ninja() -> str:
    try:
        import ninja
    except ImportError:
        program = shutil.which("ninja")
    else:
        program = str(Path(ninja.BIN_DIR, "ninja"))
    if program is None:
        raise fail("ninja is needed to build: run `pip install ninja`.")
    return program


def find_python_headers() -> list[str]:
    folders = sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})
    if not any(Path(folder, "Python.h").exists() for folder in folders):
        raise fail(f"Python.h is not in {folders[0]}: install this Python's development files (python3-dev).")
    return folders


def glob(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def source_groups(toolchain: Toolchain, cuda: Cuda | str, torch: Path, version: str) -> list[SourceGroup]:
    """What is compiled, and how each part differs from the rest."""
    # pybind11 comes before torch, which carries a copy of its own. -isystem: warnings of foreign headers are not ours.
    foreign = [find_pybind11(), *find_python_headers(), torch / "include", torch / "include/torch/csrc/api/include"]
    built = str(cuda) if isinstance(cuda, Cuda) else f"not built: {cuda}"
    binding = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f'-DFUSED_RNN_VERSION="{version}"']
    binding += [f"-DFUSED_RNN_CUDA_BUILD={json.dumps(built)}"]
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
        SourceGroup([*glob("csrc/cpu/*.cpp"), *glob("csrc/cpu/runtime/*.cpp")], []),
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
        flags += [flag] if flag in NVCC_FLAGS else cuda_build.host_flags([flag])
    if os.environ.get("FUSED_RNN_WERROR") == "1":
        flags += ["-Werror", "all-warnings", *cuda_build.host_flags(["-Werror"])]
    command = ninja_words([cuda.nvcc, *cuda_build.compiler_flags(toolchain.compiler), *flags])
    return [
        "rule compile_cuda",
        f"  command = {command} -MD -MF $out.d -c $in -o $out > $out.log 2>&1 || {{ cat $out.log; exit 1; }}",
        "  depfile = $out.d",
        "  deps = gcc",
    ]


def ninja_path(path: Path) -> str:
    return re.sub(r"([$ :])", r"$\1", str(path))


def ninja_words(words: list[str]) -> str:
    return shlex.join(words).replace("$", "$$")


def write_ninja_file(module: Path, toolchain: Toolchain, cuda: Cuda | str, torch: Path, version: str) -> Path:
    """Writes build.ninja beside the `module` it makes; ninja tracks headers by depfiles and flags by its own log."""
    folder = module.parent
    common = [*COMMON_FLAGS, *toolchain.openmp_compile, "-I", str(ROOT / "csrc")]
    common += [f"-DFUSED_RNN_HAVE_{name.upper()}" for name in toolchain.instruction_sets if name != "baseline"]
    if os.environ.get("FUSED_RNN_WERROR") == "1":
        common.append("-Werror")
    compiler = ninja_words(toolchain.compiler)
    lines = [
        f"builddir = {ninja_path(folder)}",
        "rule compile",
        f"  command = {compiler} {ninja_words(common)} $flags -MD -MF $out.d -c $in -o $out",
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


class NinjaBuildExt(build_ext):
    """build_ext whose objects live in build/native, so that installs, editable or not, rebuild only what changed."""

    def build_extension(self, ext: Extension) -> None:
        torch, toolchain, program = find_torch(), find_toolchain(), find_ninja()
        cuda = find_cuda(toolchain)
        target = Path(self.get_ext_fullpath(ext.name))
        module = ROOT / f"build/native/{sys.implementation.cache_tag}-{sysconfig.get_platform()}" / target.name
        file = write_ninja_file(module, toolchain, cuda, torch, self.distribution.get_version())
        units, openmp = ", ".join(toolchain.instruction_sets), "on" if toolchain.openmp_compile else "off"
        print(
            f"fused_rnn: building with {shlex.join(toolchain.compiler)}, CPU units {units}, OpenMP {openmp}", flush=True
        )
        if line := cuda_build.decision(cuda):
            print(f"fused_rnn: {line}", flush=True)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([program, "-f", str(file), *jobs], cwd=ROOT, check=False).returncode != 0:
            raise fail("the native module did not compile; the compiler's messages are above.")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # replaced, not overwritten: a running Python keeps the old one mapped
        shutil.copy2(module, target)


if int(setuptools.__version__.split(".")[0]) < MIN_SETUPTOOLS:
    raise fail(f"setuptools>={MIN_SETUPTOOLS} is needed to build, found {setuptools.__version__}.")
# bench/ is a plain folder in a checkout (`python -m bench`) and the package fused_rnn_bench once installed.
PACKAGES = find_packages(str(ROOT), include=["fused_rnn", "fused_rnn.*", "bench", "bench.*"])
setup(
    packages=[re.sub(r"^bench\b", "fused_rnn_bench", name) for name in PACKAGES],
    package_dir={"fused_rnn_bench": "bench"},
    ext_modules=[Extension("fused_rnn._C", sources=glob("csrc/**/*.cpp"), language="c++")],
    cmdclass={"build_ext": NinjaBuildExt},
)
