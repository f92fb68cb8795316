"""Say which schedule would run for a layer and an input, and why, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fused_rnn import _ops
from fused_rnn.modules import RecurrentLayer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PassPlan:
    """How one pass over the sequence, forward or backward, is run."""

    name: str
    """`forward` or `backward`."""
    threads: int
    """Threads that take part."""
    why: str
    """Why the work is shared between threads like this."""
    details: dict[str, str | int]
    """Everything else the planner said, by name: the parts the work is cut into, the workspace."""

    def __str__(self) -> str:
        plural = "s" * (self.threads != 1)
        details = ", ".join(f"{name} {value}" for name, value in self.details.items() if name != "problem")
        return f"{self.name}: {self.threads} thread{plural}: {self.why} ({details})"


@dataclass(frozen=True)
class LayerPlan:
    """What one layer of a stack would run."""

    problem: str
    """Cell, sizes, type and use, e.g. `lstm: T=100 B=16 D=1 I=128 H=128 float32, inference`."""
    schedule: str
    """Name of the way the recurrence is run."""
    passes: tuple[PassPlan, ...]
    """The forward pass, and the backward pass where a gradient is wanted."""


@dataclass(frozen=True)
class Explanation:
    """What a layer would run for an input; `str` gives it as text."""

    instruction_set: str
    """CPU instruction set of the kernels."""
    threads: int
    """Threads that torch allows."""
    layers: tuple[LayerPlan, ...]
    """One plan per layer of the stack."""

    def __str__(self) -> str:
        lines = [f"instruction set {self.instruction_set}, up to {self.threads} thread{'s' * (self.threads != 1)}"]
        for index, plan in enumerate(self.layers):
            lines += [f"layer {index}: {plan.problem}", f"  schedule {plan.schedule}"]
            lines += [f"  {part}" for part in plan.passes]
        return "\n".join(lines)


def explain(layer: torch.nn.Module, x: Tensor, hx: Any = None) -> Explanation:
    """Which schedule `layer(x, hx)` would run for each layer of its stack, and why; nothing is computed.

    The answer depends on the sizes, the type, the threads and on whether a gradient is wanted: under torch.no_grad()
    it is that of inference.

    Args:
        layer: a fused_rnn.LSTM, GRU or RNN.
        x: its input, [T, B, I] ([B, T, I] with `batch_first`), or [T, I] without a batch.
        hx: its initial state, as the layer takes it.

    Returns:
        An `Explanation`, whose text is for people and whose attributes are for programs.

    Raises:
        TypeError: `layer` is not a recurrent layer of this package.
        The errors that the layer itself would raise for `x` and `hx`.

    Example::

        layer = fused_rnn.LSTM(16, 32)
        print(fused_rnn.explain(layer, torch.randn(5, 3, 16)))
    """
    if not isinstance(layer, RecurrentLayer):
        hint = ": fused_rnn.convert makes one of torch.nn's" if isinstance(layer, torch.nn.RNNBase) else ""
        raise TypeError(f"layer must be a fused_rnn LSTM, GRU or RNN, got {type(layer).__name__}{hint}")
    sequence, h_0, c_0 = layer._prepare(x, hx)
    time_steps, batch, width = sequence.shape
    directions = 2 if layer.bidirectional else 1
    inputs = [t for t in (x, h_0, c_0, *layer.parameters()) if t is not None]
    training = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    threads = torch.get_num_threads()
    plans = []
    for _ in range(layer.num_layers):
        chosen = _ops.plan(
            layer.cell,
            sequence.dtype,
            time_steps,
            batch,
            directions,
            layer.hidden_size,
            layer.proj_size,
            training,
            threads,
        )
        problem = (
            f"{layer.cell}: T={time_steps} B={batch} D={directions} I={width} H={layer.hidden_size}"
            f"{f' P={layer.proj_size}' if layer.proj_size else ''} {str(sequence.dtype).removeprefix('torch.')}, "
            f"{'training' if training else 'inference'}"
        )
        passes = tuple(_pass_plan(name, dict(chosen[name])) for name in ("forward", "backward") if name in chosen)
        plans.append(LayerPlan(problem, str(chosen["schedule"]), passes))
        width = directions * (layer.proj_size or layer.hidden_size)
    return Explanation(_ops.active_instruction_set(), threads, tuple(plans))


def _pass_plan(name: str, chosen: dict[str, Any]) -> PassPlan:
    return PassPlan(name, int(chosen.pop("threads")), str(chosen.pop("why")), chosen)


def build_info() -> dict[str, str]:
    """How the compiled library was made, and what of it this machine uses.

    Returns:
        Text by name: version, compiler, cuda, instruction_sets, active_instruction_set, and the torch that runs it.

    Example::

        print(fused_rnn.build_info()["instruction_sets"])
    """
    return {
        **_ops.build_info(),
        "torch": torch.__version__,
    }
