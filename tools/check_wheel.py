"""Installs a wheel in fresh environments, each with another torch and without a compiler, and runs it there.

Usage: python -m tools.check_wheel WHEEL [--torch torch==2.11.0 ...]

What runs is the comparison with torch.nn's layers of tools/check_abi.py, and README's examples. Without --torch the
environments have the oldest torch that the package takes and the newest that pip installs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from build_support.toolchain import MIN_TORCH, ROOT
from tools.check_abi import SMOKE_TEST

TORCHES = (f"torch=={MIN_TORCH[0]}.{MIN_TORCH[1]}.*", "torch")


def program() -> str:
    """What must run wherever the wheel is installed."""
    examples = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join((SMOKE_TEST, *examples))


def installs(wheel: Path, torch: str, folder: Path) -> bool:
    """Whether the wheel works beside this torch in a new environment, where no program but Python is in PATH."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = str(folder / "bin")
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", torch, str(wheel.resolve())]
    commands = (install, [python, "-c", program()])
    return all(subprocess.run(each, cwd=folder, env=environment, check=False).returncode == 0 for each in commands)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", action="append", metavar="REQUIREMENT", help="what pip installs as torch")
    options = parser.parse_args()
    failed = []
    for torch in options.torch or TORCHES:
        with tempfile.TemporaryDirectory() as folder:
            if not installs(options.wheel, torch, Path(folder)):
                failed.append(torch)
    print(f"{options.wheel.name}: {'fails beside ' + ', '.join(failed) if failed else 'works'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
