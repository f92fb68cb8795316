"""What is right: torch.nn's modules where they can run a case, else the plain steps of tests/variant_reference.py.

Both in float64, from the same values. What a call draws at random is written down by `recording` and given to the steps.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

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
            masks = of(self.masks, index, layers) or (None, None)
            found.append(Draws(*masks, of(self.weights, index, layers), of(self.outputs, index, layers - 1)))
        return found


@contextlib.contextmanager
def recording() -> Iterator[Recorded]:
    """Write down what layers draw; the bits of their results stay."""
    recorded = Recorded()
    held = _layers.with_dropped_weights, _layers.draw_masks, _layers._drop
    drop_weights, draw_masks, drop = held

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

    _layers.with_dropped_weights, _layers.draw_masks, _layers._drop = of_weights, of_masks, of_outputs
    try:
        yield recorded
    finally:
        _layers.with_dropped_weights, _layers.draw_masks, _layers._drop = held


class Margin(TorchFunctionMode):
    """How near the operations inside come to a point where their derivative jumps: relu at 0, clipping at its limit."""

    def __init__(self) -> None:
        super().__init__()
        self.distance = math.inf

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        value = args[0] if args else None
        if isinstance(value, Tensor) and value.numel() and value.is_floating_point():
            if func is torch.relu:
                self._see(value)
            elif func in (Tensor.__gt__, Tensor.__lt__):
                self._see(value - args[1])
        return func(*args, **(kwargs or {}))

    def _see(self, difference: Tensor) -> None:
        self.distance = min(self.distance, difference.detach().abs().min().item())


def has_variants(case: Case) -> bool:
    """Whether a case has formulas that torch.nn has not."""
    return case.layer_norm or case.zoneout != 0.0 or case.peephole or case.cell_clip is not None


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
    return not (has_variants(case) or given or case.draws) and min(case.t, case.b, case.i) > 0


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
    x, resets, order = leaves["x"], problem.resets, None
    states = [leaves.get(name) for name in ("h_0", "c_0")]
    if case.is_cell:
        x = x.unsqueeze(0)
        states = [None if state is None else state.unsqueeze(0) for state in states]
    batch = 0 if case.batch_first else 1
    if case.form == "unbatched":
        x, resets = x.unsqueeze(1), None if resets is None else resets.unsqueeze(1)
        states = [None if state is None else state.unsqueeze(1) for state in states]
    elif case.batch_first:
        x, resets = x.transpose(0, 1), None if resets is None else resets.t()
    lengths = None if problem.lengths is None or case.b == 0 else problem.lengths.reshape(-1)
    if case.is_packed:  # what is drawn is for the longest row first
        assert problem.lengths is not None  # noqa: S101 - it is packed by them
        packed = pack_padded_sequence(leaves["x"].detach(), problem.lengths, case.batch_first, case.form == "packed")
        order = packed.sorted_indices
        if order is not None and lengths is not None:
            x, lengths = x[:, order], lengths[order]
            states = [None if state is None else state[:, order] for state in states]
    cell = "lstm" if case.is_lstm else "gru" if case.module.startswith("GRU") else f"rnn_{'relu' if case.relu else 'tanh'}"
    draws = [Draws(*(None if d is None else d.to(x.dtype) for d in each)) for each in draws]
    h_0, c_0 = states
    found = variant_reference.stack(cell, x, parameters, h_0, c_0, lengths, resets, draws, case.cell_clip)
    results = [found.output, found.h_n, *([found.c_n] if case.is_lstm else []), *([found.cells] if case.cells else [])]
    results = [each for each in results if each is not None]
    if case.is_cell:
        results = [each[0] for each in results[1:]]
        return named(case, [each[0] for each in results] if case.form == "unbatched" else results)
    if order is not None:
        results = [each[:, order.argsort()] for each in results]
    for index in [0, *([len(results) - 1] if case.cells else [])]:
        if case.form == "unbatched":
            continue
        if case.batch_first:
            results[index] = results[index].transpose(0, 1)
        if case.is_packed:
            assert problem.lengths is not None  # noqa: S101 - as above
            results[index] = pack_padded_sequence(
                results[index], problem.lengths, case.batch_first, case.form == "packed"
            ).data
    if case.form == "unbatched":
        results = [each.squeeze(batch if each.dim() == 3 and not case.batch_first else 1) for each in results]
    return named(case, results)


def exact_leaves(problem: Problem, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Copies of the leaves in another type, with zeros in the padding, that want the same gradients."""
    return {
        name: leaf.detach().resolve_neg().to(dtype, copy=True).nan_to_num(nan=0.0).requires_grad_(leaf.requires_grad)
        for name, leaf in problem.leaves.items()
    }


def kinks(case: Case) -> bool:
    """Whether the gradients of a case jump somewhere."""
    return case.relu or case.cell_clip is not None
