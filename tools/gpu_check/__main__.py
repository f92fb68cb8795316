"""The command: runs the chosen stages one after another, prints the report and writes its JSON."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from build_support.toolchain import ROOT

from . import machine, report
from .stages import FOLDER, STAGES, TOTAL_SECONDS, StageResult, choose, run_stage, time_for

if TYPE_CHECKING:
    from collections.abc import Sequence


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/gpu_check.sh", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="what to run, in the order of --list (default: all)")
    parser.add_argument("--list", action="store_true", help="list the stages and end")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for everything (default: %(default)s)")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run; exit code 0: all is well, 1: a stage was not, 2: wrong usage, or no GPU."""
    arguments = _arguments(words)
    try:
        stages = choose(arguments.stages)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if arguments.list:
        for stage in STAGES:
            print(f"{stage.name:12} {stage.limit:4.0f} s  {stage.what}")
        return 0
    if not (ROOT / "setup.py").exists():
        sys.stderr.write("error: the check builds the kernels, so it runs in a checkout only\n")
        return 2
    end = time.monotonic() + arguments.seconds
    torch_says = machine.ask_torch()
    if not torch_says.get("available"):
        reason = torch_says.get("error") or f"torch {torch_says['torch']} sees none"
        sys.stderr.write(f"gpu_check: no GPU: {reason}\n")
        return 2
    environment = machine.describe(torch_says)
    print("\n".join(report.environment_lines(environment)), flush=True)
    results: list[StageResult] = []
    out = Path(os.environ.get("OUT") or FOLDER)
    for index, stage in enumerate(stages):
        seconds = time_for(stage, stages[index + 1 :], end - time.monotonic())
        print(f"--- {stage.name}: {stage.what} (up to {seconds:.0f} s)", flush=True)
        result = run_stage(stage, seconds, FOLDER) if seconds >= 1.0 else StageResult(stage.name, "no time left")
        results.append(result)
        print("\n".join(report.stage_lines(result)), flush=True)
        report.write_json(out, environment, results)  # after each stage, in case the check itself is stopped
    print("\n".join(report.summary_lines(environment, results)))
    return 0 if all(result.status == "ok" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
