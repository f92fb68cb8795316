"""Stage peers: forward passes beside the kernels of FlashRNN and xlstm, where these are installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from . import peers
from .records import parse_lines
from .stages import FOLDER, run_logged

if TYPE_CHECKING:
    from .worker import Work

_SPARE_SECONDS = 2.0


def run(work: Work) -> int:
    """Record each case of a package; no peer makes the check fail."""
    names = [f"{work.part}: {case.name}" for case in peers.CASES[work.part]]
    if find_spec(work.part) is None:
        work.record(case=work.part, status="skipped", reason=f"{work.part} is not installed")
        return 0
    command = [sys.executable, "-W", "ignore", "-m", f"{__package__}.peers", work.part]
    code, text = run_logged(command, FOLDER / f"peers.{work.part}.out", work.left - _SPARE_SECONDS)
    print(text[-4000:])
    found = {str(line["case"]): line for line in parse_lines(text) if line.get("case") in names}
    why = "it had not compiled its kernels in time; a second run finds them" if code is None else "it broke off"
    for name in names:
        work.record(**found.get(name, {"case": name, "status": "skipped", "reason": f"{work.part}: {why}"}))
    return 0
