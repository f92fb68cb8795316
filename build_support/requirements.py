"""Prints what an extra of the package needs from elsewhere: `python -m build_support.requirements dev`.

So that it can be installed while the package is compiled.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from build_support.toolchain import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator


def requirements(extra: str, extras: dict[str, list[str]]) -> Iterator[str]:
    """Those of an extra, with the extras that it names."""
    for wanted in extras[extra]:
        own = re.fullmatch(r"fused_rnn\[(.*)\]", wanted)
        if own is None:
            yield wanted
        else:
            for name in own[1].split(","):
                yield from requirements(name.strip(), extras)


def main() -> None:
    """Print a requirement a line."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in sys.argv[1:]:
        print(*sorted(set(requirements(extra, project["optional-dependencies"]))), sep="\n")


if __name__ == "__main__":
    main()
