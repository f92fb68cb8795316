"""The report: a few lines for each stage, the table of times last, and everything in one JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from .grid import LIMIT_TITLE, limit
from .records import STARTED, Record, plain
from .stages import SCHEDULES, StageResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_MOST_REASONS = 6
_WIDTH = 118


def environment_lines(environment: Mapping[str, Any]) -> list[str]:
    """The machine in two or three lines."""
    capability = ".".join(map(str, environment.get("capability", ())))
    gpu = (
        f"{environment.get('gpu')} ({capability}, {environment.get('multiprocessors')} multiprocessors), "
        f"driver {environment['driver']}, torch {environment['torch']}, CUDA {environment['cuda']}, "
        f"cuDNN {environment.get('cudnn')}"
    )
    rest = (
        f"commit {environment['commit']}, {environment['date']}, Python {environment['python']}, "
        f"{environment['cores']} cores, nvcc: {environment['nvcc']}"
    )
    lines = [gpu, rest]
    if environment["missing"]:
        lines.append("missing: " + ", ".join(f"{name} ({what})" for name, what in environment["missing"].items()))
    return lines


def _reasons(records: Iterable[Record], status: str) -> list[str]:
    """The most frequent reasons of the records with a status."""
    counts = Counter(_why(record) for record in records if record.get("status") == status)
    return [f"  {status} {count}x: {why}"[:_WIDTH] for why, count in counts.most_common(_MOST_REASONS)]


def _why(record: Record) -> str:
    words = record.get("reason") or record.get("error") or "; ".join(map(str, record.get("failures", [])))
    return str(words) or "no reason given"


def stage_lines(result: StageResult) -> list[str]:
    """What became of a stage: counts, what failed, what was refused or left out and why, the end of a bad log."""
    counts = Counter(str(record.get("status", "ok")) for record in result.records)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    lines = [f"{result.name}: {result.status} in {result.seconds:.0f} s ({told or 'no records'})"]
    for record in result.records:
        if record.get("status") in {"failed", STARTED} and len(lines) <= _MOST_REASONS:
            state = "did not end" if record["status"] == STARTED else _why(record)
            lines.append(f"  FAILED {record.get('case', record.get('micro', ''))}: {state}"[: 2 * _WIDTH])
    for status in ("refused", "skipped", "not run"):
        lines += _reasons(result.records, status)
    for part in result.parts:
        if part.status != "ok":
            lines.append(f"  {part.name}: {part.status} after {part.seconds:.0f} s")
            lines += [f"    | {line[:_WIDTH]}" for line in part.log.splitlines()[-8:]]
    return lines


def _milli(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def micro_lines(records: Iterable[Record]) -> list[str]:
    """One line for each micro benchmark's result, without what is the same in all."""
    hidden = {"micro", "status", "verified", "ns_min", "bytes"}
    grouped: dict[str, list[str]] = {}
    for record in records:
        if record.get("status") != "ok" or "micro" not in record:
            continue
        shown = [f"{name} {_milli(value)}" for name, value in record.items() if name not in hidden]
        grouped.setdefault(str(record["micro"]), []).append(" ".join(shown))
    lines = []
    for name, parts in grouped.items():
        line = f"{name}:"
        for part in parts:
            if len(line) + len(part) > _WIDTH:
                lines.append(line)
                line = "   "
            line += f" {part};"
        lines.append(line)
    return lines


def correctness_lines(records: Sequence[Record]) -> list[str]:
    """For each schedule and type: how many were right, wrong and refused, and the largest errors."""
    lines = []
    for schedule in SCHEDULES:
        mine = [record for record in records if str(record.get("case", "")).endswith(f" {schedule}")]
        for type_name in sorted({str(record["type"]) for record in mine}):
            group = [record for record in mine if record["type"] == type_name]
            counts = Counter(str(record["status"]) for record in group)
            told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
            worst = [_worst(group, f"error_{what}") for what in ("outputs", "gradients")]
            lines.append(f"{schedule:10} {type_name:5} {told}; outputs {worst[0]}, gradients {worst[1]}")
    return lines


def _worst(records: Iterable[Record], field: str) -> str:
    errors = [float(record[field]) for record in records if record.get(field) is not None]
    return f"{max(errors):.1e}" if errors else "-"


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _times(record: Record | None) -> tuple[float | None, float | None]:
    """Ours and theirs, the least microseconds for each step."""
    if record is None:
        return None, None
    ours, theirs = (record.get(name, {}).get("min") for name in ("ours_us", "theirs_us"))
    return ours, theirs


def _row(infer: Record | None, train: Record | None) -> tuple[str, ...]:
    some = infer or train or {}
    cells = [str(some["cell"]), str(some["hidden"]), str(some["batch"]), str(some["type"]), str(some["options"] or "-")]
    for record in (infer, train):
        ours, theirs = _times(record)
        ratio = f"{theirs / ours:.1f}x" if ours and theirs else "FAILED" if _failed(record) else "-"
        cells += [_us(ours), _us(theirs), ratio]
    allowed = limit(some["cell"], some["hidden"], some["batch"], some["type"]) if not some["options"] else None
    ours = _times(infer)[0]
    errors = [float(record["error"]) for record in (infer, train) if record and "error" in record]
    schedules = [str(record["schedule"]) for record in (train, infer) if record and "schedule" in record]
    cells += [f"{allowed / ours:.0%}" if allowed and ours else "-"]
    cells += [f"{max(errors):.0e}" if errors else "-", schedules[0] if schedules else "-"]
    return tuple(cells)


def _failed(record: Record | None) -> bool:
    return record is not None and record.get("status") in {"failed", STARTED}


_COLUMNS = (
    "cell",
    "H",
    "B",
    "type",
    "opt",
    "fwd",
    "torch",
    "ratio",
    "train",
    "torch",
    "ratio",
    "limit",
    "err",
    "schedule",
)


def speed_table(records: Iterable[Record]) -> list[str]:
    """The table: microseconds for each time step, ours and torch.nn's."""
    pairs: dict[tuple[Any, ...], dict[str, Record]] = {}
    for record in records:
        if "cell" in record and not record.get("forced"):
            key = tuple(record[name] for name in ("cell", "type", "options", "hidden", "batch"))
            pairs.setdefault(key, {})[str(record["mode"])] = record
    rows = [_row(pair.get("infer"), pair.get("train")) for _, pair in sorted(pairs.items())]
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    left = {0, 3, 4, len(_COLUMNS) - 1}
    title = (
        "microseconds a time step, T=1024, input as wide as H; least of the samples. limit: share of the " + LIMIT_TITLE
    )
    return [title, *(_aligned(row, widths, left) for row in (_COLUMNS, *rows))]


def _aligned(row: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    words = (
        word.ljust(width) if index in left else word.rjust(width)
        for index, (word, width) in enumerate(zip(row, widths, strict=True))
    )
    return " ".join(words).rstrip()


def forced_lines(records: Iterable[Record]) -> list[str]:
    """For each problem the time of each schedule alone."""
    lines: dict[str, list[str]] = {}
    for record in records:
        if not record.get("forced"):
            continue
        head = " ".join(str(record[name]) for name in ("cell", "type", "mode")) + f" H={record['hidden']} "
        words = _us(_times(record)[0]) if record.get("status") == "ok" else str(record.get("status"))
        lines.setdefault(head + f"B={record['batch']}", []).append(f"{record['forced']} {words}")
    return [f"{head}: {', '.join(parts)}" for head, parts in lines.items()]


def summary_lines(environment: Mapping[str, Any], results: Sequence[StageResult]) -> list[str]:
    """The whole report; the table of times comes last."""
    by_name = {result.name: result.records for result in results}
    lines = ["=" * 40]
    for name, make in (("micro", micro_lines), ("correctness", correctness_lines), ("bench", forced_lines)):
        told = make(by_name.get(name, []))
        lines += [f"[{name}]", *told] if told else []
    for record in by_name.get("peers", []):
        ours, theirs = _times(record)
        lines.append(f"[{record['case']}] {record.get('reason') or f'{_us(ours)} us a step, theirs {_us(theirs)}'}")
    for record in by_name.get("cpu", []):
        lines += [f"[cpu, {record['case']}]", *record.get("output", [])]
    stages = ", ".join(f"{result.name} {result.status} {result.seconds:.0f}s" for result in results)
    # Next to the table, in case only the end is kept.
    return [*lines, *environment_lines(environment), f"stages: {stages}", *speed_table(by_name.get("bench", []))]


def write_json(folder: Path, environment: Mapping[str, Any], results: Sequence[StageResult]) -> Path:
    """Everything in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gpu_check.json"
    data = plain({"environment": dict(environment), "stages": [result.to_json() for result in results]})
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path
