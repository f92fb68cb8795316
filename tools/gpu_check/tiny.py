"""Tiny problems for compute-sanitizer, the ops alone: `python -m tools.gpu_check.tiny`; a line of JSON for each."""

from __future__ import annotations

import json
import os
import sys

import torch

import fused_rnn
from bench.problems import GATES

from .problems import SCHEDULE_VARIABLE
from .records import one_line
from .stages import SCHEDULES

# (T, B, D, H): two directions and an odd size; then one that several blocks share.
SHAPES = ((3, 2, 2, 33), (3, 9, 1, 136))
CELLS = ("lstm", "gru")
DTYPES = (torch.bfloat16, torch.float32)


def run_ops(cell: str, dtype: torch.dtype, shape: tuple[int, int, int, int], device: str) -> None:
    """Forward and backward of the recurrence, with initial states."""
    time_steps, batch, directions, hidden = shape
    gates = GATES[cell]

    def draw(*sizes: int) -> torch.Tensor:
        return (0.3 * torch.randn(*sizes)).to(dtype).to(device)

    w_hh, b_hh = draw(directions, gates * hidden, hidden), draw(directions, gates * hidden)
    h_0 = draw(directions, batch, hidden)
    c_0 = draw(directions, batch, hidden) if cell == "lstm" else None
    from_x = draw(time_steps, batch, directions, gates, hidden)
    ops = torch.ops.fused_rnn
    none = (None,) * 6  # no variants, lengths and resets
    output, _, _, cells, saved, _ = ops.forward(cell, from_x, w_hh, b_hh, None, h_0, c_0, *none, True, True)
    d_output = draw(time_steps, batch, directions, hidden)
    ops.backward(cell, d_output, None, None, None, w_hh, None, output, cells, saved, h_0, c_0, *none, True)


def main(device: str = "cuda") -> int:
    """Every schedule on every problem."""
    print(json.dumps({"version": fused_rnn.__version__}), flush=True)
    # TF32, so that the schedules on matrix units take float32 too.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    for schedule in reversed(SCHEDULES):  # per_step, whose library the tool slows down, comes last
        os.environ[SCHEDULE_VARIABLE] = schedule
        for shape in SHAPES:
            for cell in CELLS:
                for dtype in DTYPES:
                    name = f"{schedule} {cell} {str(dtype).removeprefix('torch.')} T,B,D,H={shape}"
                    try:
                        run_ops(cell, dtype, shape, device)
                        if device == "cuda":
                            torch.cuda.synchronize()
                        found = {"case": name, "status": "ok"}
                    except Exception as error:  # noqa: BLE001 - most are refusals; the sanitizer tells of the others
                        found = {"case": name, "status": "not run", "reason": one_line(error)}
                    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
