"""What importing the package does, and what it says where it cannot."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch._dynamo", "torch._inductor", "torch.onnx", "onnx", "sympy")  # seconds and tens of MB each
# Statements after `import torch`, by what they are an example of.
USES = {
    "import": "import fused_rnn",
    "training": "import fused_rnn; fused_rnn.LSTM(3, 4)(torch.ones(5, 2, 3))[0].sum().backward()",
    "lengths": "import fused_rnn; fused_rnn.GRU(3, 4)(torch.ones(5, 2, 3), lengths=torch.tensor([5, 3]))",
    "variants": "import fused_rnn; fused_rnn.RNN(3, 4, layer_norm=True, zoneout=0.1)(torch.ones(5, 2, 3))",
    "cells": "import fused_rnn; fused_rnn.LSTMCell(3, 4)(torch.ones(2, 3))",
    "convert": "import fused_rnn; fused_rnn.restore(fused_rnn.convert(torch.nn.Sequential(torch.nn.GRU(3, 4))))",
    "explain": "import fused_rnn; fused_rnn.explain(fused_rnn.GRU(3, 4), torch.ones(5, 2, 3))",
    "stepper": "import fused_rnn; fused_rnn.Stepper(fused_rnn.GRU(3, 4)).step(torch.ones(1, 3))",
    "strict": "import fused_rnn\nwith fused_rnn.strict(): fused_rnn.GRU(3, 4)(torch.ones(5, 2, 3))[0].sum().backward()",
    "patch": "import fused_rnn\nwith fused_rnn.patch(): torch.nn.LSTM(3, 4)",
}


def modules_after(statements: str) -> set[str]:
    """What a process has imported after `import torch` and some statements."""
    script = f"import sys, torch\n{statements}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.fixture(scope="module")
def of_torch() -> set[str]:
    return modules_after("")


def test_importing_without_the_compiled_library_says_how_to_build_it() -> None:
    script = "import sys; sys.modules['fused_rnn._C'] = None; import fused_rnn"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ImportError: fused_rnn is not built: run `pip install" in result.stderr


@pytest.mark.parametrize("use", USES)
def test_plain_use_leaves_the_compiler_and_exporters_alone(use: str, of_torch: set[str]) -> None:
    imported = modules_after(USES[use]) - of_torch
    assert "fused_rnn" in imported
    assert not [name for name in imported if name.startswith(HEAVY)]
    assert len(imported) < 100  # of 0.08 s; the compiler alone brings 800


def test_importing_takes_nothing_but_torch(of_torch: set[str]) -> None:
    roots = {name.partition(".")[0] for name in modules_after("import fused_rnn") - of_torch}
    assert roots & set(importlib.metadata.packages_distributions()) <= {"fused_rnn", "torch"}
