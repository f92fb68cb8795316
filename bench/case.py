"""A problem with its values, and torch.nn's modules on it: what every implementation is given, and what is exact."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

    from .problems import Problem

Results = dict[str, torch.Tensor]

_RELU_MARGIN = 1e-6  # about ten times the rounding error of a float32 pre-activation
_RELU_DRAWS = 20


@dataclass(frozen=True)
class Case:
    """A problem with the values every peer gets: weights by torch.nn's names, inputs, and gradients of the results."""

    problem: Problem
    weights: Mapping[str, torch.Tensor]
    x: torch.Tensor  # [T, B, I]
    h_0: torch.Tensor  # [layers * D, B, P]
    c_0: torch.Tensor  # [layers * D, B, H], used by the LSTM
    d_output: torch.Tensor  # [T, B, D * P]
    d_h_n: torch.Tensor
    d_c_n: torch.Tensor

    @classmethod
    def draw(cls, problem: Problem, seed: int = 0) -> Case:
        """Random values, the same for the same seed.

        The derivative of relu jumps at 0: where a pre-activation is within rounding of 0, two correct float32 results
        have different gradients. So a relu case is drawn again until none is that close; failing that, the best draw
        of a few is taken.
        """
        if problem.cell != "rnn_relu" or not problem.training or problem.dtype != torch.float32:
            return cls._draw(problem, seed)
        best, best_margin = None, -1.0
        for attempt in range(_RELU_DRAWS):
            case = cls._draw(problem, seed + 1000 * attempt)
            margin = _distance_from_kinks(case)
            if margin > best_margin:
                best, best_margin = case, margin
            if margin >= _RELU_MARGIN:
                break
        assert best is not None  # noqa: S101 - the loop runs at least once
        return best

    @classmethod
    def _draw(cls, problem: Problem, seed: int) -> Case:
        with fixed_seed(seed):
            weights = problem.make_layer(torch.nn).state_dict()

            def normal(*shape: int) -> torch.Tensor:
                return torch.randn(*shape).to(problem.dtype)

            time_steps, batch, _ = problem.input_shape
            return cls(
                problem,
                weights,
                x=normal(*problem.input_shape),
                h_0=0.5 * normal(*problem.h_shape),
                c_0=normal(*problem.c_shape),
                d_output=normal(time_steps, batch, problem.directions * problem.output_size),
                d_h_n=normal(*problem.h_shape),
                d_c_n=normal(*problem.c_shape),
            )

    def double(self) -> Case:
        """The same values in float64."""
        return Case(
            replace(self.problem, dtype=torch.float64, factors=None),
            {name: weight.double() for name, weight in self.weights.items()},
            *(value.double() for value in (self.x, self.h_0, self.c_0, self.d_output, self.d_h_n, self.d_c_n)),
        )

    def unrounded(self) -> Case:
        """The same values for a layer that rounds no factors."""
        return replace(self, problem=replace(self.problem, factors=None))


@contextmanager
def rounding(factors: torch.dtype | None) -> Iterator[None]:
    """Inside, torch's switch lets RNNs on CPU round the factors of float32 GEMMs to bfloat16, if that is asked."""
    switch: Any = torch.backends.mkldnn.rnn  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = "bf16" if factors == torch.bfloat16 else before
    try:
        yield
    finally:
        switch.fp32_precision = before


@contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """The same random numbers inside every time, and none taken from those outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Prepared(Protocol):
    """A peer's layer, ready to run one case."""

    def results(self, *, with_state: bool) -> Results:
        """Output, final states and, in training, all gradients (named `d_...`), with or without initial states."""

    def step(self) -> None:
        """What is timed. Inference: one forward call. Training: forward, and backward to the input and all weights."""


class ModuleRun:
    """A layer with torch.nn's interface on one case.

    `options` are further arguments of its constructor, `arguments` those of each call, and `quantize` makes an int8
    layer of it. Training differentiates sum(output * d_output) for a fixed random d_output, by handing d_output to the
    backward pass.
    """

    def __init__(
        self,
        namespace: ModuleType,
        case: Case,
        options: Mapping[str, Any] = MappingProxyType({}),
        arguments: Mapping[str, Any] = MappingProxyType({}),
        quantize: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
    ) -> None:
        self._case = case
        self._training = case.problem.training
        self._layer = case.problem.make_layer(namespace, **options)
        self._layer.load_state_dict(dict(case.weights))
        if case.problem.factors == torch.int8:
            if quantize is None:
                raise NotImplementedError(f"{namespace.__name__} has no int8 layers")
            self._layer = quantize(self._layer)
        self._arguments = arguments
        self._x = case.x.clone().requires_grad_(self._training)

    def call(self, state: Any = None) -> tuple[torch.Tensor, Any]:
        """Output and final state."""
        output, last = self._layer(self._x, state, **self._arguments)
        return output, last

    def step(self) -> None:
        """One timed call."""
        if self._case.problem.factors != torch.bfloat16:
            self._step()  # short calls would feel the switch
            return
        with rounding(torch.bfloat16):
            self._step()

    def _step(self) -> None:
        if not self._training:
            with torch.no_grad():
                self.call()
            return
        self._layer.zero_grad(set_to_none=True)
        self._x.grad = None
        output, _ = self.call()
        torch.autograd.backward(output, self._case.d_output)

    def results(self, *, with_state: bool) -> Results:
        """All results by name; what a layer draws at random is the same in every call."""
        case = self._case
        lstm = case.problem.cell == "lstm"
        leaves = {"x": self._x}
        state: Any = None
        if with_state:
            leaves["h_0"] = case.h_0.clone().requires_grad_(self._training)
            state = leaves["h_0"]
            if lstm:
                leaves["c_0"] = case.c_0.clone().requires_grad_(self._training)
                state = (leaves["h_0"], leaves["c_0"])
        with torch.set_grad_enabled(self._training), fixed_seed(), rounding(case.problem.factors):
            output, last = self.call(state)
        found = {"output": output, "h_n": last[0] if lstm else last}
        gradients = {"output": case.d_output, "h_n": case.d_h_n}
        if lstm:
            found["c_n"], gradients["c_n"] = last[1], case.d_c_n
        results = {name: value.detach() for name, value in found.items()}
        if self._training:
            leaves |= dict(self._layer.named_parameters())
            with rounding(case.problem.factors):
                d_leaves = torch.autograd.grad(
                    list(found.values()), list(leaves.values()), [gradients[name] for name in found]
                )
            results |= {f"d_{name}": value for name, value in zip(leaves, d_leaves, strict=True)}
        return results


def oracle(case: Case, *, with_state: bool) -> Results:
    """The results in float64, by torch.nn."""
    return ModuleRun(torch.nn, case.double()).results(with_state=with_state)


def _distance_from_kinks(case: Case) -> float:
    """The smallest |pre-activation| of a stack of relu layers, with and without initial states, in float64."""
    exact = case.double()
    least = float("inf")
    for h_0 in (exact.h_0, torch.zeros_like(exact.h_0)):
        below = exact.x
        for layer in range(case.problem.layers):
            outputs = []
            for direction in range(case.problem.directions):
                suffix = f"l{layer}" + "_reverse" * direction
                w_ih, w_hh, b_ih, b_hh = (
                    exact.weights[f"{kind}_{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                from_x = below @ w_ih.T + b_ih + b_hh
                h = h_0[layer * case.problem.directions + direction]
                steps = []
                for pre_x in from_x.flip(0) if direction else from_x:
                    pre = pre_x + h @ w_hh.T
                    least = min(least, pre.abs().min().item())
                    h = pre.relu()
                    steps.append(h)
                output = torch.stack(steps)
                outputs.append(output.flip(0) if direction else output)
            below = torch.cat(outputs, dim=-1)
    return least
