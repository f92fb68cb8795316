"""What is run for the features beyond torch.nn: variants of our layer, packed sequences, gradients for each sample.

Each knows its exact results in float64: by torch.nn where that has the feature, else by `reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fused_rnn

from . import reference
from .case import Case, ModuleRun, Results, fixed_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from .problems import Problem

    Arguments = dict[str, torch.Tensor]
    Gradients = dict[str, Any]  # by parameter: a tensor for each sample, or one with all of them
    PerSample = Callable[[torch.nn.Module, Case, Any], Gradients]

RESET_SHARE = 0.05

_SEED = 1
_GAIN = 0.3  # of a norm: with 1, an untrained layer multiplies a rounding error a thousandfold in 100 steps
_DEVIATIONS = 6.0  # by which the share of what is dropped or kept may differ from its probability


def no_arguments(_problem: Problem) -> Arguments:
    """A call with the input alone."""
    return {}


def random_lengths(problem: Problem) -> Arguments:
    """Lengths from 1 to T, equally likely."""
    generator = torch.Generator().manual_seed(_SEED)
    return {"lengths": torch.randint(1, problem.time_steps + 1, (problem.batch,), generator=generator, device="cpu")}


def random_resets(problem: Problem) -> Arguments:
    """Resets at RESET_SHARE of the steps of every row."""
    generator = torch.Generator().manual_seed(_SEED)
    return {"resets": torch.rand(problem.time_steps, problem.batch, generator=generator) < RESET_SHARE}


@dataclass(frozen=True)
class Variant:
    """Our layer with further `options` of its constructor and `arguments` of its call."""

    options: Mapping[str, Any]
    arguments: Callable[[Problem], Arguments] = no_arguments

    def prepare(self, case: Case) -> ModuleRun:
        """Our layer."""
        return self.run(fused_rnn, case)

    def run(self, namespace: ModuleType, case: Case) -> ModuleRun:
        """The same layer of any namespace."""
        return ModuleRun(namespace, self._with_all_weights(case), self.options, self.arguments(case.problem))

    def exact(self, case: Case, *, with_state: bool) -> Results:
        """The results in float64, by the reference, with the masks that our layer draws."""
        exact = self._with_all_weights(case).double()
        arguments = self.arguments(case.problem) | masks(exact, self.options)
        return ModuleRun(reference, exact, self.options, arguments).results(with_state=with_state)

    def _with_all_weights(self, case: Case) -> Case:
        """The case with values for the parameters that torch.nn's layer does not have."""
        weights = dict(case.weights)
        with fixed_seed(_SEED):
            for name, weight in case.problem.make_layer(fused_rnn, **self.options).state_dict().items():
                if name not in weights:
                    drawn = 0.2 * torch.randn(weight.shape)
                    weights[name] = (_GAIN * (1.0 + drawn) if name.startswith("gain_") else drawn).to(weight.dtype)
        return replace(case, weights=weights)


def masks(case: Case, options: Mapping[str, Any]) -> Arguments:
    """The masks that our layer draws on a case in float64, as arguments of the reference, read off its own results.

    A state that zoneout kept is exactly the one before the step; what dropout dropped has exactly no gradient.
    ValueError where the share of that is not the probability.
    """
    probabilities = {name: p for name, p in options.items() if name in _READERS}
    if not probabilities:
        return {}
    problem = case.problem
    layer = problem.make_layer(fused_rnn, **options)
    layer.load_state_dict(dict(case.weights))
    h_0 = case.h_0.clone().requires_grad_()
    lstm = problem.cell == "lstm"
    with fixed_seed():
        output, _, *cells = layer(case.x, (h_0, case.c_0) if lstm else h_0, return_cells=lstm)
    w_hh = layer.get_parameter("weight_hh_l0")
    d_h_0, d_w_hh = torch.autograd.grad(output, (h_0, w_hh), case.d_output)
    read = _Read(states=[output, *cells], initial=[h_0, case.c_0], d_h_0=d_h_0, d_w_hh=d_w_hh)
    return {argument: mask for name, p in probabilities.items() for argument, mask in _READERS[name](read, p).items()}


@dataclass(frozen=True)
class _Read:
    """What masks are read off."""

    states: Sequence[torch.Tensor]  # h and c after each step, [T, B, H]
    initial: Sequence[torch.Tensor]  # h and c before the first, [1, B, H]
    d_h_0: torch.Tensor  # [1, B, H]
    d_w_hh: torch.Tensor


def _zoneout(read: _Read, probability: float) -> Arguments:
    pairs = zip(read.states, read.initial, strict=False)  # a GRU has no c
    kept = torch.stack([after == torch.cat([first, after[:-1]]) for after, first in pairs], 2)
    return {"kept": _checked("zoneout", kept, probability)}


def _recurrent_dropout(read: _Read, probability: float) -> Arguments:
    dropped = _checked("recurrent_dropout", read.d_h_0[0] == 0.0, probability)
    return {"recurrent_mask": (~dropped).double() / (1.0 - probability)}


def _weight_dropout(read: _Read, probability: float) -> Arguments:
    dropped = _checked("weight_dropout", read.d_w_hh == 0.0, probability)
    return {"weight_mask": (~dropped).double() / (1.0 - probability)}


_READERS = {"zoneout": _zoneout, "recurrent_dropout": _recurrent_dropout, "weight_dropout": _weight_dropout}


def _checked(name: str, mask: torch.Tensor, probability: float) -> torch.Tensor:
    share = mask.double().mean().item()
    if abs(share - probability) > _DEVIATIONS * math.sqrt(probability * (1.0 - probability) / mask.numel()):
        raise ValueError(f"{name}={probability:g} acts on {share:.3g} of {mask.numel()} values")
    return mask


class PackedRun(ModuleRun):
    """A layer on a packed sequence of random lengths, packed beforehand."""

    def __init__(self, namespace: ModuleType, case: Case) -> None:
        lengths = random_lengths(case.problem)["lengths"]
        packed, d_output = (
            pack_padded_sequence(steps, lengths, enforce_sorted=False) for steps in (case.x, case.d_output)
        )
        super().__init__(namespace, replace(case, x=packed.data, d_output=d_output.data))
        self._packed = packed

    def call(self, state: Any = None) -> tuple[torch.Tensor, Any]:
        """The packed output's values and the final state."""
        _, batch_sizes, sorted_indices, unsorted_indices = self._packed
        packed = PackedSequence(self._x, batch_sizes, sorted_indices, unsorted_indices)
        output, last = self._layer(packed, state)
        return output.data, last


def exact_packed(case: Case, *, with_state: bool) -> Results:
    """The results of a packed sequence in float64, by torch.nn."""
    return PackedRun(torch.nn, case.double()).results(with_state=with_state)


def by_vmap(layer: torch.nn.Module, case: Case, state: Any) -> Gradients:
    """All samples at once."""
    in_dims = (None, 1, 1, None if state is None else 1)
    gradients: Gradients = vmap(grad(_loss(layer)), in_dims)(_detached(layer), case.x, case.d_output, state)
    return gradients


def by_functional_loop(layer: torch.nn.Module, case: Case, state: Any) -> Gradients:
    """torch.func.grad of one sample after the other."""
    gradient, parameters = grad(_loss(layer)), _detached(layer)
    found = [gradient(parameters, *sample) for sample in _samples(case, state)]
    return {name: [each[name] for each in found] for name in parameters}


def by_autograd_loop(layer: torch.nn.Module, case: Case, state: Any) -> Gradients:
    """torch.autograd.grad of one sample after the other."""
    names, parameters = zip(*layer.named_parameters(), strict=True)
    found = [
        torch.autograd.grad(layer(x, state_of_sample)[0], parameters, d_output)
        for x, d_output, state_of_sample in _samples(case, state)
    ]
    return dict(zip(names, zip(*found, strict=True), strict=True))


def _detached(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def _loss(layer: torch.nn.Module) -> Callable[..., torch.Tensor]:
    def loss(parameters: Any, x: torch.Tensor, d_output: torch.Tensor, state: Any) -> torch.Tensor:
        output, _ = functional_call(layer, parameters, (x, state))
        return torch.sum(output * d_output)

    return loss


def _samples(case: Case, state: Any) -> list[tuple[torch.Tensor, torch.Tensor, Any]]:
    """Input, gradient of the output, and state of every sample, without a batch."""
    states = [None] * case.problem.batch if state is None else list(zip(*(s.unbind(1) for s in state), strict=True))
    return list(zip(case.x.unbind(1), case.d_output.unbind(1), states, strict=True))


class PerSampleRun(ModuleRun):
    """The gradients of an LSTM's parameters for each sample."""

    def __init__(self, namespace: ModuleType, case: Case, gradients: PerSample) -> None:
        super().__init__(namespace, case)
        self._gradients = gradients

    def step(self) -> None:
        """One timed call."""
        self._gradients(self._layer, self._case, None)

    def results(self, *, with_state: bool) -> Results:
        """A result for each parameter, [B, ...]."""
        state = (self._case.h_0, self._case.c_0) if with_state else None
        found = self._gradients(self._layer, self._case, state)
        return {
            f"d_{name}": each if isinstance(each, torch.Tensor) else torch.stack(each) for name, each in found.items()
        }


def exact_per_sample(case: Case, *, with_state: bool) -> Results:
    """The gradients for each sample in float64, by torch.nn."""
    return PerSampleRun(torch.nn, case.double(), by_autograd_loop).results(with_state=with_state)
