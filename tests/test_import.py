"""What importing the package does, and what it says where it cannot."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path


def test_importing_without_the_compiled_library_says_how_to_build_it() -> None:
    script = "import sys; sys.modules['fused_rnn._C'] = None; import fused_rnn"
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ImportError: fused_rnn is not built: run `pip install" in result.stderr


def test_importing_leaves_the_compiler_and_exporters_alone() -> None:
    script = "import sys, torch; before = set(sys.modules); import fused_rnn; print(*sys.modules.keys() - before)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = result.stdout.split()
    roots = {name.partition(".")[0] for name in imported}
    assert roots & set(importlib.metadata.packages_distributions()) <= {"fused_rnn", "torch"}
    assert not [name for name in imported if name.startswith(("torch._dynamo", "torch._inductor", "torch.onnx"))]
