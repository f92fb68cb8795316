"""Holds the source tree to the dependency table of docs/design.md and to the conventions that a program can check.

It has over 400 lines since the tables name every folder and module.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
from torch.utils import _device

from build_support import native
from tests import conftest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = native.ROOT

# Folder of csrc: the folders it may include from, and what of the outside world besides the C++ standard library.
CSRC_RULES: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "core": ({"core"}, ()),
    "cells": ({"core", "cells"}, ()),
    "cpu": (
        {"core", "cells", "cpu"},
        ("omp.h", "pthread.h", "dlfcn.h", "sched.h", "unistd.h", "sys/auxv.h", "cpuid.h", "immintrin.h", "arm_neon.h"),
    ),
    "stream": ({"core", "cells", "cpu", "stream"}, ("fused_rnn.h", "immintrin.h")),
    "cuda": ({"core", "cells", "cuda"}, ("cuda",)),
    "binding": ({"core", "cells", "cpu", "cuda", "binding"}, ("torch/",)),
    "python": ({"core", "cells", "cpu", "cuda", "binding", "python"}, ("pybind11/",)),
}
# Folder of csrc/cpu: the folders of csrc/cpu it may include from. The files beside them may include from all.
CPU_RULES: dict[str, set[str]] = {
    "simd": {"simd"},
    "runtime": {"runtime"},
    "gemm": {"simd", "runtime", "gemm"},
    "pass": {"simd", "runtime", "gemm", "pass"},
    "schedules": {"simd", "runtime", "gemm", "pass", "schedules"},
}
# Module of fused_rnn: the modules of the package that it may import.
PACKAGE_RULES: dict[str, set[str]] = {
    module: set(allowed.split())
    for module, allowed in {
        "_modes": "",
        "_tensors": "",
        "_unbuilt": "",
        "_ops": "_modes _tensors _unbuilt",
        "_shapes": "_ops _tensors",
        "_fork": "_ops",
        "_norm": "_modes _ops _saved _tensors",
        "_reference": "_modes _norm _ops _tensors",
        "_vmap": "_ops _tensors",
        "_products": "_modes _ops _tensors",
        "_saved": "_modes",
        "_strict": "_modes",
        "_weight_gradients": "_products _reference _tensors",
        "_route": "_modes _ops _products _tensors _variants",
        "_autograd": "_modes _ops _reference _route _saved _strict _tensors _vmap _weight_gradients",
        "_short_calls": "_modes _ops _tensors",
        "_whole_layer": "_autograd _ops _products _route _saved _short_calls _strict _tensors",
        "_packed": "_modes",
        "_variants": "_norm _ops _tensors",
        "_heads": "_tensors _variants",
        "_autocast": "_ops",
        "_onnx": "_autocast _autograd _tensors",
        "_layers": "_autocast _autograd _heads _modes _onnx _ops _packed _products _route _tensors _variants"
        " _whole_layer",
        "_cell_graph": "",
        "_cell_functions": "_cell_graph",
        "_cell_source": "_cell_graph",
        "_cell_compiler": "_cell_headers _cell_source _ops",
        "_cell_headers": "",
        "_cuda_cells": "_cell_compiler _cell_source _ops",
        "cells": "_cell_compiler _cell_functions _cell_graph _cell_source _ops _reference",
        "cells/__main__": "cells",
        "_published_cells": "cells",
        "_checks": "_modes _tensors",
        "_ragged": "_checks _modes",
        "_flat_weights": "",
        "_scripting": "",
        "_tracing": "_checks",
        "_flops": "_ops",
        "_signatures": "",
        "_calls": "_checks _layers _packed _ragged",
        "_recurrent_layer": "_calls _checks _flat_weights _heads _layers _ops _scripting _tensors _tracing _variants",
        "_recurrent_cell": "_calls _checks _flat_weights _layers _scripting _tensors _tracing",
        "_recurrent": "_cell_compiler _checks _cuda_cells _flat_weights _heads _modes _ops _recurrent_layer _signatures"
        " _tensors _variants cells",
        "_published_layers": "_published_cells _recurrent _signatures cells",
        "modules": "_checks _recurrent_cell _recurrent_layer _signatures _variants",
        "_swap": "_recurrent_layer",
        "convert": "_recurrent_layer _signatures _swap _variants modules",
        "_int8_layers": "_layers _onnx _ops _route _tensors",
        "_quantizable": "_int8_layers _recurrent_layer _swap _variants",
        "quantized": "_calls _checks _int8_layers _layers _modes _quantizable _recurrent_layer"
        " _scripting _signatures _swap _tensors _tracing modules",
        "stepper": "_checks _modes _ops _recurrent_layer _signatures _swap _variants convert quantized",
        "_check_cell": "_ops _recurrent cells stepper",
        "_faster": "_ops",
        "cmake": "",
        "_stream_cells": "_keras _published_cells cells",
        "stream": "_int8_layers _recurrent_layer _stream_cells _swap quantized stepper",
        "_explain": "_checks _faster _layers _modes _ops _recurrent_cell _recurrent_layer _route _signatures quantized",
        "_keras": "_recurrent _recurrent_layer cells modules",
        "_stream_json": "_keras stream",
        "__main__": "_explain",
        "_patch": "modules",
        "__init__": "_check_cell _checks _explain _flops _fork _keras _patch _published_layers _recurrent _shapes"
        " _stream_json _strict cells convert modules quantized stepper stream",
    }.items()
}
# Folder or file with Python outside the package: the top-level names of the project that it may import.
# `bench` imports itself only by relative imports, since it has another name once installed.
OUTSIDE_RULES: dict[str, set[str]] = {
    "bench": {"fused_rnn"},
    "build_support": {"build_support"},
    "docs": {"fused_rnn"},
    "examples": {"fused_rnn"},
    "setup.py": {"build_support"},
    "tests": {"bench", "build_support", "examples", "fused_rnn", "tests", "tools"},
    "tools": {"bench", "build_support", "fused_rnn", "tests", "tools"},  # the GPU check has the problems of bench
}
LOOK_INSIDE = {"tests", "tools"}  # at more than the public API
OWN_NAMES = {"fused_rnn", "fused_rnn_bench", "bench", "build_support", "tests", "tools", "examples"}
ACYCLIC = ("fused_rnn", "bench", "build_support", "tools")  # folders without a circle of imports

LONGEST_FILE = 400
LONGEST_FUNCTION = 80
NATIVE_MARCH = "-march=" + "native"  # not spelled out, since this file is searched too


def cpp_files(root: Path) -> list[Path]:
    names = ["csrc", "examples", "tests/native", "tests/stream", "tests/cuda_on_cpu", "tools/micro", "tools/native"]
    return sorted(
        path for name in names for path in (root / name).rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"}
    )


def python_files(root: Path) -> list[Path]:
    folders = ["fused_rnn", "bench", "build_support", "docs", "tests", "examples", "tools"]
    inside = [path for folder in folders for path in (root / folder).rglob("*.py")]
    return sorted([*inside, *root.glob("*.py")])


def include_violations(root: Path) -> Iterator[str]:
    for path in cpp_files(root / "csrc" / ".."):
        parts = path.resolve().relative_to(root.resolve()).parts
        if parts[0] != "csrc":
            continue
        name = "/".join(parts)
        if parts[1] not in CSRC_RULES:
            yield f"{name}: no rule for this folder"
            continue
        folders, outside = CSRC_RULES[parts[1]]
        for form, target in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE):
            standard = form == "<" and "/" not in target and "." not in target
            allowed = (
                target.split("/")[0] in folders and (root / "csrc" / target).exists()
                if form == '"'
                else standard or target.startswith(outside or ("//",))
            )
            if not allowed or not cpu_folder_allows(parts, target):
                yield f"{name}: may not include {target}"


def cpu_folder_allows(parts: tuple[str, ...], target: str) -> bool:
    """Whether a file below a folder of csrc/cpu may include a file of csrc/cpu."""
    if parts[1] != "cpu" or len(parts) < 4 or parts[2] == "isa" or not target.startswith("cpu/"):
        return True
    return target.split("/")[1] in CPU_RULES.get(parts[2], set())


def imports_of(path: Path) -> Iterator[tuple[str, list[str], int]]:
    """Each import as (module, names, level); `import a.b` has no names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names], node.level


def package_violations(root: Path) -> Iterator[str]:
    for path in sorted((root / "fused_rnn").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        module = module_of(path, root)
        if module not in PACKAGE_RULES:
            yield f"{name}: no rule for this module"
            continue
        for imported, names, level in imports_of(path):
            words = ["fused_rnn", *imported.split(".")] if level else imported.split(".")
            words = [word for word in words if word]
            if words[0] in OWN_NAMES - {"fused_rnn"}:
                yield f"{name}: may not import {words[0]}"
            if words[0] == "fused_rnn":
                # `from fused_rnn import x` may name a module or, wrongly in here, something public of __init__.
                targets = {words[1]} if len(words) > 1 else set(names) or {"__init__"}
                yield from (f"{name}: may not import {one}" for one in sorted(targets - PACKAGE_RULES[module]))


def module_of(path: Path, root: Path) -> str:
    """The name of a module of the package in PACKAGE_RULES: `cells` for cells/__init__.py."""
    name = path.relative_to(root / "fused_rnn").with_suffix("").as_posix()
    return name.removesuffix("/__init__")


def private_violations(root: Path) -> Iterator[str]:
    """Private flags of torch are read in one file, so that a new torch is looked at in one place."""
    for path in sorted((root / "fused_rnn").rglob("*.py")):
        if path.stem == "_modes":
            continue
        name, tree = f"fused_rnn/{path.name}", ast.parse(path.read_text())
        for module, names, _ in imports_of(path):
            words = module.split(".")
            if words[0] == "torch" and any(word.startswith("_") for word in [*words, *names]):
                yield f"{name}: only _modes.py may look at what is private in torch, not {module}"
        for node in ast.walk(tree):
            words = ast.unparse(node).split(".") if isinstance(node, ast.Attribute) else []
            if (
                words[:1] in (["torch"], ["forward_ad"])
                and words[1] != "ops"
                and words[-1].startswith("_")
                and words[-1] != "__version__"
            ):
                yield f"{name}: only _modes.py may look at {ast.unparse(node)}"


def outside_violations(root: Path) -> Iterator[str]:
    for folder, allowed in OUTSIDE_RULES.items():
        for path in [root / folder] if (root / folder).is_file() else sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            for module, names, level in imports_of(path):
                words = module.split(".")
                if level:
                    # bench/x.py is one folder deep: `from ..` there leaves the package.
                    if level > len(path.relative_to(root).parts) - 1:
                        yield f"{name}: relative import out of {folder}"
                elif words[0] in OWN_NAMES - allowed:
                    yield f"{name}: may not import {module}"
                elif words[0] == "fused_rnn" and folder not in LOOK_INSIDE:
                    private = [word for word in [*words[1:], *names] if word.startswith("_") and word != "__version__"]
                    if private or words not in (["fused_rnn"], ["fused_rnn", "cells"]):
                        yield f"{name}: may use only the public API, not {module} {' '.join(names)}".rstrip()
            if folder not in LOOK_INSIDE and uses_private_attribute(path):
                yield f"{name}: may use only the public API, not fused_rnn._*"


def loaded_by(path: Path, root: Path) -> set[str]:
    """The files of the project that a file imports, wherever in it and for types too."""
    package = list(path.relative_to(root).parts[:-1])
    found: list[list[str]] = []
    for module, names, level in imports_of(path):
        base = [*package[: len(package) - level + 1], *module.split(".")] if level else module.split(".")
        words = [word for word in base if word]
        # What is imported from a package may be a file of it; else it is the package itself.
        found += [[*words, name] if is_module(root, [*words, name]) else words for name in names] or [words]
    return {".".join(words) for words in found if is_module(root, words)}


def is_module(root: Path, words: list[str]) -> bool:
    path = root.joinpath(*words)
    return bool(words) and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file())


def cycle_violations(root: Path) -> Iterator[str]:
    """Files that load nothing of the others are taken away, again and again; what is left has a circle."""
    left: dict[str, set[str]] = {}
    for folder in ACYCLIC:
        for path in (root / folder).rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            left[name] = loaded_by(path, root)
    while free := [name for name, loaded in left.items() if not loaded & left.keys()]:
        for name in free:
            del left[name]
    if left:
        yield f"a circle of imports, with what leads to it: {', '.join(sorted(left))}"


def uses_private_attribute(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "fused_rnn"
        and node.attr.startswith("_")
        and node.attr != "__version__"
        for node in ast.walk(ast.parse(path.read_text()))
    )


def opening_comment(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("//")), len(lines))
    return "\n".join(line.removeprefix("//").strip() for line in lines[:end])


def file_violations(root: Path) -> Iterator[str]:
    for path in [*cpp_files(root), *python_files(root)]:
        name = path.relative_to(root).as_posix()
        comment, text = opening_comment(path), path.read_text()
        if text and not (comment and text.startswith(('"""', "//"))):
            yield f"{name}: the first line must say the purpose of the file"
        if len(text.splitlines()) > LONGEST_FILE and f"{LONGEST_FILE} lines" not in comment:
            yield f"{name}: over {LONGEST_FILE} lines, and its opening comment does not say why"
        if NATIVE_MARCH in text:
            yield f"{name}: {NATIVE_MARCH} makes a binary that other machines cannot run"
    for name in ("Makefile", "pyproject.toml", ".ci/run"):
        if (root / name).exists() and NATIVE_MARCH in (root / name).read_text():
            yield f"{name}: {NATIVE_MARCH} makes a binary that other machines cannot run"


def function_violations(root: Path) -> Iterator[str]:
    for path in python_files(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
                yield f"{path.relative_to(root).as_posix()}: {node.name} has over {LONGEST_FUNCTION} lines"


def device_violations(root: Path) -> Iterator[str]:
    """A factory of tensors without a device makes them on the default one, which is the user's."""
    factories = {factory.__name__ for factory in _device._device_constructors()}
    for path in sorted((root / "fused_rnn").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in factories:
                named = any(keyword.arg == "device" for keyword in node.keywords)
                if isinstance(node.func.value, ast.Name) and node.func.value.id == "torch" and not named:
                    yield f"fused_rnn/{path.name}: torch.{node.func.attr} names no device"


def violations(root: Path) -> list[str]:
    """Everything in the tree that breaks a rule."""
    checks = (
        *(include_violations, package_violations, private_violations, outside_violations),
        *(cycle_violations, file_violations, function_violations, device_violations),
    )
    return [violation for check in checks for violation in check(root)]


def test_the_tree_keeps_the_rules() -> None:
    assert violations(ROOT) == []


def test_every_layer_is_looked_at() -> None:
    assert {path.relative_to(ROOT / "csrc").parts[0] for path in (ROOT / "csrc").rglob("*.*")} == set(CSRC_RULES)
    assert {path.name for path in (ROOT / "csrc/cpu").iterdir() if path.is_dir()} == {*CPU_RULES, "isa"}
    assert {module_of(path, ROOT) for path in (ROOT / "fused_rnn").rglob("*.py")} == set(PACKAGE_RULES)


VIOLATING_FILES = {
    "csrc/core/a.h": ("// A.\n#include <torch/torch.h>\n", "csrc/core/a.h: may not include torch/torch.h"),
    "csrc/core/b.h": ('// B.\n#include "cells/cell.h"\n', "csrc/core/b.h: may not include cells/cell.h"),
    "csrc/core/c.h": ("// C.\n#  include <omp.h>\n", "csrc/core/c.h: may not include omp.h"),
    "csrc/cells/d.h": ('// D.\n#include "cpu/simd/vec.h"\n', "csrc/cells/d.h: may not include cpu/simd/vec.h"),
    "csrc/cpu/isa/e.cpp": ('// E.\n#include "binding/x.h"\n', "csrc/cpu/isa/e.cpp: may not include binding/x.h"),
    "csrc/cpu/f.h": ('// F.\n#include "cpu/absent.h"\n', "csrc/cpu/f.h: may not include cpu/absent.h"),
    "csrc/cpu/gemm/j.h": ('// J.\n#include "cpu/pass/k.h"\n', "csrc/cpu/gemm/j.h: may not include cpu/pass/k.h"),
    "csrc/magic/g.h": ("// G.\n", "csrc/magic/g.h: no rule for this folder"),
    "csrc/cpu/h.h": ("#pragma once\n", "csrc/cpu/h.h: the first line must say the purpose of the file"),
    "csrc/cpu/i.h": ("// I.\n" * 401, "csrc/cpu/i.h: over 400 lines, and its opening comment does not say why"),
    "fused_rnn/_ops.py": ('"""O."""\nfrom . import modules\n', "fused_rnn/_ops.py: may not import modules"),
    "fused_rnn/_layers.py": (
        '"""L."""\nfrom fused_rnn._shapes import CELLS\n',
        "fused_rnn/_layers.py: may not import _shapes",
    ),
    "fused_rnn/convert.py": ('"""C."""\nimport fused_rnn\n', "fused_rnn/convert.py: may not import __init__"),
    "fused_rnn/modules.py": ('"""M."""\nimport bench.timing\n', "fused_rnn/modules.py: may not import bench"),
    "fused_rnn/_packed.py": (
        '"""P."""\nimport torch\nx = torch.zeros(3, device="cpu")\ny = torch.zeros(3)\n',
        "fused_rnn/_packed.py: torch.zeros names no device",
    ),
    "fused_rnn/_saved.py": (
        '"""S."""\nimport torch\nx = torch.compiler._is_exporting_flag\n',
        "fused_rnn/_saved.py: only _modes.py may look at torch.compiler._is_exporting_flag",
    ),
    "fused_rnn/_reference.py": (
        '"""P."""\nfrom torch._dynamo import reset\n',
        "fused_rnn/_reference.py: only _modes.py may look at what is private in torch, not torch._dynamo",
    ),
    "fused_rnn/surprise.py": ('"""S."""\n', "fused_rnn/surprise.py: no rule for this module"),
    "bench/a.py": (
        '"""A."""\nfrom fused_rnn._ops import forward\n',
        "bench/a.py: may use only the public API, not fused_rnn._ops forward",
    ),
    "bench/b.py": (
        '"""B."""\nimport fused_rnn\nfused_rnn._C.plan()\n',
        "bench/b.py: may use only the public API, not fused_rnn._*",
    ),
    "bench/c.py": ('"""C."""\nfrom bench import timing\n', "bench/c.py: may not import bench"),
    "bench/workloads/d.py": (
        '"""D."""\nfrom ...tests import x\n',
        "bench/workloads/d.py: relative import out of bench",
    ),
    "bench/f.py": ('"""F."""\nfrom .f import x\n', "a circle of imports, with what leads to it: bench.f"),
    "examples/e.py": ('"""E."""\nimport tests.reference\n', "examples/e.py: may not import tests.reference"),
    "tools/g.py": ('"""G."""\nimport examples.ppo\n', "tools/g.py: may not import examples.ppo"),
    "tools/f.py": ("import os\n", "tools/f.py: the first line must say the purpose of the file"),
    "build_support/h.py": ('"""H."""\nimport fused_rnn\n', "build_support/h.py: may not import fused_rnn"),
    "build_support/i.py": (
        '"""I."""\nfrom tests.reference import lstm\n',
        "build_support/i.py: may not import tests.reference",
    ),
    "setup.py": ('"""S."""\nfrom fused_rnn import LSTM\n', "setup.py: may not import fused_rnn"),
    "tests/k.py": ('"""K."""\ndef long():\n' + "    pass\n" * 80, "tests/k.py: long has over 80 lines"),
    "Makefile": (f"X = {NATIVE_MARCH}\n", f"Makefile: {NATIVE_MARCH} makes a binary that other machines cannot run"),
}


@pytest.mark.parametrize("name", VIOLATING_FILES)
def test_a_violating_file_is_reported(name: str, tmp_path: Path) -> None:
    text, message = VIOLATING_FILES[name]
    for existing in ("csrc/cells/cell.h", "csrc/cpu/simd/vec.h", "csrc/cpu/pass/k.h", "csrc/binding/x.h"):
        (tmp_path / existing).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / existing).write_text("// Present.\n")
    assert violations(tmp_path) == []
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert violations(tmp_path) == [message]


def test_every_name_of_what_is_first_or_slow_is_one() -> None:
    tests = ROOT / "tests"
    assert [name for name in (*conftest.FIRST, *conftest.SLOW) if not (tests / name).is_file()] == []
    for file, kept in conftest.SLOW.items():
        text = (tests / file).read_text()
        # Of a parametrized test the first part of its parameters, without the brackets.
        assert [word for word in kept if word.strip("[]").split("-")[0] not in text] == [], file
