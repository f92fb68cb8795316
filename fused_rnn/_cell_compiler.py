"""Compile a written cell with the kernels' headers, keep the library, and load it.

A library is named after the cell, its type, the instruction set and the sources it was compiled from; so one folder
serves all processes, versions and processors. Of processes that want the same library one compiles it.

Environment: CXX (the compiler), FUSED_RNN_CXXFLAGS (flags for it, after those of the kernels: -O0 -g for a debugger),
FUSED_RNN_CACHE (the folder; default ~/.cache/fused_rnn).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from fused_rnn import _ops
from fused_rnn._cell_headers import headers, headers_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fused_rnn._cell_source import CellSource

# The type of each library, in C++: in the namespace of its kernels, and as a DataType.
CPP_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "BFloat16",
    torch.float16: "Float16",
}
DATA_TYPES = {
    torch.float32: "kFloat32",
    torch.float64: "kFloat64",
    torch.bfloat16: "kBFloat16",
    torch.float16: "kFloat16",
}

_MODULE = """\
// A library with one cell for one type, written by fused_rnn.
#include "cpu/cell_module.h"

#include "{title}.h"

extern "C" __attribute__((visibility("default"))) const fused_rnn::CellModule& fused_rnn_cell_module(
    const fused_rnn::CpuRuntime& runtime) {{
  using namespace fused_rnn;
  return cell_module<own::{title}, {type}>(runtime, DataType::{data_type}, "{sources}");
}}
"""


class CompileError(RuntimeError):
    """A cell cannot be compiled: there is no compiler, or it failed."""


@cache
def sources_mark(kernels: str = "cpu") -> str:
    """A mark of the headers, by which a library belongs to a version of the kernels, those of csrc/cpu or csrc/cuda.

    Kernels of one version, called by a library of another, would read memory that is not theirs.
    """
    if headers_mark() != _ops.HEADERS_MARK:
        raise CompileError(f"the headers in {headers()} are not those that fused_rnn was built from: build it again")
    text = _ops.CELL_FLAGS + headers_mark("core", "cells", kernels)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def find_compiler() -> list[str]:
    """The words of CXX, or the first compiler in PATH."""
    names = [os.environ["CXX"]] if os.environ.get("CXX", "").strip() else ["c++", "g++", "clang++"]
    try:
        found = next((words for words in map(shlex.split, names) if shutil.which(words[0])), None)
    except ValueError as error:
        raise CompileError(f"CXX is no command ({error}): {names[0]}") from None
    if found is None:
        raise CompileError(
            f"no C++ compiler was found (looked for {', '.join(names)}): install g++ 12, or set CXX (with a path with "
            "spaces in quotes)"
        )
    return found


def further_flags() -> list[str]:
    """The words of FUSED_RNN_CXXFLAGS."""
    try:
        return shlex.split(os.environ.get("FUSED_RNN_CXXFLAGS", ""))
    except ValueError as error:
        raise CompileError(f"FUSED_RNN_CXXFLAGS are no flags ({error})") from None


def name_of(dtype: torch.dtype) -> str:
    """A type in the names of libraries, and to users."""
    return str(dtype).removeprefix("torch.")


def library_name(source: CellSource, dtype: torch.dtype, isa: str) -> str:
    """The file of a cell's library."""
    return f"{source.name}-{name_of(dtype)}-{isa}-{sources_mark()}.so"


def cache_folder() -> Path:
    """Where libraries are kept; those with other flags than the kernels' have a folder of their own."""
    if os.environ.get("FUSED_RNN_CACHE"):
        folder = Path(os.environ["FUSED_RNN_CACHE"]).expanduser().resolve()
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "fused_rnn"
    flags = shlex.join(further_flags())
    return folder / f"flags-{hashlib.sha256(flags.encode()).hexdigest()[:12]}" if flags else folder


def load(source: CellSource, dtype: torch.dtype) -> None:
    """Have the kernels of a cell for a type: from the cache, or compiled."""
    isa = _ops.active_isa()

    def use(path: Path) -> None:
        compile_library(source, dtype, isa, path)
        _ops.load_cell(str(path), sources_mark(), dtype)

    in_cache(library_name(source, dtype, isa), use)


def in_cache(name: str, use: Callable[[Path], None]) -> None:
    """`use` a file of the cache, which makes it where it is not there."""
    try:
        use(cache_folder() / name)
    except CompileError:
        raise
    except (OSError, RuntimeError):  # a folder that cannot be written, or nobody's home: for this process alone
        with tempfile.TemporaryDirectory() as folder:
            use(Path(folder, name))


def _sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a library is there as it was compiled: a damaged one would end the process."""
    return _flags_of(path) is not None


def _flags_of(path: Path) -> str | None:
    """The further flags that a library was compiled with; None where it is not whole."""
    try:
        known, _, flags = path.with_suffix(".sum").read_text().partition(" ")
        return flags if known == _sum_of(path) else None
    except (OSError, UnicodeDecodeError):
        return None


def compile_library(source: CellSource, dtype: torch.dtype, isa: str, path: Path) -> None:
    """Have a cell compiled for a type and an instruction set."""
    text = text_of(_MODULE, source, dtype, sources_mark())

    def command() -> list[str]:
        flags = json.loads(_ops.CELL_FLAGS)
        return [*find_compiler(), *flags["common"], *flags[isa], *further_flags(), "-shared"]

    make(path, source, f"{name_of(dtype)}, {isa}", Module("module.cpp", text, command))


def text_of(module: str, source: CellSource, dtype: torch.dtype, sources: str) -> str:
    """The source of a library of a cell for a type."""
    return module.format(title=source.title, type=CPP_TYPES[dtype], data_type=DATA_TYPES[dtype], sources=sources)


class Module(NamedTuple):
    """The source of a library beside its cell."""

    file: str
    text: str
    command: Callable[[], list[str]]  # the compiler with its flags, without folders and files


def make(path: Path, source: CellSource, purpose: str, module: Module) -> None:
    """Compile a library where it is not there with these flags; nothing where another process has done it meanwhile."""
    flags = shlex.join(further_flags())
    if _flags_of(path) == flags:
        return
    command = module.command()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(path.with_suffix(".lock")):
        if _flags_of(path) == flags:
            return
        print(f"fused_rnn: compiling the cell {source.title} for {purpose} (once) ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            Path(folder, f"{source.title}.h").write_text(source.text)
            text = Path(folder, module.file)
            text.write_text(module.text)
            made = Path(folder, path.name)
            command = [*command, "-I", str(headers()), "-I", folder, str(text), "-o", str(made)]
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if result.returncode != 0:
                raise CompileError(
                    f"the cell {source.title} did not compile: {shlex.join(command)}\n{result.stdout[-4000:]}"
                )
            if result.stdout:
                path.with_suffix(".log").write_text(result.stdout)
            path.with_suffix(".sum").write_text(f"{_sum_of(made)} {flags}".rstrip())
            made.replace(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
