"""Tests of the CUDA part of the build: what the environment asks for, and what ptxas said of the built kernels."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from torch import version as torch_version

import fused_rnn
from build_support import cuda as cuda_build
from build_support import native, ninja
from build_support.cuda import Cuda, Target
from build_support.toolchain import Toolchain, find_torch
from tools import ptxas_report

if TYPE_CHECKING:
    from pathlib import Path

# Bytes. Kernels keep everything in registers and shared memory; a frame is a local array that was not.
LARGEST_STACK = 64

OLD_NVCC = {"8.0", "8.6", "9.0", "9.0a"}  # what the nvcc of these tests has
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc in PATH")


def codes(targets: list[Target]) -> list[str]:
    return [code for target in targets for code in target.codes]


@pytest.mark.parametrize("arch_list", ["8.0 9.0a", "8.0;9.0a", " 8.0 ; 9.0a;", "8.0\t9.0a 8.0"])
def test_the_architectures_may_be_separated_in_torchs_ways(arch_list: str) -> None:
    assert cuda_build.parse_targets(arch_list, OLD_NVCC.__contains__) == [Target("8.0"), Target("9.0a")]


def test_ptx_is_asked_for_by_its_suffix() -> None:
    targets = cuda_build.parse_targets("8.0 9.0+PTX 9.0", OLD_NVCC.__contains__)
    assert codes(targets) == ["sm_80", "sm_90", "compute_90"]
    assert targets[1].flags == ["-gencode", "arch=compute_90,code=[sm_90,compute_90]"]
    assert str(targets[1]) == "9.0+PTX"


def test_kernels_are_compiled_with_the_flags_of_their_group() -> None:
    cuda = Cuda("nvcc", "13.0", cuda_build.RUNTIME, [Target("9.0a")])
    (command,) = (line for line in ninja.cuda_rule(Toolchain(["g++"], ["baseline"], [], []), cuda) if "command" in line)
    assert " $flags " in command


@pytest.mark.parametrize("entry", ["9.9", "8.0a", "Hopper", "80", "8.0+PTX+PTX", "sm_80", "8.0,9.0"])
def test_an_entry_that_nvcc_does_not_know_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f'"{entry}", which nvcc does not know')):
        cuda_build.parse_targets(f"8.0 {entry}", OLD_NVCC.__contains__)


def test_an_architecture_without_the_needed_instructions_is_named() -> None:
    with pytest.raises(ValueError, match=r'"7\.5", but the kernels need 8\.0'):
        cuda_build.parse_targets("7.5", {"7.5"}.__contains__)


def test_the_default_is_trimmed_and_its_newest_can_run_on_newer_gpus() -> None:
    everything = set(cuda_build.DEFAULT_TARGETS)
    newest = ["sm_80", "sm_90a", "sm_100", "sm_120", "compute_120"]
    assert codes(cuda_build.default_targets(everything.__contains__)) == newest
    # 9.0a runs on 9.0 alone, so here the PTX is that of 8.0.
    assert codes(cuda_build.default_targets(OLD_NVCC.__contains__)) == ["sm_80", "compute_80", "sm_90a"]


@pytest.mark.parametrize(
    ("environment", "wish"),
    [
        ({}, "auto"),
        ({"FUSED_RNN_CUDA": ""}, "auto"),
        ({"FUSED_RNN_CUDA": "auto"}, "auto"),
        ({"FUSED_RNN_CUDA": "0"}, "0"),
        ({"FUSED_RNN_CUDA": "1"}, "1"),
        ({"FUSED_RNN_CUDA": "visible"}, "visible"),
        ({"FORCE_CUDA": "1"}, "1"),
        ({"FORCE_CUDA": "0"}, "auto"),
        ({"FUSED_RNN_CUDA": "0", "FORCE_CUDA": "1"}, "0"),
    ],
)
def test_what_the_environment_wishes(environment: dict[str, str], wish: str) -> None:
    assert cuda_build.requested(environment) == wish


def test_another_wish_is_an_error() -> None:
    with pytest.raises(ValueError, match=r'FUSED_RNN_CUDA must be auto, visible, 0 or 1, got "yes"\.'):
        cuda_build.find_cuda({"FUSED_RNN_CUDA": "yes"}, ["c++"], find_torch())


def with_torch(folder: Path, cuda: str) -> Path:
    """A folder with what is read of a torch: the CUDA of its build."""
    (folder / "version.py").write_text(f"__all__ = ['cuda']\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = '6'\n")
    return folder


def test_without_nvcc_auto_gives_the_reason_and_1_is_an_error(tmp_path: Path) -> None:
    nowhere, torch = {"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)}, with_torch(tmp_path, "'13.0'")
    assert cuda_build.find_cuda(nowhere, ["c++"], torch) == "nvcc not found"
    with pytest.raises(ValueError, match=r"nvcc not found: set CUDA_HOME"):
        cuda_build.find_cuda({**nowhere, "FUSED_RNN_CUDA": "1"}, ["c++"], torch)


def test_beside_a_torch_for_cpus_nothing_is_built_unless_it_is_asked_for(tmp_path: Path) -> None:
    nowhere, torch = {"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)}, with_torch(tmp_path, "None")
    assert cuda_build.find_cuda(nowhere, ["c++"], torch) == cuda_build.NO_CUDA_IN_TORCH
    assert cuda_build.find_cuda({**nowhere, "TORCH_CUDA_ARCH_LIST": "9.0a"}, ["c++"], torch) == "nvcc not found"
    with pytest.raises(ValueError, match=r"nvcc not found: set CUDA_HOME"):
        cuda_build.find_cuda({**nowhere, "FUSED_RNN_CUDA": "1"}, ["c++"], torch)
    assert "FUSED_RNN_CUDA=1 builds them" in (cuda_build.decision(cuda_build.NO_CUDA_IN_TORCH) or "")


def test_the_installed_torch_says_whether_it_has_cuda() -> None:
    assert cuda_build.torch_has_cuda(find_torch()) == (torch_version.cuda is not None)


def test_cuda_home_comes_before_the_path(tmp_path: Path) -> None:
    for folder in ("home/bin", "path"):
        nvcc = tmp_path / folder / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.touch(mode=0o755)
    environment = {"PATH": str(tmp_path / "path"), "CUDA_HOME": str(tmp_path / "home")}
    assert cuda_build.find_nvcc(environment) == str(tmp_path / "home/bin/nvcc")
    assert cuda_build.find_nvcc({**environment, "CUDA_HOME": "/nowhere"}) == str(tmp_path / "path/nvcc")


def script(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


def test_the_runtime_is_that_of_the_toolkit_that_nvcc_names(tmp_path: Path) -> None:
    library = tmp_path / "real/targets/any/lib" / cuda_build.RUNTIME
    library.parent.mkdir(parents=True)
    library.touch()
    words = f'LIBRARIES=  "-L{tmp_path}/real/targets/any/lib/stubs" "-L{tmp_path}/real/bin/../targets/any/lib"'
    (tmp_path / "real/bin").mkdir()
    assert cuda_build.find_runtime(script(tmp_path / "nvcc", f"echo '#$ {words}' >&2")) == str(library)
    assert cuda_build.find_runtime(script(tmp_path / "nvcc", "echo '#$ TOP=/nowhere' >&2")) is None
    library.rename(tmp_path / cuda_build.RUNTIME)
    (tmp_path / "lib64").symlink_to(tmp_path)
    found = cuda_build.find_runtime(script(tmp_path / "nvcc", f"echo '#$ TOP={tmp_path}/real/..' >&2"))
    assert found == str(tmp_path / cuda_build.RUNTIME)


def test_an_nvcc_that_refuses_the_compiler_is_quoted(tmp_path: Path) -> None:
    complaint = "#error -- unsupported GNU version! gcc versions later than 12 are not supported!"
    nvcc = script(tmp_path / "nvcc", f"echo 'host_config.h:143:2: error: {complaint}'", "exit 1")
    reason = cuda_build.why_unusable(nvcc, ["c++"])
    assert reason is not None
    assert reason.startswith(f"{nvcc} cannot compile C++20 with c++ (")
    assert complaint in reason


def test_the_compiler_reaches_nvcc_without_its_launcher_and_with_its_options() -> None:
    assert cuda_build.compiler_flags(["ccache", "g++", "-m64"]) == ["-ccbin", "g++", "-Xcompiler", "-m64"]


def nvidia_smi(folder: Path, *lines: str) -> None:
    script(folder / "nvidia-smi", *(f"echo {line}" for line in lines))


def test_the_visible_gpus_are_those_that_the_kernels_can_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda_build.visible_capabilities() == []
    nvidia_smi(tmp_path, "9.0", "8.6", "9.0", "7.5")
    assert cuda_build.visible_capabilities() == ["8.6", "9.0"]
    script(tmp_path / "nvidia-smi", "echo 'NVIDIA-SMI has failed because it has no driver.'", "exit 9")
    assert cuda_build.visible_capabilities() == []


def test_a_visible_gpu_gets_its_own_target() -> None:
    assert codes(cuda_build.targets_of(["8.6", "9.0"], OLD_NVCC.__contains__)) == ["sm_86", "sm_90a"]
    everything = {*cuda_build.DEFAULT_TARGETS, "8.9"}
    assert codes(cuda_build.targets_of(["8.9", "10.0"], everything.__contains__)) == ["sm_89", "sm_100"]
    # An older nvcc has PTX for a newer GPU.
    assert codes(cuda_build.targets_of(["12.0", "13.0"], OLD_NVCC.__contains__)) == ["sm_80", "compute_80"]


def test_without_a_visible_gpu_nothing_is_built_unless_targets_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wish = {"FUSED_RNN_CUDA": "visible", "PATH": str(tmp_path)}
    assert cuda_build.find_cuda(wish, ["c++"], find_torch()) == cuda_build.NO_GPU
    named = wish | {"TORCH_CUDA_ARCH_LIST": "9.0a"}
    assert cuda_build.find_cuda(named, ["c++"], find_torch()) == "nvcc not found"
    assert "make CUDA=1" in (cuda_build.decision(cuda_build.NO_GPU) or "")


def test_one_line_tells_the_decision() -> None:
    cuda = Cuda("nvcc", "13.0", "libcudart_static.a", [Target("8.0"), Target("9.0a", ptx=True)])
    assert cuda_build.decision(cuda) == "CUDA 13.0 for 8.0 9.0a+PTX"
    without = "no CUDA kernels: nvcc not found (set CUDA_HOME, or FUSED_RNN_CUDA=0 to silence)"
    assert cuda_build.decision("nvcc not found") == without
    assert cuda_build.decision(cuda_build.UNWANTED) is None


@needs_nvcc
def test_the_installed_nvcc_gives_a_toolkit() -> None:
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    assert cuda_build.nvcc_knows(nvcc, "8.0")
    assert not cuda_build.nvcc_knows(nvcc, "8.5")
    assert not cuda_build.nvcc_knows(nvcc, "8.0a")
    assert cuda_build.why_unusable(nvcc, native.compiler()) is None
    assert cuda_build.find_runtime(nvcc) is not None


TWO_TARGETS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5cleanPf' for 'sm_80'
ptxas info    : Function properties for _Z5cleanPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 368 bytes cmem[0]
ptxas info    : Compile time = 12.403 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5cleanPf' for 'sm_90a'
ptxas info    : Function properties for _Z5cleanPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 256 bytes smem
"""
SPILLING = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z7callingPfi' for 'sm_80'
ptxas info    : Function properties for _Z7callingPfi
    160 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 160 bytes cumulative stack size, 512 bytes smem, 372 bytes cmem[0]
ptxas info    : Function properties for _Z6calleePfi
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Compiling entry function '_Z8spillingPfi' for 'sm_80'
ptxas info    : Function properties for _Z8spillingPfi
    12136 bytes stack frame, 21996 bytes spill stores, 27352 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 12136 bytes cumulative stack size, 364 bytes cmem[0]
"""


def test_the_log_of_two_targets_is_read() -> None:
    assert ptxas_report.runs(TWO_TARGETS) == 2
    assert ptxas_report.parse(TWO_TARGETS) == [
        ptxas_report.Function("_Z5cleanPf", "sm_80", registers=8),
        ptxas_report.Function("_Z5cleanPf", "sm_90a", registers=10, shared=256),
    ]


def test_spills_are_read_of_kernels_and_of_what_they_call() -> None:
    calling, callee, spilling = ptxas_report.parse(SPILLING)
    assert calling == ptxas_report.Function("_Z7callingPfi", "sm_80", registers=32, shared=512, stack=160)
    assert callee == ptxas_report.Function("_Z6calleePfi", "sm_80", spill_stores=4, spill_loads=12, stack=8)
    assert (spilling.spill_stores, spilling.spill_loads, spilling.stack) == (21996, 27352, 12136)
    assert str(spilling) == (
        "_Z8spillingPfi for sm_80: 21996 bytes of spill stores, 27352 of spill loads, 12136 of stack"
    )


def test_a_log_without_kernels_still_tells_that_ptxas_ran() -> None:
    assert ptxas_report.parse("ptxas info    : 0 bytes gmem\n") == []
    assert ptxas_report.runs("ptxas info    : 8 bytes gmem, 4 bytes cmem[3]\n") == 1


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void fused_rnn::cuda::run_kernel<fused_rnn::cuda::Scale>(fused_rnn::cuda::Scale)", "Scale"),
        ("void fused_rnn::cuda::run_kernel<A<(fused_rnn::E)1, B> >(A<(fused_rnn::E)1, B>)", "A<(E)1, B>"),
        ("clear(void*, void (*)(int))", "clear"),
        ("_Z5clean", "_Z5clean"),
    ],
)
def test_names_of_kernels_are_shortened(name: str, short: str) -> None:
    assert ptxas_report.shorten(name) == short


@pytest.fixture(scope="module")
def built_targets() -> list[str]:
    """The targets of the build: sm_80 and the like."""
    cuda = fused_rnn.build_info()["cuda"]
    if cuda.startswith("not built"):
        pytest.skip(f"this build has no CUDA kernels ({cuda})")
    return [target.codes[0] for target in cuda_build.parse_targets(cuda.partition(" for ")[2], lambda _: True)]


@pytest.fixture(scope="module")
def built_functions(built_targets: list[str]) -> list[ptxas_report.Function]:
    """All functions of the build's kernels."""
    functions = [function for path in ptxas_report.logs() for function in ptxas_report.parse(path.read_text())]
    assert {function.target for function in functions} == set(built_targets)
    return functions


def test_every_source_is_built_for_every_target(built_targets: list[str]) -> None:
    logs, folder = ptxas_report.logs(), native.ROOT / "csrc" / "cuda"
    sources = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.cu")}
    assert sources == {path.as_posix().rpartition("csrc/cuda/")[2].removesuffix(".o.log") for path in logs}
    for path in logs:
        assert path.with_suffix("").exists(), f"{path} has no object"
        text = path.read_text()
        assert ptxas_report.runs(text) == len(built_targets), path
        kernels = [function for function in ptxas_report.parse(text) if function.registers]
        for target in built_targets:
            names = {function.name for function in kernels if function.target == target}
            assert names == {function.name for function in kernels}, f"{path} for {target}"


def test_nothing_spills(built_functions: list[ptxas_report.Function]) -> None:
    assert [str(one) for one in built_functions if one.spill_stores or one.spill_loads] == []


def test_stack_frames_are_small(built_functions: list[ptxas_report.Function]) -> None:
    assert [str(one) for one in built_functions if one.stack > LARGEST_STACK] == []


def test_no_kernel_needs_more_registers_than_the_table_says(built_targets: list[str]) -> None:
    cuda = fused_rnn.build_info()["cuda"]
    if not cuda.startswith("13.0 "):
        pytest.skip(f"the table is of CUDA 13.0, this build's is {cuda}")
    header = (native.ROOT / "csrc" / "cuda" / "tuning.h").read_text()
    columns = re.search(r"struct UnitRegisters \{\n\s+const char\* unit;\n\s+int (.+);", header)
    assert columns is not None
    targets = columns[1].split(", ")
    rows = re.findall(r'\{"(\w+)", (\d+), (\d+)\}', header)
    table = {
        (unit, target): int(count) for unit, *counts in rows for target, count in zip(targets, counts, strict=True)
    }
    measured: dict[tuple[str, str], int] = {}
    for path in ptxas_report.logs():
        if path.parent.name == "instantiate":
            for function in ptxas_report.parse(path.read_text()):
                key = path.name.partition(".")[0], function.target
                measured[key] = max(measured.get(key, 0), function.registers)
    assert {unit for unit, _ in measured} == {unit for unit, _ in table}
    known = {key: count for key, count in measured.items() if key in table}
    assert len(known) >= len(measured) * len(set(built_targets) & set(targets)) / len(built_targets)
    assert {key: (count, table[key]) for key, count in known.items() if count > table[key]} == {}


@needs_nvcc
@pytest.mark.parametrize("name", ["lstm_bfloat16", "gru_float32"])
def test_a_source_compiles_for_the_oldest_target(name: str, built_targets: list[str], tmp_path: Path) -> None:
    if "sm_80" in built_targets:
        return  # the tests above are about it
    nvcc, flags = shutil.which("nvcc"), ["-std=c++20", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings"]
    source = native.ROOT / "csrc" / "cuda" / "instantiate" / f"{name}.cu"
    command = [str(nvcc), *cuda_build.compiler_flags(native.compiler()), *flags, *Target("8.0").flags]
    # The code of the host is that of the build.
    command += ["-I", str(native.ROOT / "csrc"), "-cubin", str(source), "-o", str(tmp_path / "kernels.cubin")]
    result = cuda_build.run(command)
    assert result.returncode == 0, result.stdout
    functions = ptxas_report.parse(result.stdout)
    assert functions
    assert [str(one) for one in functions if one.spill_stores or one.spill_loads] == []
