"""Objects of one instruction set share no symbol with the rest, since the linker would keep one copy of it for all."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from typing import TYPE_CHECKING

import pytest

from build_support import native
from build_support.ninja import glob

if TYPE_CHECKING:
    from pathlib import Path


def defined_symbols(object_file: Path) -> list[tuple[str, str]]:
    """Kind, as nm has it, and name of each."""
    nm = shutil.which("nm")
    assert nm is not None, "nm (binutils) is needed"
    listing = subprocess.run([nm, "--defined-only", str(object_file)], capture_output=True, text=True, check=True)
    return [(kind, name) for *_, kind, name in map(str.split, listing.stdout.splitlines())]


def shared_symbols(object_file: Path, namespace: str) -> list[str]:
    """Symbols that the linker merges with those of other objects although they were compiled for one instruction set.

    Of such a symbol only one copy survives, perhaps the one with instructions that the machine does not have.
    """
    symbols = defined_symbols(object_file)
    own = f"{len(namespace)}{namespace}"
    # DW.ref.* is the compiler's reference to the handler of exceptions: an address, not code.
    return [name for kind, name in symbols if kind in "WVu" and own not in name and not name.startswith("DW.ref.")]


def built_object(source: str) -> Path:
    name = source.replace(".cpp", ".o")
    found = sorted((native.ROOT / "build" / "native").glob(f"*{sysconfig.get_platform()}/{name}"))
    assert found, f"no {name} under build/native: run `make build`"
    return max(found, key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("name", native.isa_flags())
def test_an_instruction_set_shares_no_symbol_with_the_rest(name: str) -> None:
    sources = glob(f"csrc/cpu/isa/{name}/*.cpp")
    assert sources
    assert {source: shared_symbols(built_object(source), name) for source in sources} == {
        source: [] for source in sources
    }


@pytest.mark.parametrize("name", native.isa_flags())
def test_every_schedule_is_compiled_by_one_source_of_an_instruction_set(name: str) -> None:
    made: dict[str, list[str]] = {}
    for source in glob(f"csrc/cpu/isa/{name}/*.cpp"):
        for _, symbol in defined_symbols(built_object(source)):
            if "run_thread" in symbol:
                made.setdefault(symbol, []).append(source)
    assert made
    assert [sources for sources in made.values() if len(sources) > 1] == []


def test_a_shared_symbol_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "leak.cpp"
    source.write_text(
        "namespace fused_rnn {\ntemplate <class T> [[gnu::noinline]] T twice(T x) { return x + x; }\n"
        "inline namespace avx2 {\ntemplate <class T> [[gnu::noinline]] T thrice(T x) { return x + x + x; }\n"
        "float use(float x) { return twice(thrice(x)); }\n}\n}\n"
    )
    compiled = native.compile_cpp(["-std=c++20", "-O1", "-c", str(source)], tmp_path / "leak.o")
    (leak,) = shared_symbols(compiled, "avx2")
    assert "twice" in leak
