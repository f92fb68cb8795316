"""The process of one part of a stage: `python -m tools.gpu_check.worker STAGE PART RECORDS SECONDS`."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .records import Recorder
from .stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Work:
    """What a stage gets: its part, where to record what it finds, and until when."""

    part: str
    record: Recorder
    deadline: float
    """By time.monotonic()."""

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def main(arguments: Sequence[str]) -> int:
    """Run the part; the exit code is that of the stage, 0 when all is well."""
    stage, part, path, seconds = arguments
    if stage not in {one.name for one in STAGES}:
        raise ValueError(f"unknown stage {stage}")
    work = Work(part, Recorder(Path(path)), time.monotonic() + float(seconds))
    module = importlib.import_module(f".stage_{stage}", __package__)
    return int(module.run(work) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
