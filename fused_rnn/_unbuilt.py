"""What to say where the package has no compiled module: from where it was imported, and which other one would work."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import sys
from pathlib import Path
from typing import NamedTuple

_BUILD = "pip install --no-build-isolation -e ."


class Installed(NamedTuple):
    """Another fused_rnn, which is built."""

    folder: Path
    version: str | None


def explanation() -> str:
    """The message of the error."""
    folder = Path(__file__).resolve().parent
    found = f"fused_rnn is not built: it was imported from {folder}, which has no compiled module"
    others = sorted(path.name for path in folder.glob("_C.*") if path.suffix in {".so", ".pyd"})
    if others:
        found += f" for this Python (but {', '.join(others)})"
    installed = built_elsewhere(folder)
    if installed is None:
        return f"{found}. Run `{_BUILD}` in {folder.parent}, where torch is installed"
    version = f" {installed.version}" if installed.version else ""
    return (
        f"{found}. fused_rnn{version} is installed in {installed.folder}, but {folder.parent} comes before it in "
        f"sys.path: {_way_past(folder.parent)}; or build this one: `{_BUILD}`"
    )


def built_elsewhere(folder: Path) -> Installed | None:
    """The first fused_rnn that sys.path or an editable install finds outside of `folder` and that is built."""
    path = [entry for entry in sys.path if Path(entry or ".").resolve() != folder.parent]
    specs = [importlib.machinery.PathFinder.find_spec("fused_rnn", path)]
    # Editable installs have finders of their own, which come after the path.
    finders = [finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder]
    specs += [finder.find_spec("fused_rnn", None) for finder in finders if hasattr(finder, "find_spec")]
    for spec in specs:
        other = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
        if other is not None and other != folder and _is_built(other):
            return Installed(other, _version_in(path))
    return None


def _is_built(folder: Path) -> bool:
    return any((folder / f"_C{ending}").exists() for ending in importlib.machinery.EXTENSION_SUFFIXES)


def _version_in(path: list[str]) -> str | None:
    found = importlib.metadata.distributions(name="fused_rnn", path=path)
    return next((distribution.version for distribution in found), None)


def _way_past(root: Path) -> str:
    """How to import what `root` hides."""
    if Path(sys.path[0] or ".").resolve() == root and not getattr(sys.flags, "safe_path", False):
        return "run Python in another folder, or (from 3.11 on) as `python -P`"
    return "take it out of sys.path (PYTHONPATH)"
