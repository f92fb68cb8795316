"""Stage shapes: every shape of every persistent schedule, verified and timed, against the model that chooses one."""

from __future__ import annotations

import math
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

from build_support.toolchain import ROOT

from . import machine
from .records import parse_lines
from .stage_micro import FLAGS
from .stages import FOLDER, run_logged

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .records import Record
    from .worker import Work

SOURCE = ROOT / "tools" / "native" / "shape_times.cu"
_ENOUGH_SECONDS = 45.0  # for all problems on an H200
_SPARE_SECONDS = 8.0  # for compiling, and for the problem that is under way


def compile_command(nvcc: str, output: Path, objects: Iterable[Path], *architectures: str) -> list[str]:
    """How the program is compiled and linked with the kernels of the build."""
    targets = [word for name in architectures for word in ("-gencode", machine.nvcc_target(name))]
    micro = ["-I", str(SOURCE.parent.parent / "micro")]
    return [nvcc, *FLAGS, *micro, *targets, str(SOURCE), *map(str, objects), "-o", str(output)]


def built_objects() -> list[Path]:
    """The objects of csrc/cuda of the newest build."""
    builds = sorted(ROOT.glob("build/native/*/build.ninja"), key=lambda path: path.stat().st_mtime)
    return sorted(builds[-1].parent.glob("csrc/cuda/**/*.o")) if builds else []


def _name_of(shape: Record) -> str:
    """A schedule with what tells its shapes apart."""
    if shape["schedule"] == "small_block":
        return f"small_block {shape['rows']:.0f} rows"
    scattered = " scattered" if shape.get("scatters") else ""
    return f"{shape['schedule']} {shape['splits']}x{shape['column_tiles']}{scattered}"


def summaries(lines: Iterable[Record]) -> list[dict[str, Any]]:
    """For each problem the fastest shape and the one that the model prefers, in microseconds a step."""
    problems: dict[tuple[Any, ...], list[Record]] = {}
    for line in lines:
        if "us_min" in line:
            key = tuple(line[name] for name in ("cell", "type", "pass", "hidden", "batch"))
            problems.setdefault(key, []).append(line)
    found = []
    for (cell, type_name, direction, hidden, batch), shapes in problems.items():
        chosen, best = (min(shapes, key=lambda line: line[field]) for field in ("model_us", "us_min"))
        found.append(
            {
                "case": f"{cell} {type_name} {direction} H={hidden} B={batch}",
                "status": "ok" if all(line["verified"] for line in shapes) else "failed",
                "shapes": len(shapes),
                "best": _name_of(best),
                "best_us": best["us_min"],
                "chosen": _name_of(chosen),
                "chosen_us": chosen["us_min"],
                "model_us": chosen["model_us"],
            }
        )
    return found


def not_run(lines: Iterable[Record]) -> list[dict[str, Any]]:
    """The reasons of shapes that fit by the model and did not run, the most frequent first."""
    counts = Counter(str(line["skipped"]) for line in lines if "skipped" in line)
    return [
        {"case": f"not run: {reason}", "status": "refused", "reason": f"{count} shapes: {reason}"}
        for reason, count in counts.most_common()
    ]


def run(work: Work) -> int:
    """Record a summary of each problem, and how far the choices are from the best in the geometric mean."""
    nvcc, objects = machine.find_program("nvcc"), built_objects()
    if nvcc is None or not objects:
        work.record(status="skipped", reason="nvcc is not there" if nvcc is None else "the kernels are not built")
        return 0
    capability = machine.ask_torch()["capability"]
    program = FOLDER / "shape_times"
    command = compile_command(nvcc, program, objects, machine.architecture((capability[0], capability[1])))
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode != 0:
        print(compiled.stderr)
        work.record(status="failed", error="does not compile")
        return 1
    seconds = max(1.0, min(_ENOUGH_SECONDS, work.left - _SPARE_SECONDS))
    code, text = run_logged([str(program), f"{seconds:.0f}"], program.with_suffix(".jsonl"), work.left)
    lines = parse_lines(text)
    errors = [line["error"] for line in lines if "error" in line]
    found = summaries(lines)
    for one in [*found, *not_run(lines)]:
        work.record(**one)
    failed = code != 0 or any(one["status"] != "ok" for one in found) or not found
    ratios = [one["chosen_us"] / one["best_us"] for one in found]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
    work.record(status="failed" if failed else "ok", chosen_over_best=mean, problems=len(found), errors=errors)
    return int(failed)
