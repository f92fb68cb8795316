"""Run a case and compare its outcome with the oracle's."""

from __future__ import annotations

import contextlib
import re
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tests.tolerances import TOLERANCES, allowed_error, relative_error
from tools.fuzz import oracle
from tools.fuzz.checks import Failure, Wrong, keeps_bits, role, same_bits
from tools.fuzz.modes import MODES, truth
from tools.fuzz.problem import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.variant_reference import Draws
    from tools.fuzz.case import Case
    from tools.fuzz.problem import Problem

    Named = Mapping[str, Tensor]

_SMALL = 0.1  # where all expected values are smaller, this is the scale of their errors


def run(case: Case) -> list[Failure]:
    """All that is wrong with a case."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    problem = build(case)
    before = {name: (tensor, tensor.detach().clone(), tensor._version) for name, tensor in problem.tensors().items()}
    failures: list[Failure] = []
    try:
        failures += _outcome_failures(problem)
    except Wrong as error:
        failures.append(error.failure)
    except Exception as error:  # noqa: BLE001 - whatever is raised is the finding
        text = re.sub(r"0x[0-9a-f]+|-?\d+(\.\d+)?", "N", str(error).split("\n")[0])
        failures.append(Failure(f"{type(error).__name__}: {text[:150]}", str(error)))
    finally:
        torch.set_num_threads(threads)
    failures += [
        Failure(f"{role(name)} was changed")
        for name, (tensor, copy, version) in before.items()
        if tensor._version != version or not same_bits(tensor.detach(), copy)
    ]
    return failures


def _outcome_failures(problem: Problem) -> Iterator[Failure]:
    """What is wrong with the outcome, and with that of a second run."""
    case = problem.case
    with oracle.recording() as recorded:
        torch.manual_seed(case.seed)
        outcome = MODES[case.mode](problem)
    yield from compare(problem, recorded.draws(case.layers), outcome)
    if case.again and keeps_bits(case):
        torch.set_num_threads(case.again)
        again = build(case)
        torch.manual_seed(case.seed)
        second = MODES[case.mode](again)
        for name, value in outcome.items():
            if not same_bits(value.detach(), second[name].detach()):
                yield Failure(f"{role(name)} has other bits again, threads={case.again}")


def compare(problem: Problem, draws: list[Draws], outcome: Named) -> Iterator[Failure]:
    """What differs from the oracle by more than the table allows and other computations in the same type do."""
    case, dtype = problem.case, getattr(torch, problem.case.dtype)
    margin = oracle.Margin()
    with margin if case.has_kinks else contextlib.nullcontext():
        exact = truth(problem, oracle.exact_leaves(problem), draws)
    others: Sequence[Named] = []
    # A second derivative has more to cancel, and the norm of one or two units is all cancellation. That of one has no
    # derivative, where torch's own layer norm leaves roundings times the cube of its scale, 1 / sqrt(epsilon) = 316.
    times = 4 if case.mode == "double" or (case.layer_norm and case.h <= 2) else 1
    times = 4096 if case.layer_norm and case.h == 1 else times
    for name, value in outcome.items():
        if name not in exact:  # where there are no steps nothing depends on anything
            if value.any():
                yield Failure(f"{role(name)}: not zero without steps")
            continue
        wanted, limit = exact[name].detach(), TOLERANCES[dtype][name.startswith("d_")]
        if value.dtype != dtype or value.shape != wanted.shape:
            yield Failure(f"{role(name)}: {value.dtype} {list(value.shape)}, expected {dtype} {list(wanted.shape)}")
            continue
        if wanted.numel() == 0:
            continue
        finite = bool(value.isfinite().all())
        error = relative_error(value, wanted) if finite else float("inf")
        # Of saturated units all derivatives are small, and inexact as differences from 1.
        error *= min(1.0, wanted.abs().max().item() / _SMALL) if finite else 1.0
        # Where a derivative jumps, rounding decides it.
        if error <= times * limit or (
            finite and name.startswith("d_") and margin.distance < 64 * torch.finfo(dtype).eps
        ):
            continue
        if not others:
            others = _in_other_ways(problem, draws)
        if not (finite or all(each.isfinite().all() for each in others[0].values())):  # too large for the type
            continue
        theirs = max(relative_error(each[name].detach().nan_to_num(), wanted) for each in others)
        if error > 4 * allowed_error(dtype, theirs):
            what = "wrong" if finite else "not finite"
            yield Failure(f"{role(name)}: {what}", f"{name}: error {error:.1e}, allowed {limit:.0e}, else {theirs:.1e}")
    yield from (Failure(f"{role(name)}: absent") for name in exact if name not in outcome and case.t > 0)


def _in_other_ways(problem: Problem, draws: list[Draws]) -> Sequence[Named]:
    """What the case's type can do: the oracle in that type, and in float64 from leaves and activations rounded again.

    Few draws miss the largest error that a rounding anywhere grows to.
    """
    dtype = getattr(torch, problem.case.dtype)
    with oracle.norms_of_torch(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of slow ways
        found = [truth(problem, oracle.exact_leaves(problem, dtype), draws)]
    for seed in range(12):
        leaves = oracle.exact_leaves(problem)
        torch.manual_seed(seed)
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.mul_(1 + torch.finfo(dtype).eps * torch.randn(leaf.shape, dtype=torch.float64))
        with oracle.InexactActivations(dtype):
            found.append(truth(problem, leaves, draws))
    return found
