"""TO BE DELETED with the line of tests/conftest.py that imports it: `quantized_layer` in Python, until C++ has it.

The package looks the operator up when it is imported. So this loads the compiled library first, by its path, and
defines the operator by the oracle where the library lacks it; where it has it, nothing happens.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests import quantized_reference

NAME = "fused_rnn._C"
SCHEMA = (
    "quantized_layer(str cell, Tensor x, Tensor w_ih, Tensor w_ih_scale, Tensor? b_ih, Tensor w_hh, Tensor w_hh_scale,"
    " Tensor? b_hh, Tensor? w_hr, Tensor? w_hr_scale, Tensor? h_0, Tensor? c_0, Tensor? lengths, Tensor? resets,"
    " int directions) -> (Tensor output, Tensor h_n, Tensor c_n)"
)
FOLDER = Path(__file__).resolve().parent.parent / "fused_rnn"

library: Any = torch.library.Library("fused_rnn", "FRAGMENT")  # type: ignore[no-untyped-call] # which holds the definition while it lives


def _layer(*arguments: object) -> tuple[Tensor, Tensor, Tensor]:
    output, h_n, c_n = quantized_reference.layer(*arguments)  # type: ignore[arg-type]
    return output, h_n, c_n


def _load() -> None:
    """The compiled library, where the package will find it."""
    if NAME in sys.modules:
        return
    path = next(path for end in importlib.machinery.EXTENSION_SUFFIXES for path in FOLDER.glob(f"_C{end}"))
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module


_load()
if not hasattr(torch.ops.fused_rnn, "quantized_layer"):
    library.define(SCHEMA)
    library.impl("quantized_layer", _layer, "CPU")
