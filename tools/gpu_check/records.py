"""What a stage finds, one JSON object a line in a file, so that a stage that is stopped keeps what it had found."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Record = dict[str, Any]

STARTED = "started"  # the status of a case that is under way: left in the file, it names the case that hung


def plain(value: Any) -> Any:
    """The value with what JSON lacks replaced: numbers that are not finite become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class Recorder:
    """Appends records to a file, each written at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")

    def __call__(self, **record: Any) -> None:
        """Write one record."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(record), allow_nan=False) + "\n")


def parse_lines(text: str) -> list[Record]:
    """The objects among the lines of a text; other lines, and a last one cut short, are passed over."""
    records = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def read_records(path: Path) -> list[Record]:
    """What a recorder wrote; of records with the same `case` only the last."""
    if not path.exists():
        return []
    last: dict[object, Record] = {}
    for number, record in enumerate(parse_lines(path.read_text(encoding="utf-8"))):
        key = record.get("case", number)
        last.pop(key, None)
        last[key] = record
    return list(last.values())


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception in a line of bounded length."""
    words = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {words}"[:limit]
