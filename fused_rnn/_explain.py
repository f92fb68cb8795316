"""Say which schedule would run for a layer and an input, and why, without running it; or for the layers of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fused_rnn import _ops, _route
from fused_rnn._checks import Lengths, Resets, title_of
from fused_rnn._faster import Situation, faster
from fused_rnn._layers import layer_arguments
from fused_rnn._modes import rounds_on_cuda
from fused_rnn._recurrent_cell import RecurrentCell
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._route import Forward
from fused_rnn._signatures import advised
from fused_rnn.quantized import QuantizedModule


@dataclass(frozen=True)
class CudaDevice:
    """A GPU that need not be here, for `explain`; an H200 is CudaDevice(90, 132, 232448)."""

    capability: int
    """Compute capability, 90 for 9.0."""
    multiprocessors: int
    """How many there are."""
    shared_bytes: int
    """Bytes of shared memory that one block may have (opt-in)."""

    def __post_init__(self) -> None:
        """Refuse what no GPU has."""
        for (name, value), least, most in zip(vars(self).items(), (10, 1, 0), (999, 1 << 16, 1 << 30), strict=True):
            if not isinstance(value, int):
                raise TypeError(f"CudaDevice: {name} must be an int, got {type(value).__name__}")
            if not least <= value <= most:
                raise ValueError(f"CudaDevice: {name} must be from {least} to {most}, got {value}")


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
        told = ((name, value) for name, value in self.details.items() if name != "problem")
        details = ", ".join(
            f"{name} {value:.0f}" if isinstance(value, float) else f"{name} {value}" for name, value in told
        )
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
    module: str = ""
    """Name of the module in the model that was asked about; empty for a layer by itself."""
    answer: str = ""
    """What runs, why, and what would be faster, in a line."""

    @property
    def schedule(self) -> str:
        """Name of the way the forward pass is run."""
        return self.passes[0].schedule


@dataclass(frozen=True)
class Explanation:
    """What a layer, or each recurrent layer of a model, would run for an input; `str` gives it as text."""

    device: str
    """The processor: the CPU's instruction set and the threads that torch allows, or the GPU."""
    layers: tuple[LayerPlan, ...]
    """One plan per layer of the stack; of a model, those of its modules in the order of their calls."""
    notes: tuple[str, ...] = ()
    """What else a model has: layers of torch.nn, and layers that the call did not reach."""

    @property
    def answer(self) -> str:
        """What runs, why, and what would be faster: a line for each answer that differs."""
        modules: dict[str, list[str]] = {}
        for plan in self.layers:
            names = modules.setdefault(plan.answer, [])
            if plan.module not in names:
                names.append(plan.module)
        lines = [f"{', '.join(names)}: {answer}" if any(names) else answer for answer, names in modules.items()]
        return "\n".join((*lines, *self.notes))

    def __str__(self) -> str:
        lines, indices = [self.answer, self.device], Counter[str]()
        for plan in self.layers:
            name = f"{plan.module} layer" if plan.module else "layer"
            lines.append(f"{name} {indices[name]}: {plan.problem}")
            lines += [f"  {line}" for part in plan.passes for line in str(part).splitlines()]
            indices[name] += 1
        return "\n".join(lines)


@advised
def explain(
    layer: torch.nn.Module, x: Any, hx: Any = None, *, lengths: Lengths | None = None, resets: Resets | None = None,
    device: CudaDevice | None = None,
) -> Explanation:  # fmt: skip
    """Which schedule `layer(x, hx, ...)` would run for each layer of its stack, and why; the layer computes nothing.

    The answer depends on the sizes, the type, the device (on CPU its threads) and on whether a gradient is wanted:
    under torch.no_grad() it is that of inference. Second derivatives and forward mode run in plain torch, of
    which nothing is said here; `fused_rnn.strict()` makes errors of them.

    A model with recurrent layers is called once, since its own code decides what they are given; its buffers and
    torch's generators stay as they are.

    Args:
        layer: a fused_rnn.LSTM, GRU or RNN, or a model that has some.
        x: its input, [T, B, I] ([B, T, I] with `batch_first`), [T, I] without a batch, or a PackedSequence; of a model
            its argument, or a tuple of arguments.
        hx: its initial state, as the layer takes it; where given, a model's second argument.
        lengths, resets: as the layer takes them; where given, keywords of a model.
        device: a GPU to plan for, instead of the device of `x`; it need not be here. An own cell is planned for it once
            its kernels are loaded, those for a CPU, too.

    Returns:
        An `Explanation`, whose text is for people (the answer first, then the details) and whose attributes are for
        programs.

    Raises:
        TypeError: `layer` is no recurrent layer of this package and has none, or its cells alone; `device` is no
            CudaDevice.
        ValueError: the call of a model reaches none of its recurrent layers.

    Raises the errors of the layer or the model, too.

    Example::

        layer = fused_rnn.LSTM(16, 32)
        print(fused_rnn.explain(layer, torch.randn(5, 3, 16)))
    """
    if device is not None and not isinstance(device, CudaDevice):
        raise TypeError(f"device must be a fused_rnn.CudaDevice, got {type(device).__name__}")
    if isinstance(layer, RecurrentLayer):
        return _explain_layer(layer, x, hx, lengths, resets, device=device)
    if not isinstance(layer, torch.nn.Module):
        raise TypeError(f"layer must be a fused_rnn LSTM, GRU or RNN, or a model, got {type(layer).__name__}")
    arguments = x if isinstance(x, tuple) and not isinstance(x, PackedSequence) else (x,)
    arguments = arguments if hx is None else (*arguments, hx)
    given = {name: value for name, value in (("lengths", lengths), ("resets", resets)) if value is not None}
    return _explain_model(layer, arguments, given, device)


def _explain_model(
    model: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], device: CudaDevice | None
) -> Explanation:
    """What the layers of a model run in one call of it."""
    layers = {module: name for name, module in model.named_modules() if isinstance(module, RecurrentLayer)}
    unconverted = _unconverted(model)
    if not layers:
        hint = "which has none"
        if any(isinstance(module, QuantizedModule) for module in model.modules()):
            hint = "whose int8 layers all run the same way"
        elif unconverted:
            hint = f"which has those of torch.nn ({', '.join(unconverted)}): call fused_rnn.convert(model) first"
        elif any(isinstance(module, RecurrentCell) for module in model.modules()):
            hint = "whose cells all run one step"
        kind = type(model)
        name = f"torch.nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__
        raise TypeError(f"layer must be a fused_rnn LSTM, GRU or RNN, or a model with them, got {name}, {hint}")
    calls: list[list[LayerPlan]] = []  # that differ, so that a loop over steps is one
    devices: set[str] = set()

    def note(module: Any, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        named = {**dict(zip(("input", "hx"), given, strict=False)), **options}
        others = (named.get(name) for name in ("hx", "lengths", "resets"))
        explanation = _explain_layer(module, named.get("input"), *others, device=device)
        plans = [replace(plan, module=layers[module]) for plan in explanation.layers]
        if plans not in calls:
            calls.append(plans)
        devices.add(explanation.device)

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in layers]
    gpus = {tensor.get_device() for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(sorted(gpus)):
            torch.func.functional_call(model, buffers, arguments, keywords)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        raise ValueError(f"the call of layer reaches none of its recurrent layers: {', '.join(layers.values())}")
    found = tuple(chain.from_iterable(calls))
    silent = [name for name in layers.values() if name not in {plan.module for plan in found}]
    notes = [f"of torch.nn, for fused_rnn.convert to swap: {', '.join(unconverted)}"] if unconverted else []
    notes += [f"not reached by this call: {', '.join(silent)}"] if silent else []
    return Explanation(", ".join(sorted(devices)), found, tuple(notes))


def _unconverted(model: torch.nn.Module) -> list[str]:
    """The names of layers and cells of torch.nn in a model."""
    return [
        name or "the model itself"
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase))
        and not isinstance(module, (RecurrentLayer, RecurrentCell))
    ]


def _explain_layer(
    layer: RecurrentLayer, x: Any, hx: Any, lengths: Any, resets: Any, *, device: CudaDevice | None
) -> Explanation:
    """What a layer runs."""
    sequence, h_0, c_0, ragged = layer._prepare(layer._weights(layer._flat_weights_names)[0], x, hx, lengths, resets)
    time_steps, batch, width = sequence.shape
    inputs = [t for t in (sequence, h_0, c_0, *layer.parameters()) if t is not None]
    training = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    sizes, on_gpu = _problem_of(layer, sequence, device), device is not None or sequence.is_cuda
    gpu = None if not on_gpu else sequence.get_device() if device is None else tuple(vars(device).values())
    autocast = not on_gpu and torch.is_autocast_enabled("cpu")
    situation = Situation(sizes, training, not layer.training, autocast, gpu)
    name = str(device or torch.cuda.get_device_name(sequence.device)) if on_gpu else _name_of_cpu()
    layer._prepare_kernels()
    has_kernels = _ops.has_kernels(sizes.cell, layer._weights(layer._flat_weights_names)[0])
    if device is not None and sizes.cell in _ops.LOADED:  # nvcc makes kernels for it, of any cell
        has_kernels = bool(_ops.LOADED[sizes.cell] or _ops.LOADED_ON_CUDA[sizes.cell])
    plans = []
    for weights in layer._layers():
        like_x = sequence.new_empty(()).expand(time_steps, batch, width)
        arguments = layer_arguments(like_x, weights, h_0, c_0, ragged)
        if not has_kernels:
            told = _without_kernels(training, another_gpu=device is not None)
        else:
            if on_gpu:
                route = _route.of_recurrence(_route.ON_GPU)
                passes = _cuda_passes(sizes, training, gpu)
            else:
                route = _route.of_layer(arguments, layer._variants().of_each_run)
                makes_gates = route.kind is Forward.WHOLE
                passes = _cpu_passes(sizes._replace(input_size=width if makes_gates else 0), training)
            routes = (route, _route.of_backward(route, arguments))
            told = tuple(
                replace(each, route=way.kind.value, route_why=way.reason)
                for each, way in zip(passes, routes, strict=False)
            )
        extent = ", ".join((*(each for each in ("lengths", "resets") if getattr(ragged, each) is not None), ""))
        use = f"{extent}{'training' if training else 'inference'}"
        changes = faster(situation) if has_kernels else [_MAKERS[on_gpu]] if device is None else []
        answer = _answer(type(layer).__name__, use, told[0], changes)
        plans.append(LayerPlan(f"{_text_of(sizes, width)}, {use}", told, answer=answer))
        width = sizes.directions * (layer.proj_size or layer.hidden_size)
    return Explanation(name, tuple(plans))


def _problem_of(layer: RecurrentLayer, x: Tensor, device: CudaDevice | None) -> _ops.Problem:
    """What is planned for a layer with input x [T, B, I]."""
    variants = layer._variants()
    rounds_factors = x.dtype == torch.float32 and rounds_on_cuda() if device else _ops.rounds_factors(x)
    return _ops.Problem(
        cell=layer.cell,
        dtype=x.dtype,
        time_steps=x.shape[0],
        batch=x.shape[1],
        directions=2 if layer.bidirectional else 1,
        hidden_size=layer.hidden_size // layer._heads.number,
        proj_size=layer.proj_size,
        normalized=variants.layer_norm,
        zoneout=any(variants.zoneouts),
        recurrent_mask=bool(variants.recurrent_dropout and layer.training),
        rounds_factors=rounds_factors,
        heads=layer._heads.number,
    )


def _text_of(sizes: _ops.Problem, input_size: int) -> str:
    return (
        f"{title_of(sizes.cell)}: T={sizes.time_steps} B={sizes.batch} D={sizes.directions} I={input_size}"
        f" H={sizes.heads * sizes.hidden_size}{f' heads={sizes.heads}' if sizes.heads > 1 else ''}"
        f"{f' P={sizes.proj_size}' if sizes.proj_size else ''} {str(sizes.dtype).removeprefix('torch.')}"
    )


# What makes kernels of a cell that has none, on a CPU and on a GPU.
_MAKERS = (
    "a CPU with a C++ compiler, which makes kernels of the cell",
    "a fused_rnn with CUDA and nvcc, which makes kernels of the cell",
)
_WHAT = {
    "whole": "each layer is one call of own kernels",
    "apart": "each layer is a library's GEMM and own kernels",
    "reference": "plain torch, no own kernels",
    "onnx": "a node of ONNX",
}
# The same by the schedule, where there is none.
_WITHOUT_ROUTE = {"none": "no kernel for this GPU", "unknown": "not known"}


def _answer(kind: str, use: str, forward: PassPlan, changes: Sequence[str]) -> str:
    """What runs, why, and what would be faster, in a line."""
    threads = forward.details.get("threads")
    shared = f" on {threads} thread{'s' * (threads != 1)}" if threads else ""
    what = _WITHOUT_ROUTE.get(forward.schedule) or _WHAT[forward.route]
    way = "" if forward.schedule in {*_WITHOUT_ROUTE, "plain_torch"} else f" ({forward.schedule}{shared})"
    return f"{kind}, {use}: {what}{way}. Why: {_reason(forward)}. Faster: {', or '.join(changes) or 'nothing known'}."


def _reason(forward: PassPlan) -> str:
    """Why a pass runs as it does: on a CPU and in plain torch its route, on a GPU the choice of the schedule."""
    if forward.schedule in _WITHOUT_ROUTE:
        return forward.why
    if forward.schedule == "plain_torch" or "threads" in forward.details:
        return forward.route_why.partition(":")[0]
    refusals = [reason for reason in forward.others.values() if not reason.startswith("about")]
    chosen = forward.why.partition(":")[0]
    return f"{chosen}, {refusals[0]}" if forward.schedule == "per_step" and refusals else chosen


def _name_of_cpu() -> str:
    threads = torch.get_num_threads()
    return f"CPU, instruction set {_ops.active_instruction_set()}, up to {threads} thread{'s' * (threads != 1)}"


def _without_kernels(training: bool, *, another_gpu: bool) -> tuple[PassPlan, ...]:
    """The passes of a cell without kernels; what a GPU that is not here would run is planned from them."""
    if another_gpu:
        why = (
            "another GPU is planned for with the cell's kernels, and none are loaded: call the layer first, on a CPU "
            "with a C++ compiler"
        )
        one = PassPlan("forward", "unknown", why, {}, {})
    else:
        why = "the cell has no kernels here, so that steps are torch's operations"
        route = _route.NO_KERNELS
        one = PassPlan("forward", "plain_torch", why, {}, {}, route.kind.value, route.reason)
    return (one, replace(one, name="backward")) if training else (one,)


def _cpu_passes(sizes: _ops.Problem, training: bool) -> tuple[PassPlan, ...]:
    chosen = _ops.cpu_plan(sizes, training, torch.get_num_threads())
    passes = []
    for name in ("forward", "backward"):
        if name in chosen:
            details = dict(chosen[name])
            why, others = str(details.pop("why")), dict(details.pop("others"))
            passes.append(PassPlan(name, str(chosen["schedule"]), why, details, others))
    return tuple(passes)


def _cuda_passes(sizes: _ops.Problem, training: bool, gpu: Any) -> tuple[PassPlan, ...]:
    passes = []
    for name in ("forward", "backward") if training else ("forward",):
        options = _ops.cuda_options(sizes, name == "backward", gpu)
        chosen = {"schedule": "none", "why": "nothing can run it"}
        if not options[0]["refused"]:
            chosen = options.pop(0)
        details = {key: chosen[key] for key in ("blocks", "workspace_bytes") if chosen.get(key)}
        others = {str(option["schedule"]): str(option["why"]) for option in options}
        passes.append(PassPlan(name, str(chosen["schedule"]), str(chosen["why"]), details, others))
    return tuple(passes)


def build_info() -> dict[str, str]:
    """How the compiled library was made, and what of it this machine uses.

    Returns:
        Text by name. The names are version, compiler, cuda, instruction_sets, active_instruction_set, and torch, which
        is the version that runs it.

    Example::

        print(fused_rnn.build_info()["instruction_sets"])
    """
    return {**_ops.build_info(), "torch": torch.__version__}
