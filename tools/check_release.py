"""Says what is missing for a release of this checkout under a tag; the workflow of releases asks it first.

Usage: python -m tools.check_release v0.2.0
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from build_support import toolchain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = toolchain.ROOT


def missing(root: Path, tag: str) -> Iterator[str]:
    """What the tag, the version, the changelog and CITATION.cff do not agree about."""
    version = toolchain.version(root) or "none"
    if tag != f"v{version}":
        yield f"the tag is {tag}, and the version of fused_rnn/__init__.py is {version}"
    coming, *sections = re.split(r"^## \[(?=\d)", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    dated = re.match(r"(\S+)\] - (\d{4}-\d\d-\d\d)$", sections[0], re.MULTILINE) if sections else None
    if dated is None or dated[1] != version:
        yield f"CHANGELOG.md has no section of {version} with a date before all others"
    elif f"\nversion: {version}\ndate-released: {dated[2]}\n" not in (root / "CITATION.cff").read_text():
        yield f"CITATION.cff is not of {version} and {dated[2]}"
    if re.search(r"^- ", coming, re.MULTILINE):
        yield f"CHANGELOG.md has entries that are not in {version}, under [Unreleased]"


def main() -> int:
    """The exit code; a line for each thing that is missing."""
    found = list(missing(ROOT, *sys.argv[1:]))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
