"""Say which schedule would run for a layer and an input, and why, without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fused_rnn import _ops, _route
from fused_rnn._layers import layer_arguments
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._route import Forward


@dataclass(frozen=True)
class CudaDevice:
    """A GPU that need not be here, for `explain`; an H200 is CudaDevice(90, 132, 232448)."""

    capability: int
    """Compute capability, 90 for 9.0."""
    multiprocessors: int
    """How many there are."""
    shared_bytes: int
    """Bytes of shared memory that one block may have (opt-in)."""


@dataclass(frozen=True)
class PassPlan:
    """How one pass over the sequence, forward or backward, is run."""

    name: str
    """`forward` or `backward`."""
    schedule: str
    """Name of the way the recurrence is run."""
    why: str
    """Why this one, and why the work is shared like this."""
    details: dict[str, Any]
    """Everything else the planner said, by name: threads or blocks, how the work is divided, the workspace."""
    others: dict[str, str]
    """The other schedules, or on CPU ways to share the work: why each cannot run, or what was expected of it."""
    route: str = ""
    """Name of the way through the package: forward `whole`, `apart` or `reference`; backward also `one_call`."""
    route_why: str = ""
    """Why this way."""

    def __str__(self) -> str:
        details = ", ".join(f"{name} {value}" for name, value in self.details.items() if name != "problem")
        lines = [f"{self.name}: {self.schedule}: {self.why}" + (f" ({details})" if details else "")]
        lines += [f"  not {name}: {reason}" for name, reason in self.others.items()]
        lines += [f"  route {self.route}: {self.route_why}"] if self.route else []
        return "\n".join(lines)


@dataclass(frozen=True)
class LayerPlan:
    """What one layer of a stack would run."""

    problem: str
    """Cell, sizes, type and use, e.g. `lstm: T=100 B=16 D=1 I=128 H=128 float32, inference`."""
    passes: tuple[PassPlan, ...]
    """The forward pass, and the backward pass where a gradient is wanted."""

    @property
    def schedule(self) -> str:
        """Name of the way the forward pass is run."""
        return self.passes[0].schedule


@dataclass(frozen=True)
class Explanation:
    """What a layer would run for an input; `str` gives it as text."""

    device: str
    """The processor: the CPU's instruction set and the threads that torch allows, or the GPU."""
    layers: tuple[LayerPlan, ...]
    """One plan per layer of the stack."""

    def __str__(self) -> str:
        lines = [self.device]
        for index, plan in enumerate(self.layers):
            lines.append(f"layer {index}: {plan.problem}")
            lines += [f"  {line}" for part in plan.passes for line in str(part).splitlines()]
        return "\n".join(lines)


def explain(layer: torch.nn.Module, x: Tensor, hx: Any = None, *, device: CudaDevice | None = None) -> Explanation:
    """Which schedule `layer(x, hx)` would run for each layer of its stack, and why; nothing is computed.

    The answer depends on the sizes, the type, the device (on CPU its threads) and on whether a gradient is wanted:
    under torch.no_grad() it is that of inference. Second derivatives and forward mode run in plain torch, of
    which nothing is said here; `fused_rnn.strict()` makes errors of them.

    Args:
        layer: a fused_rnn.LSTM, GRU or RNN.
        x: its input, [T, B, I] ([B, T, I] with `batch_first`), or [T, I] without a batch.
        hx: its initial state, as the layer takes it.
        device: a GPU to plan for, instead of the device of `x`; it need not be here.

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
    sequence, h_0, c_0, _ = layer._prepare(layer._weights(layer._flat_weights_names)[0], x, hx)
    time_steps, batch, width = sequence.shape
    directions = 2 if layer.bidirectional else 1
    inputs = [t for t in (sequence, h_0, c_0, *layer.parameters()) if t is not None]
    training = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    variants = layer._variants()
    sizes = _ops.Problem(
        cell=layer.cell,
        dtype=sequence.dtype,
        time_steps=time_steps,
        batch=batch,
        directions=directions,
        hidden_size=layer.hidden_size,
        proj_size=layer.proj_size,
        normalized=variants.layer_norm,
        zoneout=any(variants.zoneouts),
        recurrent_mask=bool(variants.recurrent_dropout and layer.training),
    )
    on_gpu = device is not None or sequence.is_cuda
    plans = []
    for weights in layer._layers():
        like_x = sequence.new_empty(()).expand(time_steps, batch, width)
        arguments = layer_arguments(like_x, weights, h_0, c_0)
        if on_gpu:
            route = _route.of_recurrence(on_gpu=True, normalized=variants.layer_norm, otherwise=_route.ON_GPU)
        else:
            route = _route.of_layer(arguments, variants.of_each_run)
        makes_gates = route.kind is Forward.WHOLE
        if on_gpu:
            name, passes = _cuda_passes(sizes, training, sequence, device)
        else:
            name, passes = _cpu_passes(sizes._replace(input_size=width if makes_gates else 0), training)
        problem = (
            f"{layer.cell}: T={time_steps} B={batch} D={directions} I={width} H={layer.hidden_size}"
            f"{f' P={layer.proj_size}' if layer.proj_size else ''} {str(sequence.dtype).removeprefix('torch.')}, "
            f"{'training' if training else 'inference'}"
        )
        routes = (route, _route.of_backward(route, arguments))
        told = [
            replace(each, route=way.kind.value, route_why=way.reason) for each, way in zip(passes, routes, strict=False)
        ]
        plans.append(LayerPlan(problem, tuple(told)))
        width = directions * (layer.proj_size or layer.hidden_size)
    return Explanation(name, tuple(plans))


def _cpu_passes(sizes: _ops.Problem, training: bool) -> tuple[str, tuple[PassPlan, ...]]:
    threads = torch.get_num_threads()
    chosen = _ops.cpu_plan(sizes, training, threads)
    passes = []
    for name in ("forward", "backward"):
        if name in chosen:
            details = dict(chosen[name])
            why, others = str(details.pop("why")), dict(details.pop("others"))
            passes.append(PassPlan(name, str(chosen["schedule"]), why, details, others))
    text = f"CPU, instruction set {_ops.active_instruction_set()}, up to {threads} thread{'s' * (threads != 1)}"
    return text, tuple(passes)


def _cuda_passes(
    sizes: _ops.Problem, training: bool, x: Tensor, device: CudaDevice | None
) -> tuple[str, tuple[PassPlan, ...]]:
    where = x.device.index if device is None else (device.capability, device.multiprocessors, device.shared_bytes)
    passes = []
    for name in ("forward", "backward") if training else ("forward",):
        tf32 = sizes.dtype == torch.float32 and _ops.tf32_switch()
        options = _ops.cuda_options(sizes, name == "backward", tf32, where)
        chosen = {"schedule": "none", "why": "nothing can run it"}
        if not options[0]["refused"]:
            chosen = options.pop(0)
        elif sizes.normalized:
            chosen = {
                "schedule": "plain_torch",
                "why": "no kernel has layer norms, so that steps are torch's operations",
            }
        details = {key: chosen[key] for key in ("blocks", "workspace_bytes") if chosen.get(key)}
        others = {str(option["schedule"]): str(option["why"]) for option in options}
        passes.append(PassPlan(name, str(chosen["schedule"]), str(chosen["why"]), details, others))
    return str(device or torch.cuda.get_device_name(x.device)), tuple(passes)


def build_info() -> dict[str, str]:
    """How the compiled library was made, and what of it this machine uses.

    Returns:
        Text by name: version, compiler, cuda, instruction_sets, active_instruction_set, and the torch that runs it.

    Example::

        print(fused_rnn.build_info()["instruction_sets"])
    """
    return {**_ops.build_info(), "torch": torch.__version__}
