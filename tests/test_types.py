"""What mypy and pyright say to programs that use the package: every typical mistake is found, nothing else is."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build_support.native import ROOT
from fused_rnn import modules

pytest.importorskip("mypy", reason="mypy comes with the extra `lint`")

CORRECT = """
import copy
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fused_rnn

x, resets = torch.randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
packed = pack_sequence([x[:, 0], x[:4, 1]])
lstm = fused_rnn.LSTM(3, 4, 2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, proj_size=2)
lstm = fused_rnn.LSTM(3, 4, device="cpu", dtype=torch.float64, layer_norm=True, zoneout=(0.1, 0.2), recompute=True)
lstm = fused_rnn.LSTM(3, 4, peephole=True, cell_clip=3.0, recurrent_dropout=0.1, weight_dropout=0.1, zoneout=0.1)
gru, rnn = fused_rnn.GRU(3, 4, zoneout=0.1), fused_rnn.RNN(3, 4, 1, "relu", device=torch.device("cpu"))
output, (h, c) = lstm(x)
output, (h, c) = lstm(x, (h, c), lengths=torch.tensor([5, 3]), resets=resets)
output, (h, c), cells = lstm(x, return_cells=True)
total: Tensor = output + cells
output, h = gru(x, lengths=[5, 3])
output, h = gru(x, h, lengths=np.array([5, 3]))
output, h = rnn.forward(x)
of_packed, (h, c) = lstm(packed)
sequence: PackedSequence = of_packed
sequence, h = gru(packed)
cell, nonlinearity = fused_rnn.LSTMCell(3, 4), "relu"
h, c = cell(x[0])
h, c = cell(x[0], (h, c))
h = fused_rnn.GRUCell(3, 4)(x[0], h)
choice: Literal["tanh", "relu"] = "tanh"
h = fused_rnn.RNNCell(3, 4, nonlinearity=choice)(x[0])
stepper = fused_rnn.Stepper(gru, 2, weights=torch.int8)
y: Tensor = stepper.step(x[0])
array = stepper.steps(np.zeros((5, 2, 3), np.float32))
model = fused_rnn.convert(torch.nn.Sequential(torch.nn.GRU(3, 4)))
plain: torch.nn.Sequential = fused_rnn.restore(copy.deepcopy(model))
found: fused_rnn.Explanation = fused_rnn.explain(lstm, x)
schedule: str = found.layers[0].schedule
text: str = fused_rnn.build_info()["version"]
with fused_rnn.strict(), fused_rnn.patch():
    pass


def run(keep: bool) -> Tensor:
    return lstm(x, return_cells=keep)[0]
"""
# One mistake a line, with what mypy has to say.
MISTAKES = (
    ('fused_rnn.LSTM("3", 4)', "arg-type"),
    ("fused_rnn.LSTM(3)", "call-arg"),
    ("fused_rnn.LSTM(3, 4, layernorm=True)", "call-arg"),
    ('fused_rnn.LSTM(3, 4, zoneout="0.1")', "arg-type"),
    ("fused_rnn.LSTM(3, 4, zoneout=(0.1, 0.2, 0.3))", "arg-type"),
    ("fused_rnn.LSTM(3, 4, num_layers=1.5)", "arg-type"),
    ('fused_rnn.LSTM(3, 4, batch_first="yes")', "arg-type"),
    ('fused_rnn.LSTM(3, 4, dtype="float32")', "arg-type"),
    ("fused_rnn.GRU(3, 4, zoneout=(0.1, 0.2))", "arg-type"),
    ("fused_rnn.GRU(3, 4, peephole=True)", "call-arg"),
    ("fused_rnn.GRU(3, 4, proj_size=2)", "arg-type"),
    ('fused_rnn.RNN(3, 4, nonlinearity="sigmoid")', "arg-type"),
    ("fused_rnn.RNN(3, 4, 1, True)", "arg-type"),
    ("fused_rnn.LSTMCell(3, 4, zoneout=0.1)", "call-arg"),
    ("fused_rnn.RNNCell(3, 4, num_layers=2)", "call-arg"),
    ("lstm(x, h)", "call-overload"),
    ("gru(x, (h, c))", "arg-type"),
    ("lstm([[1.0]])", "type-var|call-overload"),
    ("lstm(x, None, torch.tensor([5, 3]))", "call-overload"),
    ('gru(x, lengths="5")', "arg-type"),
    ("gru(x, lengths=[0.5])", "list-item"),
    ("gru(x, length=[5, 3])", "call-arg"),
    ("gru(x, return_cells=True)", "arg-type"),
    ("a, b, d = lstm(x)", "misc"),
    ("lstm(x).shape", "attr-defined"),
    ("gru(x).shape", "attr-defined"),
    ("cell(x[0]).sum()", "attr-defined"),
    ("cell(x[0], h)", "arg-type"),
    ("fused_rnn.GRUCell(3, 4)(packed)", "arg-type"),
    ('fused_rnn.Stepper(gru, batch_size="1")', "arg-type"),
    ("stepper.step([1.0])", "type-var"),
    ("fused_rnn.convert([gru])", "type-var"),
    ("fused_rnn.explain(lstm)", "call-arg"),
    ("fused_rnn.explain(lstm, x).schedule", "attr-defined"),
    ('fused_rnn.build_info()["cuda"] + 1', "operator"),
)


# Torch imports its compilers, exporters and the rest of itself everywhere. No type of a recurrent layer is from there.
WITHOUT = (
    *("_dynamo", "_export", "_functorch", "_higher_order_ops", "_inductor", "_subclasses"),
    *("ao", "distributed", "export", "fx", "onnx"),
)


def errors_of(program: str, folder: Path) -> dict[int, str]:
    """The kind of the first error of each line that has one."""
    (folder / "program.py").write_text(program)
    modules = ",".join(f"torch.{name}.*" for name in WITHOUT)
    (folder / "mypy.ini").write_text(f"[mypy]\n[mypy-{modules}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={folder}", "--no-color-output"]
    result = subprocess.run(
        [*command, "--follow-imports=silent", "program.py"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not result.stderr, result.stderr
    found = re.findall(r"^program\.py:(\d+): error: .*\[([a-z-]+)\]$", result.stdout, re.MULTILINE)
    return {int(line): kind for line, kind in reversed(found)}


PROGRAM = CORRECT + "\n".join(mistake for mistake, _ in MISTAKES)


def test_mypy_finds_each_mistake_and_nothing_else(tmp_path: Path) -> None:
    start = len(CORRECT.splitlines())
    found = errors_of(PROGRAM, tmp_path)
    assert {line: kind for line, kind in found.items() if line <= start} == {}
    kinds = {mistake: found.get(line, "none") for line, (mistake, _) in enumerate(MISTAKES, start + 1)}
    assert {mistake: kinds[mistake] for mistake, kind in MISTAKES if not re.fullmatch(kind, kinds[mistake])} == {}


# Beside Python or elsewhere; it is an npm package, of 20 MB, which the package of pip fetches when it is first called.
PYRIGHT = shutil.which("pyright", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.mark.skipif(PYRIGHT is None, reason="pyright comes with the extra `integrations`")
def test_pyright_finds_each_mistake_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"include": ["program.py"], "extraPaths": [str(ROOT)]}))
    command = [str(PYRIGHT), "--project", str(tmp_path), "--pythonpath", sys.executable, "--outputjson"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    errors = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    lines = PROGRAM.splitlines()
    assert {lines[each["range"]["start"]["line"]] for each in errors} == {mistake for mistake, _ in MISTAKES}


def test_a_call_has_the_types_of_forward() -> None:
    """Calls are typed for type checkers alone, where they could drift from what runs."""
    for node in ast.parse(Path(modules.__file__).read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        found: dict[str, list[str]] = {"forward": [], "__call__": []}
        for each in ast.walk(node):
            if isinstance(each, ast.FunctionDef) and each.name in found:
                arguments = ast.unparse(each.args).removesuffix(", **unknown: NoReturn")  # for advice alone
                found[each.name].append(f"{arguments} -> {ast.unparse(each.returns or each)}")
        assert found["forward"] == found["__call__"] != [], node.name
