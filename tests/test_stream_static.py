"""Tests the header of compile-time sizes, fused_rnn_static.hpp, beside streams of the C library."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from torch import nn

import fused_rnn
from build_support import native
from tests.stream.library import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "lstm_1_8_1": lambda: fused_rnn.Chain(fused_rnn.LSTM(1, 8), nn.Linear(8, 1), residual=True),
    "gru_3_5": lambda: nn.GRU(3, 5),
    "gru_3_21_2": lambda: nn.Sequential(nn.GRU(3, 21), nn.Linear(21, 2, bias=False)),
    "lstm_9_130": lambda: fused_rnn.LSTM(9, 130, bias=False),
}


@pytest.mark.parametrize("isa", native.runnable_instruction_sets())
def test_values_are_those_of_a_stream(isa: str, built: Path, tmp_path: Path) -> None:
    program, folders = tmp_path / "static_program", (f"-I{native.ROOT / 'include'}", f"-I{built / 'include'}")
    source, library = native.ROOT / "tests/stream/static_program.cpp", built / "libfused_rnn.a"
    flags = ("-std=c++20", "-O1", *WARNINGS, *native.isa_flags()[isa], *folders)
    run(*native.compiler(), *flags, source, library, "-o", program)
    for name, make in MODELS.items():
        fused_rnn.save_stream(make(), tmp_path / f"{name}.frnn")
        run(program, tmp_path / f"{name}.frnn", name, FUSED_RNN_CPU_ISA=isa)


def test_the_example_of_the_guide_compiles(built: Path, tmp_path: Path) -> None:
    guide = (native.ROOT / "docs/guides/realtime.md").read_text()
    (example,) = re.findall(r"^```cpp\n(#include <fused_rnn_static\.hpp>.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    source = tmp_path / "example.cpp"
    source.write_text(example)
    run(*native.compiler(), "-std=c++20", *WARNINGS, "-fsyntax-only", f"-I{built / 'include'}", source)


CONSUMER = f"""
cmake_minimum_required(VERSION 3.21)
project(consumer LANGUAGES CXX)
find_package(fused_rnn {".".join(fused_rnn.__version__.split(".")[:2])} REQUIRED)
add_executable(consumer consumer.cpp)
target_link_libraries(consumer PRIVATE fused_rnn::headers)
"""


def test_an_installed_header_is_found_by_cmake(built: Path, tmp_path: Path) -> None:
    run("cmake", "--install", built, "--prefix", tmp_path / "installed")
    program = "#include <fused_rnn_static.hpp>\nint main() { return sizeof(fused_rnn::StaticGru<1, 1>) == 0; }\n"
    (tmp_path / "consumer.cpp").write_text(program)
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER)
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}")
    run("cmake", "--build", tmp_path / "build")
