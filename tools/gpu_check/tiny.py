"""Tiny problems for compute-sanitizer, the ops alone: `python -m tools.gpu_check.tiny`; a line of JSON for each."""

from __future__ import annotations

import json
import os
import sys
from itertools import product
from typing import NamedTuple

import torch

import fused_rnn
from bench.problems import GATES

from .problems import SCHEDULE_VARIABLE
from .records import one_line
from .stage_correctness import is_refusal
from .stages import SCHEDULES

# (T, B, D, H): two directions and an odd size; then one that several blocks share.
SHAPES = ((3, 2, 2, 33), (3, 9, 1, 136))


class Kernels(NamedTuple):
    """A cell in a type, whose kernels are not those of another one."""

    cell: str
    dtype: torch.dtype
    options: tuple[str, ...] = ()
    """Of `tf32` and `norms`."""

    def __str__(self) -> str:
        return " ".join((self.cell, str(self.dtype).removeprefix("torch."), *self.options))


KERNELS = (
    Kernels("lstm", torch.bfloat16),
    Kernels("lstm", torch.float32, ("tf32",)),
    Kernels("gru", torch.bfloat16),
    Kernels("gru", torch.float32),
    Kernels("lstm", torch.bfloat16, ("norms",)),
)


def run_ops(kernels: Kernels, shape: tuple[int, int, int, int], device: str) -> None:
    """Forward and backward of the recurrence, with initial states."""
    time_steps, batch, directions, hidden = shape
    gates = GATES[kernels.cell]

    def draw(*sizes: int) -> torch.Tensor:
        return (0.3 * torch.randn(*sizes)).to(kernels.dtype).to(device)

    w_hh = draw(directions, gates * hidden, hidden)
    h_0 = draw(directions, batch, hidden)
    c_0 = draw(directions, batch, hidden) if kernels.cell == "lstm" else None
    norms = "norms" in kernels.options
    b_hh = None if norms else draw(directions, gates * hidden)  # norms have the bias
    norm = draw(directions, 2 * gates + 2, hidden) if norms else None
    from_x = draw(time_steps, batch, directions, gates, hidden)
    ops, tf32 = torch.ops.fused_rnn, "tf32" in kernels.options
    variant = (None, norm, *(None,) * 4)  # no unit weights, lengths, resets and masks
    output, _, _, cells, saved, _ = ops.forward(kernels.cell, from_x, w_hh, b_hh, None, h_0, c_0, *variant, True, tf32)
    d_output = draw(time_steps, batch, directions, hidden)
    ops.backward(kernels.cell, d_output, None, None, None, w_hh, None, output, cells, saved, h_0, c_0, *variant, tf32)


def main(device: str = "cuda") -> int:
    """Every schedule on every problem."""
    print(json.dumps({"version": fused_rnn.__version__}), flush=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    for schedule in reversed(SCHEDULES):  # per_step, whose library the tool slows down, comes last
        os.environ[SCHEDULE_VARIABLE] = schedule
        for shape, kernels in product(SHAPES, KERNELS):
            found: dict[str, str] = {"case": f"{schedule} {kernels} T,B,D,H={shape}", "status": "ok"}
            try:
                run_ops(kernels, shape, device)
                if device == "cuda":
                    torch.cuda.synchronize()
            except Exception as error:  # noqa: BLE001 - the others still run
                found |= {"status": "not run" if is_refusal(error) else "failed", "reason": one_line(error)}
            print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
