"""The kernels' headers, with which cells are compiled, and marks of their text. The build reads this file, too."""

from __future__ import annotations

import hashlib
from pathlib import Path


def headers() -> Path:
    """The folder of the headers: in an installed package inside of it, in a checkout beside it."""
    package = Path(__file__).resolve().parent
    return package / "csrc" if (package / "csrc").is_dir() else package.parent / "csrc"


def headers_mark(*folders: str) -> str:
    """A mark of the headers in these folders of them, those that cells are compiled with if none is named."""
    digest = hashlib.sha256()
    for folder in folders or ("core", "cells", "cpu", "cuda"):
        for path in sorted((headers() / folder).rglob("*")):
            if path.suffix in {".h", ".cuh"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
