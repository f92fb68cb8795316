"""Shows that one binary serves several versions of torch: by its symbols, and by running it under other interpreters.

Usage: python -m tools.check_abi [--python OTHER/bin/python ...]

Every OTHER is a Python of the same minor version in whose environment another torch is installed (nothing else is
needed there). What is built here, not a copy compiled again, is run in each of them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from build_support.ninja import OPS_LIBRARY
from build_support.toolchain import ROOT

# What the operators' library may take from elsewhere: torch's C interface, OpenMP, and the C and C++ runtimes, whose
# symbols carry a version.
ALLOWED = re.compile(
    r"aoti_torch_|torch_|GOMP_|omp_|__kmpc_|__gmon_start__|_ITM_|__cxa_|_Unwind_|.*@(GLIBC|GCC|CXXABI)"
)
# The Python module also takes Python, and our own functions from that library.
ALLOWED_IN_MODULE = re.compile(rf"_?Py|_Z(TI|N|NK)9fused_rnn|{ALLOWED.pattern}")

SMOKE_TEST = """
import torch
import fused_rnn
for name in ("LSTM", "GRU", "RNN"):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(7, 19, num_layers=2, bidirectional=True)
    ours = getattr(fused_rnn, name)(7, 19, num_layers=2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(11, 3, 7)
    for layer in (ours, theirs):
        layer(x)[0].square().sum().backward()
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], atol=1e-6, rtol=1e-5)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, atol=1e-4, rtol=1e-4)
print("torch", torch.__version__, "runs", fused_rnn.build_info())
"""


def built_module() -> Path:
    """The extension module in the checkout."""
    path = ROOT / "fused_rnn" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not path.exists():
        raise SystemExit(f"{path} is not built: run `make build`")
    return path


def built_library() -> Path:
    """The operators' library beside the module."""
    return built_module().with_name(OPS_LIBRARY)


def undefined_symbols(path: Path) -> list[str]:
    """Names that a library takes from elsewhere."""
    nm = shutil.which("nm")
    if nm is None:
        raise SystemExit("nm (binutils) is needed")
    listing = subprocess.run([nm, "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in listing.stdout.splitlines()]


def foreign_symbols() -> list[str]:
    """Undefined symbols that bind what is built to one build of torch, such as C++ names of c10 and at."""
    rules = ((built_library(), ALLOWED), (built_module(), ALLOWED_IN_MODULE))
    return [name for path, allowed in rules for name in undefined_symbols(path) if not allowed.match(name)]


def smoke_test(python: str) -> bool:
    """Runs what is built under another interpreter and the torch that is installed there."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "fused_rnn")
        package.mkdir()
        for path in [*(ROOT / "fused_rnn").glob("*.py"), built_module(), built_library()]:
            shutil.copy2(path, package)
        command = [python, "-c", SMOKE_TEST]
        return subprocess.run(command, cwd=folder, env={"PYTHONPATH": folder}, check=False).returncode == 0


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], help="another interpreter to run the module under")
    others = parser.parse_args().python
    foreign = foreign_symbols()
    print(f"{len(foreign)} symbols outside torch's C interface {' '.join(foreign)}".rstrip())
    results = [smoke_test(python) for python in [sys.executable, *others]]
    return 0 if not foreign and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
