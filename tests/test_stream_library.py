"""Tests the C library as others have it: its own tests, what it shows, how it is installed and found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fused_rnn
from build_support import native, toolchain
from fused_rnn import cmake
from tests.stream import make_model
from tests.stream.library import UNOPTIMIZED, compiler_option, run
from tests.test_stream import ACTIVATIONS, WEIGHTS, WRITTEN
from tests.test_symbols import shared_symbols

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")


def test_its_own_tests_pass(built: Path) -> None:
    listed = run("ctest", "--test-dir", built, "--output-on-failure").stdout
    assert "100% tests passed, 0 tests failed out of 8" in listed


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of each cell in each type of weights, and of each activation, with sizes beside those of vectors."""
    torch.manual_seed(0)
    layers = [fused_rnn.LSTM(3, 17), nn.GRU(3, 1, bias=False), fused_rnn.RNN(5, 9, nonlinearity="relu")]
    layers += [fused_rnn.LSTM(5, 21, proj_size=17), fused_rnn.LSTM(5, 17, peephole=True, cell_clip=0.5)]
    made: list[tuple[nn.Module, Any]] = [(layer, weights) for layer in layers for weights in WEIGHTS]
    made += [(layer(), None) for layer in (*WRITTEN.values(), lambda: WRITTEN["slstm"](num_heads=3))]
    made += [(nn.Sequential(each, nn.Linear(5, 5), each), None) for each in ACTIVATIONS]
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{i}.frnn" for i in range(len(made))]
    for path, (module, weights) in zip(paths, made, strict=True):
        fused_rnn.save_stream(module, path, weights=weights)
    return paths


@pytest.mark.parametrize("isa", native.runnable_instruction_sets())
def test_callers_and_streams_do_not_disturb_each_other(isa: str, built: Path, models: list[Path]) -> None:
    run(built / "tests/stream/borders", *models, FUSED_RNN_CPU_ISA=isa)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_nothing_uninitialised_is_read_and_nothing_is_left(built: Path, models: list[Path]) -> None:
    words = ("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all")
    run(*words, built / "tests/stream/borders", *models[::4])


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_strace_sees_no_system_call_between_the_first_and_the_last_step(built: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-o", str(trace), str(built / "tests/stream/real_time"), str(make_model.MODEL)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this process may not trace another")
    calls = trace.read_text().splitlines()
    first, last = (next(i for i, call in enumerate(calls) if words in call) for words in ("first step", "last step"))
    assert calls[first + 1 : last] == []


@pytest.mark.parametrize("name", native.runnable_instruction_sets())
def test_every_instruction_set_computes_the_model(name: str, built: Path) -> None:
    run(built / "tests/stream/c_program", make_model.MODEL, FUSED_RNN_CPU_ISA=name)


def test_an_unknown_instruction_set_is_an_error(built: Path) -> None:
    command = [str(built / "tests/stream/c_program"), str(make_model.MODEL)]
    environment = {**os.environ, "FUSED_RNN_CPU_ISA": "mmx"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 1
    assert "FUSED_RNN_CPU_ISA must be one of" in result.stdout
    assert 'got "mmx"' in result.stdout


def test_cmake_has_the_flags_of_the_extension_module() -> None:
    text = (native.ROOT / "CMakeLists.txt").read_text()
    common = re.search(r"set\(FUSED_RNN_FLAGS (.*?) \$<", text)
    assert common is not None
    stated_as_properties = {"-std=c++20", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"}
    # The last is for the flags of a project around it.
    assert set(common[1].split()) == set(toolchain.COMMON_FLAGS) - stated_as_properties | {"-fno-fast-math"}
    units = dict(re.findall(r"set\(FUSED_RNN_FLAGS_(\w+) (.*)\)", text))
    assert {name: flags.replace('""', "").split() for name, flags in units.items()} == toolchain.ISA_FLAGS


def test_units_share_no_symbol_with_the_rest(built: Path) -> None:
    for name in native.isa_flags().keys() - {UNOPTIMIZED}:  # whose instructions every machine has
        (compiled,) = built.glob(f"CMakeFiles/fused_rnn_objects.dir/csrc/stream/isa/{name}.*.o")
        assert shared_symbols(compiled, name) == []


def test_the_shared_library_shows_its_functions_alone(built: Path) -> None:
    header = (native.ROOT / "include/fused_rnn.h").read_text()
    declared = set(re.findall(r"FUSED_RNN_API .*?(fused_rnn_\w+)\(", header))
    listing = run("nm", "-D", "--defined-only", built / "libfused_rnn.so").stdout
    assert {line.split()[-1] for line in listing.splitlines()} == declared


CONSUMER = """
cmake_minimum_required(VERSION 3.21)
project(consumer LANGUAGES {languages})
{find}
add_executable(consumer {source})
target_link_libraries(consumer PRIVATE fused_rnn::{kind})
"""


@pytest.mark.parametrize("kind", ["static", "shared"])
def test_an_installed_library_is_found_by_cmake(kind: str, built: Path, tmp_path: Path) -> None:
    # As a package is made: for one place, in another. The program is C, and nobody speaks of C++.
    run("cmake", "--install", built, "--prefix", "/usr", DESTDIR=str(tmp_path / "installed"))
    major, minor = map(int, fused_rnn.__version__.split(".")[:2])
    find = f"""
find_package(fused_rnn {major}.{minor + 1} QUIET)
if(fused_rnn_FOUND)
  message(FATAL_ERROR "another version is found")
endif()
find_package(fused_rnn {major}.{minor} REQUIRED)
link_libraries(m)"""
    source = native.ROOT / "tests/stream/c_program.c"
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER.format(languages="C", find=find, kind=kind, source=source))
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed/usr'}")
    run("cmake", "--build", tmp_path / "build")
    run(tmp_path / "build/consumer", make_model.MODEL)


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="needs pkg-config")
def test_an_installed_library_is_found_by_pkg_config(built: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    run("cmake", "--install", built, "--prefix", installed)
    (found,) = installed.rglob("fused_rnn.pc")
    flags = run("pkg-config", "--cflags", "--libs", "fused_rnn", PKG_CONFIG_PATH=str(found.parent)).stdout.split()
    program, source = tmp_path / "program", native.ROOT / "tests/stream/c_program.c"
    run("cc", "-std=c11", source, *flags, "-lm", f"-Wl,-rpath,{found.parent.parent}", "-o", program)
    run(program, make_model.MODEL)


def test_an_installed_package_has_the_sources(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, cwd=native.ROOT, check=True)
    said = run(sys.executable, tmp_path / "lib/fused_rnn/cmake.py").stdout.strip()
    assert Path(said) == (tmp_path / "lib/fused_rnn").resolve()
    # CMake looks for every source.
    run("cmake", "-S", said, "-B", tmp_path / "build", compiler_option())
    assert not {"binding", "python"} & {path.name for path in Path(said, "csrc").iterdir()}
    assert cmake.folder() == native.ROOT


def test_an_installed_package_builds_the_library_once(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, cwd=native.ROOT, check=True)
    made = tmp_path / "made"
    # Without the units of the instruction sets, which `built` has and which take a minute.
    words = (sys.executable, tmp_path / "lib/fused_rnn/cmake.py", "--build", made, "-DFUSED_RNN_UNITS=")
    assert run(*words).stdout == f"{made}\n"
    headers = {path.name for path in (made / "include").iterdir()}
    assert headers == {"fused_rnn.h", "fused_rnn.hpp", "fused_rnn_static.hpp"}
    (made / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.21)
project(finds LANGUAGES CXX)
find_package(fused_rnn REQUIRED)
get_target_property(static fused_rnn::static LOCATION)
get_target_property(shared fused_rnn::shared LOCATION)
message("found ${static} ${shared}")""")
    found = run("cmake", "-S", made, "-B", tmp_path / "finds", f"-DCMAKE_PREFIX_PATH={made}").stderr
    assert all(Path(path).resolve().is_relative_to(made) for path in found.split()[1:])
    assert len(found.split()) == 3
    # Not again, even where there is no CMake; but with other flags, where the library is gone, or of another source.
    assert run(*words, PATH="").stdout == f"{made}\n"

    def check_again(**environment: str) -> None:
        env = {"PATH": "", **environment}
        result = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, env=env)
        assert (result.returncode, result.stdout) == (1, "")
        assert "no cmake was found: install CMake 3.21 or newer" in result.stderr

    check_again(CXXFLAGS="-g")
    (made / "lib").rename(made / "moved")
    check_again()
    (made / "moved").rename(made / "lib")
    assert run(*words, PATH="").stdout == f"{made}\n"
    (tmp_path / "lib/fused_rnn/csrc/stream/stage.cpp").write_text("// changed")
    check_again()


def test_the_place_of_the_library_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, str(native.ROOT / "fused_rnn/cmake.py"), "--build", str(tmp_path / "file")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"fused_rnn: place must be a folder, got the file {(tmp_path / 'file').resolve()}\n"


def test_a_project_may_fetch_the_sources(tmp_path: Path) -> None:
    fetch = f"""
add_compile_options(-ffast-math)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
include(FetchContent)
FetchContent_Declare(fused_rnn SOURCE_DIR "{native.ROOT}")
FetchContent_MakeAvailable(fused_rnn)
get_directory_property(own_options COMPILE_OPTIONS)
message("options: ${{own_options}}, ${{CMAKE_BUILD_TYPE}}, ${{CMAKE_CXX_STANDARD}}, ${{CMAKE_CXX_FLAGS}}")"""
    source = native.ROOT / "tests/stream/c_program.c"
    text = CONSUMER.format(languages="C CXX", find=fetch, kind="static", source=source)
    (tmp_path / "CMakeLists.txt").write_text(text)
    said = run("cmake", "-S", tmp_path, "-B", tmp_path / "build", compiler_option(), CXXFLAGS="").stderr
    # What is said here stays here, on both sides: the library knows NaN, and the program keeps its flags.
    assert "options: -ffast-math, , , \n" in said
    commands = json.loads((tmp_path / "build/compile_commands.json").read_text())
    for command in commands:
        of_numbers = re.findall(r"-f(?:no-)?fast-math", command["command"])
        assert of_numbers[-1] == ("-ffast-math" if command["file"] == str(source) else "-fno-fast-math")
        assert "-O3" in command["command"] or command["file"] == str(source)
    # Its own tests and install rules stay away. What is built is what `built` has.
    targets = run("cmake", "--build", tmp_path / "build", "--target", "help").stdout
    assert "fused_rnn_static" in targets
    assert "damaged" not in targets


def test_the_command_explains_itself() -> None:
    said = run(sys.executable, "-m", "fused_rnn.cmake", "--help").stdout
    assert all(word in said for word in ("usage: ", "--operators", "--build DIR", "add_subdirectory"))
