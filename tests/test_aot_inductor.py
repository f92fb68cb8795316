"""AOTInductor compiles an exported layer into a package for all sizes, which runs wherever the operators are loaded.

They are loaded by an import of fused_rnn, or as a library, which a program without Python loads.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

import fused_rnn
from build_support import native
from build_support.toolchain import find_torch
from fused_rnn import cmake
from tests.warm_python import python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning"),
]

IN_ANOTHER_PROCESS = """
import sys
import torch
try:
    torch._inductor.aoti_load_package(sys.argv[1])
except RuntimeError as error:
    print(error)
import fused_rnn
output, _ = torch._inductor.aoti_load_package(sys.argv[1])(torch.ones(6, 2, 3))
print(list(output.shape))
"""


@pytest.fixture(scope="module")
def layer() -> fused_rnn.LSTM:
    torch.manual_seed(0)
    return fused_rnn.LSTM(3, 5, bidirectional=True)


@pytest.fixture(scope="module")
def package(layer: fused_rnn.LSTM, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of the compiled layer."""
    steps = {0: torch.export.Dim("time"), 1: torch.export.Dim("batch")}
    exported = torch.export.export(layer, (torch.randn(4, 2, 3),), dynamic_shapes=(steps,))
    path: Path = tmp_path_factory.mktemp("aot_inductor") / "layer.pt2"
    return torch._inductor.aoti_compile_and_package(exported, package_path=str(path))


def test_a_package_computes_what_torch_computes_for_all_sizes(layer: fused_rnn.LSTM, package: str) -> None:
    loaded = torch._inductor.aoti_load_package(package)
    theirs = torch.nn.LSTM(3, 5, bidirectional=True)
    theirs.load_state_dict(layer.state_dict())
    for sizes in ((4, 2), (1, 1), (9, 5)):
        x = torch.randn(*sizes, 3)
        (output, states), (wanted, wanted_states) = loaded(x), theirs(x)
        for one, other in zip((output, *states), (wanted, *wanted_states), strict=True):
            torch.testing.assert_close(one, other)


def test_a_package_needs_the_import_of_fused_rnn(package: str) -> None:
    ran = python("-c", IN_ANOTHER_PROCESS, package)
    assert ran.stdout.splitlines() == ["Could not find schema for fused_rnn::forward.", "[6, 2, 10]"]


BY_LIBRARY = """
import sys
import torch
torch.ops.load_library(sys.argv[2])
alone, _ = torch._inductor.aoti_load_package(sys.argv[1])(torch.ones(6, 2, 3))
assert "fused_rnn" not in sys.modules
import fused_rnn  # the library of the operators is there already, and is not loaded again
print(list(alone.shape), fused_rnn.GRU(3, 4)(alone[..., :3])[0].shape[0])
print(sum("libfused_rnn_ops" in line and "r-xp" in line for line in open("/proc/self/maps")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_package_needs_the_library_of_the_operators_alone(package: str) -> None:
    ran = python("-c", BY_LIBRARY, package, str(cmake.operators()))
    assert ran.stdout.splitlines() == ["[6, 2, 10] 6", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="links as on Linux")
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is (deprecated|not supported):DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_program_without_python_has_the_values_of_python(layer: fused_rnn.LSTM, package: str, tmp_path: Path) -> None:
    folder, sizes = find_torch(), (7, 2, 3)
    headers = (folder / "include", folder / "include/torch/csrc/api/include")
    flags = ["-std=c++20", "-O0", *(word for header in headers for word in ("-isystem", str(header)))]
    # Whoever links torch in a program names its libraries, as its CMake package does.
    libraries = [f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'}", "-Wl,--no-as-needed"]
    libraries += ["-ltorch", "-ltorch_cpu", "-lc10"]
    source = native.ROOT / "tests/operators/program.cpp"
    program = native.compile_cpp([*flags, str(source), *libraries], tmp_path / "program")
    x = torch.arange(7 * 2 * 3, dtype=torch.float32).sin().view(sizes)
    traced = torch.jit.trace(layer, (torch.randn(4, 2, 3),))  # type: ignore[no-untyped-call]
    traced.save(str(tmp_path / "trace.pt"))
    expected = torch.stack((traced(x)[0], torch._inductor.aoti_load_package(package)(x)[0]))
    words = [cmake.operators(), tmp_path / "trace.pt", package, *sizes, tmp_path / "output"]
    ran = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    output = torch.frombuffer(bytearray((tmp_path / "output").read_bytes()), dtype=torch.float32)
    torch.testing.assert_close(output.view_as(expected), expected.detach(), rtol=0, atol=0)
    loaded = subprocess.run(["ldd", str(cmake.operators())], capture_output=True, text=True, check=True).stdout
    assert "python" not in loaded
