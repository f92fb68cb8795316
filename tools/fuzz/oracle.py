"""What is right: torch.nn's modules where they can run a case, else the plain steps of tests/variant_reference.py.

Both in float64, from the same values. What a call draws at random is written down by `recording`, for the steps.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode

from fused_rnn import _layers
from tests import variant_reference
from tests.variant_reference import Draws
from tools.fuzz.problem import call, make_module, named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tools.fuzz.case import Case
    from tools.fuzz.problem import Problem


class Recorded:
    """What the layers drew, in the order of layers."""

    def __init__(self) -> None:
        self.masks: list[Any] = []
        self.weights: list[Tensor | None] = []
        self.outputs: list[Tensor] = []

    def draws(self, layers: int) -> list[Draws]:
        """Those of the first call, by layer."""

        def of(values: list[Any], index: int, count: int) -> Any:
            return values[index] if index < min(count, len(values)) else None

        found = []
        for index in range(layers):
            zoneout, recurrent = of(self.masks, index, layers) or (None, None)
            weights, outputs = of(self.weights, index, layers), of(self.outputs, index, layers - 1)
            found.append(Draws(zoneout, recurrent, weights, outputs))
        return found


@contextlib.contextmanager
def recording() -> Iterator[Recorded]:
    """Write down what layers draw; the bits of their results stay."""
    recorded, layers = Recorded(), cast("Any", _layers)
    drop_weights, draw_masks, drop = held = layers.with_dropped_weights, layers.draw_masks, layers._drop

    def twice(function: Any, given: tuple[Any, ...], ones: tuple[Any, ...]) -> tuple[Any, Any]:
        """The results for what is given and for ones, of the same random numbers."""
        state = torch.get_rng_state()
        factors = function(*ones)
        torch.set_rng_state(state)
        return function(*given), factors

    def of_weights(variants: Any, weights: Any) -> Any:
        ones = [w._replace(w_hh=torch.ones_like(w.w_hh)) for w in weights]  # a mask is drawn in the order of memory
        after, factors = twice(drop_weights, (variants, weights), (variants, ones))
        recorded.weights.append(None if factors is ones else torch.stack([w.w_hh for w in factors]).double())
        return after

    def of_masks(*arguments: Any) -> Any:
        recorded.masks.append(draw_masks(*arguments))
        return recorded.masks[-1]

    def of_outputs(x: Tensor, *rest: Any) -> Tensor:
        after, factors = twice(drop, (x, *rest), (torch.ones_like(x), *rest))
        recorded.outputs.append(factors.double())
        return after  # type: ignore[no-any-return]

    layers.with_dropped_weights, layers.draw_masks, layers._drop = of_weights, of_masks, of_outputs
    try:
        yield recorded
    finally:
        layers.with_dropped_weights, layers.draw_masks, layers._drop = held


class Margin(TorchFunctionMode):
    """How near the operations inside come to a point where their derivative jumps: relu at 0, clipping at its limit."""

    def __init__(self) -> None:
        super().__init__()
        self.distance = math.inf

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = args[0] if args else None
        if isinstance(value, Tensor) and value.numel() and value.is_floating_point():
            if func is torch.relu:
                self._see(value)
            elif func in (Tensor.gt, Tensor.lt, Tensor.__gt__, Tensor.__lt__):
                self._see(value - args[1])
        return func(*args, **(kwargs or {}))

    def _see(self, difference: Tensor) -> None:
        self.distance = min(self.distance, difference.detach().abs().min().item())


class InexactActivations(TorchFunctionMode):
    """Activations that are off by a few units in the last place of a type, as those that the kernels save are.

    Derivatives take their slope from the value, of which near saturation 1 - tanh(x)^2 is mostly rounding.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = torch.finfo(dtype).eps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.tanh, torch.sigmoid):
            return func(*args, **(kwargs or {}))
        (x,) = args
        y = func(x.detach())
        slope = 1 - y * y if func is torch.tanh else y * (1 - y)
        return func(x + self.eps * torch.randn_like(y) * y / slope.clamp_min(self.eps))


@contextlib.contextmanager
def norms_of_torch() -> Iterator[None]:
    """Steps with torch's layer_norm, which in the type of a case is as exact as can be asked for."""
    held = variant_reference.normalized

    def normalized(values: Tensor) -> Tensor:
        return F.layer_norm(values, values.shape[1:], eps=variant_reference.EPSILON)

    variant_reference.normalized = normalized
    try:
        yield
    finally:
        variant_reference.normalized = held


def torch_can(problem: Problem) -> bool:
    """Whether torch.nn has all of a case."""
    case = problem.case
    given = case.lengths or case.resets or case.cells
    return not (case.has_variants or given or case.draws) and min(case.t, case.b, case.i) > 0


def expected(problem: Problem, leaves: Mapping[str, Tensor], draws: list[Draws]) -> dict[str, Tensor]:
    """The results for those leaves, in their type; in float64 the truth."""
    if torch_can(problem):
        return _by_torch(problem, leaves)
    return _by_steps(problem, leaves, draws)


def _by_torch(problem: Problem, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    module = make_module(problem.case, torch.nn, device="meta")
    parameters = {name: leaves[name] for name in problem.parameters}
    if problem.case.is_cell:
        module._parameters = {**dict.fromkeys(module._parameters), **parameters}
    else:
        module._flat_weights = [parameters[name] for name in module._flat_weights_names]
    return call(problem, module, leaves)


def _by_steps(problem: Problem, leaves: Mapping[str, Tensor], draws: list[Draws]) -> dict[str, Tensor]:
    case = problem.case
    parameters = {name + ("_l0" if case.is_cell else ""): leaves[name] for name in problem.parameters}
    x, resets = leaves["x"], problem.resets
    states: list[Any] = [leaves.get(name) for name in ("h_0", "c_0")]
    if case.is_cell:
        x, states = x.unsqueeze(0), [None if state is None else state.unsqueeze(0) for state in states]
    if case.form == "unbatched":
        x, resets = x.unsqueeze(1), None if resets is None else resets.unsqueeze(1)
        states = [None if state is None else state.unsqueeze(1) for state in states]
    elif case.batch_first:
        x, resets = x.transpose(0, 1), None if resets is None else resets.t()
    lengths = None if problem.lengths is None or case.b == 0 else problem.lengths.reshape(-1)
    order = _order(problem)
    if order is not None and lengths is not None:
        x, lengths = x[:, order], lengths[order]
        states = [None if state is None else state[:, order] for state in states]
    draws = [Draws(*(None if d is None else d.to(x.dtype) for d in each)) for each in draws]
    h_0, c_0 = states
    found = variant_reference.stack(_kind(case), x, parameters, h_0, c_0, lengths, resets, draws, case.cell_clip)
    results: list[Any] = [found.output, found.h_n, found.c_n, found.cells if case.cells else None]
    results = [result for result in results if result is not None]
    if order is not None:
        results = [result[:, order.argsort()] for result in results]
    if case.form == "unbatched":
        results = [result.squeeze(1) for result in results]
    if case.is_cell:
        return named(case, [state[0] for state in results[1:]])
    for index in [0, *([len(results) - 1] if case.cells else [])]:
        results[index] = _like_input(problem, results[index])
    return named(case, results)


def _kind(case: Case) -> str:
    if case.module.startswith("RNN"):
        return "rnn_relu" if case.relu else "rnn_tanh"
    return "lstm" if case.is_lstm else "gru"


def _order(problem: Problem) -> Tensor | None:
    """The rows of a packed sequence, the longest first, for which masks are drawn."""
    if problem.case.form != "unsorted" or problem.lengths is None:
        return None
    indices = torch.zeros(problem.case.t, problem.case.b, 1)
    return pack_padded_sequence(indices, problem.lengths, enforce_sorted=False).sorted_indices


def _like_input(problem: Problem, steps: Tensor) -> Tensor:
    """Steps with time first as a layer returns them."""
    case = problem.case
    if case.is_packed and problem.lengths is not None:
        return pack_padded_sequence(steps, problem.lengths, enforce_sorted=case.form == "packed").data
    return steps.transpose(0, 1) if case.batch_first and case.form != "unbatched" else steps


def exact_leaves(problem: Problem, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Copies of the leaves in another type, with zeros in the padding, that want the same gradients."""
    return {
        name: leaf.detach().resolve_neg().to(dtype, copy=True).nan_to_num(nan=0.0).requires_grad_(leaf.requires_grad)
        for name, leaf in problem.leaves.items()
    }
