"""Entry of the benchmark command: `python -m bench` in a checkout, `fused-rnn-bench` once installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_OPTIONAL = ("click", "matplotlib", "rich")


def main() -> None:
    """Run the command line; what it needs and is not there gives one line and exit code 2."""
    missing = [name for name in _OPTIONAL if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"error: the benchmark needs {', '.join(missing)}: pip install 'fused_rnn[bench]'\n")
        sys.exit(2)
    try:
        from .commands import cli
    except ImportError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    cli()


if __name__ == "__main__":
    main()
