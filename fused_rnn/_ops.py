"""Load the compiled library, give its two operators shape rules, and call them with types.

Dimension order everywhere: time, batch, direction, gate, unit `[T, B, D, G, H]`; P is the width of the hidden state,
which is H without a projection. An operator returns an empty tensor of shape [0] for what a call does not have.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch  # before the compiled module, whose symbols it provides
from torch import Tensor

try:
    _C: Any = importlib.import_module("fused_rnn._C")
except ModuleNotFoundError as error:
    if error.name != "fused_rnn._C":
        raise
    raise ImportError(
        "fused_rnn is not built: run `pip install --no-build-isolation -e .` in its checkout, where torch is installed"
    ) from None
except ImportError as error:
    raise ImportError(
        f"fused_rnn._C was built for another Python or torch than torch {torch.__version__}: "
        f"build it again with `pip install --no-build-isolation -e .` ({error})"
    ) from error


class CellSpec(NamedTuple):
    """A cell described by counts."""

    gates: int
    """Gates of one hidden unit (rows of W_hh per unit)."""
    states: int
    """1: hidden state only; 2: hidden and cell state."""
    saved: int
    """Values per hidden unit and step that the backward pass needs."""
    split: bool
    """Whether the gradients of the two pre-activations, W_ih x + b_ih and W_hh h + b_hh, differ."""


CELLS: dict[str, CellSpec] = {name: CellSpec(**_C.cell_spec(name)) for name in _C.cell_names()}

_forward = torch.ops.fused_rnn.forward.default
_backward = torch.ops.fused_rnn.backward.default


class ForwardResult(NamedTuple):
    """What `forward` returns; [0] stands for a tensor that the call does not have."""

    output: Tensor  # [T, B, D, P]
    h_n: Tensor  # [D, B, P]
    c_n: Tensor  # [D, B, H], two-state cells
    cells: Tensor  # [T, B, D, H], the cell state after each step; two-state cells, save
    saved: Tensor  # [T, B, D, S, H]; save
    hidden: Tensor  # [T, B, D, H], the hidden state before its projection; projection and save


class BackwardResult(NamedTuple):
    """What `backward` returns; [0] stands for a tensor that the call does not have."""

    d_gates: Tensor  # [T, B, D, G, H]
    d_gates_h: Tensor  # [T, B, D, G, H], gradient of W_hh h + b_hh; only where it differs from d_gates
    d_h_0: Tensor  # [D, B, P]
    d_c_0: Tensor  # [D, B, H], two-state cells
    d_projected: Tensor  # [T, B, D, P], total gradient of the projected hidden state; projection


def tf32_switch() -> bool:
    """Whether torch lets cuDNN's RNNs round the factors of float32 products to TF32."""
    return bool(torch.backends.cudnn.rnn.fp32_precision == "tf32")  # type: ignore[attr-defined]


def tf32_allowed(tensor: Tensor) -> bool:
    """Whether that matters for a tensor, and holds."""
    return tensor.is_cuda and tensor.dtype == torch.float32 and tf32_switch()


def forward(
    cell: str,
    gates: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    save: bool,
) -> ForwardResult:
    """The recurrence of one layer over a whole sequence, from gates [T, B, D, G, H] that hold the input projection.

    In either direction a step t of row b is inactive from t = lengths[b] on: its results are zero and the state passes
    through. The state before step t is zero where resets[t, b].
    """
    return ForwardResult._make(
        _forward(cell, gates, w_hh, b_hh, w_hr, h_0, c_0, lengths, resets, save, tf32_allowed(gates))
    )


def backward(
    cell: str,
    d_output: Tensor | None,
    d_h_n: Tensor | None,
    d_c_n: Tensor | None,
    d_cells: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    output: Tensor,
    cells: Tensor,
    saved: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> BackwardResult:
    """The gradients of `forward` with respect to everything but the weights."""
    return BackwardResult._make(
        _backward(
            cell,
            d_output,
            d_h_n,
            d_c_n,
            d_cells,
            w_hh,
            w_hr,
            output,
            cells,
            saved,
            h_0,
            c_0,
            lengths,
            resets,
            tf32_allowed(output),
        )
    )


@torch.library.register_fake("fused_rnn::forward")  # type: ignore[untyped-decorator]
def _forward_shapes(
    cell: str,
    gates: Tensor,
    w_hh: Tensor,  # noqa: ARG001 - the names are the schema's
    b_hh: Tensor | None,  # noqa: ARG001
    w_hr: Tensor | None,
    h_0: Tensor | None,  # noqa: ARG001
    c_0: Tensor | None,  # noqa: ARG001
    lengths: Tensor | None,  # noqa: ARG001
    resets: Tensor | None,  # noqa: ARG001
    save: bool,
    allow_tf32: bool,  # noqa: ARG001
) -> tuple[Tensor, ...]:
    spec = CELLS[cell]
    time_steps, batch, directions, _, hidden_size = gates.shape
    width = hidden_size if w_hr is None else w_hr.shape[1]
    two_states = spec.states == 2
    sequence = (time_steps, batch, directions)
    return (
        gates.new_empty((*sequence, width)),
        gates.new_empty((directions, batch, width)),
        gates.new_empty((directions, batch, hidden_size) if two_states else (0,)),
        gates.new_empty((*sequence, hidden_size) if save and two_states else (0,)),
        gates.new_empty((*sequence, spec.saved, hidden_size) if save else (0,)),
        gates.new_empty((*sequence, hidden_size) if save and w_hr is not None else (0,)),
    )


@torch.library.register_fake("fused_rnn::backward")  # type: ignore[untyped-decorator]
def _backward_shapes(
    cell: str,
    d_output: Tensor | None,  # noqa: ARG001
    d_h_n: Tensor | None,  # noqa: ARG001
    d_c_n: Tensor | None,  # noqa: ARG001
    d_cells: Tensor | None,  # noqa: ARG001
    w_hh: Tensor,  # noqa: ARG001
    w_hr: Tensor | None,
    output: Tensor,
    cells: Tensor,  # noqa: ARG001
    saved: Tensor,
    h_0: Tensor | None,  # noqa: ARG001
    c_0: Tensor | None,  # noqa: ARG001
    lengths: Tensor | None,  # noqa: ARG001
    resets: Tensor | None,  # noqa: ARG001
    allow_tf32: bool,  # noqa: ARG001
) -> tuple[Tensor, ...]:
    spec = CELLS[cell]
    time_steps, batch, directions, _, hidden_size = saved.shape
    gates_shape = (time_steps, batch, directions, spec.gates, hidden_size)
    return (
        output.new_empty(gates_shape),
        output.new_empty(gates_shape if spec.split else (0,)),
        output.new_empty((directions, batch, output.shape[3])),
        output.new_empty((directions, batch, hidden_size) if spec.states == 2 else (0,)),
        output.new_empty(output.shape if w_hr is not None else (0,)),
    )


class Sizes(NamedTuple):
    """The problem that a plan is made for."""

    cell: str
    dtype: torch.dtype
    time_steps: int
    batch: int
    directions: int
    hidden_size: int
    proj_size: int

    def _named(self) -> dict[str, Any]:
        return {**self._asdict(), "dtype": str(self.dtype).removeprefix("torch.")}


def cpu_plan(sizes: Sizes, training: bool, threads: int) -> dict[str, Any]:
    """What would run: "schedule", "instruction_set", and a dict for "forward" and, when training, "backward".

    Each dict has "threads", "why", and how the work is cut into parts.
    """
    chosen: dict[str, Any] = _C.plan(**sizes._named(), training=training, threads=threads)
    return chosen


def cuda_options(
    sizes: Sizes, backward: bool, allow_tf32: bool, device: int | tuple[int, int, int]
) -> list[dict[str, Any]]:
    """The CUDA schedules for one pass, the one that would run first: "schedule", "refused", "why" and more.

    `device` is an index, or (capability as 90 for 9.0, multiprocessors, bytes of shared memory of a block).
    """
    found: list[dict[str, Any]] = _C.cuda_options(
        **sizes._named(), backward=backward, allow_tf32=allow_tf32, device=device
    )
    return found


def build_info() -> dict[str, str]:
    """How the compiled library was made."""
    info: dict[str, str] = _C.build_info()
    return info


def instruction_sets() -> list[str]:
    """The instruction sets that this machine can run and the library has code for, plainest first."""
    names: list[str] = _C.instruction_sets()
    return names


def active_instruction_set() -> str:
    """The instruction set in use; FUSED_RNN_CPU_ISA chooses another."""
    name: str = _C.active_instruction_set()
    return name
