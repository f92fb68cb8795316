"""AOTInductor compiles an exported layer into a package for all sizes, which runs wherever fused_rnn is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

import fused_rnn
from build_support import native

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
    ran = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, package],
        cwd=native.ROOT, capture_output=True, text=True, check=True, timeout=native.PATIENCE,
    )  # fmt: skip
    assert ran.stdout.splitlines() == ["Could not find schema for fused_rnn::forward.", "[6, 2, 10]"]
