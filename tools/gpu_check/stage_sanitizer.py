"""Stage sanitizer: one tool of compute-sanitizer over the tiny problems of every schedule."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from . import machine
from .records import parse_lines
from .stages import FOLDER, run_logged

if TYPE_CHECKING:
    from .worker import Work

_FOUND_ERRORS = 9
_SHOWN_LINES = 12


def errors_in(text: str) -> int | None:
    """The number of errors (racecheck: of hazards) that the tool counted, None where it did not come to its summary."""
    counts = re.findall(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", text)
    return max((int(a or b) for a, b in counts), default=None)


def told_by(text: str) -> list[str]:
    """What the tool wrote besides its name and its summary."""
    lines = [line.strip("= ") for line in text.splitlines() if line.startswith("=========")]
    return [line for line in lines if line and line != "COMPUTE-SANITIZER" and "SUMMARY" not in line]


def run(work: Work) -> int:
    """Record what ran under the tool and what the tool said."""
    program = machine.find_program("compute-sanitizer")
    if program is None:
        work.record(case=work.part, status="skipped", reason="compute-sanitizer is not there")
        return 0
    script = [sys.executable, "-W", "ignore", "-m", f"{__package__}.tiny"]
    options = ["--tool", work.part, "--error-exitcode", str(_FOUND_ERRORS), "--print-limit", "20"]
    code, text = run_logged([program, *options, *script], FOLDER / f"{work.part}.log", work.left)
    cases = [line for line in parse_lines(text) if "case" in line]
    for line in cases:
        work.record(**{**line, "case": f"{work.part} {line['case']}"})
    errors, ran = errors_in(text), sum(line["status"] == "ok" for line in cases)
    said = [line for line in text.splitlines() if line.startswith("=========")]
    bad = bool(errors) or code not in {0, None} or not ran
    bad |= code is None and bool(told_by(text))  # it was stopped before its summary
    # Racecheck and synccheck slow kernels a hundredfold: too slow is not wrong, but what did not run is not checked.
    status = "failed" if bad else "slow" if code is None else "ok"
    work.record(case=work.part, status=status, errors=errors, ran=ran, asked=len(cases), said=said[:_SHOWN_LINES])
    print(text[-4000:])
    return int(bad)
