"""What a case does with its module, and the same of the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

import fused_rnn
from tools.fuzz import oracle
from tools.fuzz.checks import Refused, Wrong, check_memory, role, same_bits
from tools.fuzz.problem import MEMBERS, Problem, call, incoming, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.variant_reference import Draws

    Named = Mapping[str, Tensor]
    Outcome = dict[str, Tensor]


# --- The modes: results and gradients by name ---


def infer(problem: Problem) -> Outcome:
    """Several times, with other weights before, since a call may keep weights for the next one."""

    def results() -> Outcome:
        torch.manual_seed(problem.case.seed)
        return call(problem, problem.module, problem.inputs)

    def scale(factor: float) -> None:
        if problem.case.w_layout != "expanded":  # which torch refuses to write
            for parameter in problem.parameters.values():
                parameter.data.mul_(factor)

    with torch.no_grad():
        scale(-2.0)
        results()
        results()
        scale(-0.5)
        first = results()
        second = results()
    if any(result.requires_grad for result in first.values()):
        raise Wrong("a result of inference requires grad")
    check_memory(problem, first, {})
    for name, value in first.items():
        if not same_bits(value, second[name]):
            raise Wrong(f"{name} of a second call has other bits")
    return first


def train(problem: Problem) -> Outcome:
    """One backward pass, or two."""
    return _differentiated(problem, call(problem, problem.module, problem.inputs), problem.leaves)


def functional(problem: Problem) -> Outcome:
    """The same with other parameters by functional_call."""
    with torch.no_grad():
        others = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in problem.parameters.items()}
        for parameter in problem.parameters.values():
            parameter.requires_grad = False

    def module(*args: Any, **kwargs: Any) -> Any:
        return functional_call(problem.module, others, args, kwargs)

    for name, parameter in problem.parameters.items():  # the oracle asks them
        parameter.requires_grad_(others[name].requires_grad)
    return _differentiated(problem, call(problem, module, problem.inputs), {**problem.inputs, **others})


def inplace(problem: Problem) -> Outcome:
    """The output is changed after the call; that gives right gradients, or an error of autograd's."""
    results = call(problem, problem.module, problem.inputs)
    changed = _changed(results, in_place=True)
    try:
        return _differentiated(problem, changed, problem.leaves, memory=False)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise Refused from None


def _changed(results: Named, *, in_place: bool) -> Outcome:
    first = next(iter(results))
    factor = results[first].mul_(0.5) if in_place else results[first] * 0.5
    return {**results, first: factor}


def double(problem: Problem) -> Outcome:
    """Gradients of the gradients."""
    return _differentiated_twice(problem, call(problem, problem.module, problem.inputs), problem.leaves)


def mapped(problem: Problem) -> Outcome:
    """Members by vmap, differentiated outside of it."""
    dims = {name: 0 if _is_mapped(problem, name) else None for name in problem.leaves}

    def member(leaves: Named) -> Outcome:
        return _call_with(problem, leaves)

    return _differentiated(problem, vmap(member, in_dims=(dims,))(problem.leaves), problem.leaves, memory=False)


def func(problem: Problem) -> Outcome:
    """torch.func.grad, of all members by vmap where something is mapped."""
    d = _incoming(problem, {name: torch.empty(shape) for name, shape in shapes(problem.case).items()})
    d = {name: value.to(getattr(torch, problem.case.dtype)) for name, value in d.items()}
    torch.manual_seed(problem.case.seed)
    leaves = {name: leaf.detach() for name, leaf in problem.leaves.items()}
    wanted = {name: leaves.pop(name) for name in problem.wanted}
    if not wanted:
        with torch.no_grad():
            return _members(problem, problem.leaves, _call_with)

    def loss(chosen: Named, others: Named, arriving: Named) -> tuple[Tensor, Outcome]:
        results = _call_with(problem, {**others, **chosen})
        total = sum((results[name] * value).sum() for name, value in arriving.items())
        return total, results  # type: ignore[return-value]

    gradient = torch.func.grad(loss, has_aux=True)
    if problem.case.mapped:
        in_dims = tuple({name: 0 if _is_mapped(problem, name) else None for name in part} for part in (wanted, leaves))
        gradient = vmap(gradient, in_dims=(*in_dims, 0))
    gradients, results = gradient(wanted, leaves, d)
    return {**results, **{f"d_{name}": value for name, value in gradients.items()}}


def stepper(problem: Problem) -> Outcome:
    """Steps by a Stepper, against the layer in evaluation mode."""
    case = problem.case
    taken = fused_rnn.Stepper(problem.module, case.b)
    if case.states:
        states = [problem.inputs[name].detach() for name in ("h_0", "c_0") if name in problem.inputs]
        taken.state = tuple(states) if len(states) == 2 else states[0]
    x = problem.inputs["x"].detach()
    x = x.transpose(0, 1) if case.batch_first else x
    outputs = [taken.step(step) for step in x.unbind(0)]
    width = case.proj or case.h
    output = torch.stack(outputs) if outputs else x.new_zeros(0, case.b, width)
    state = taken.state if case.is_lstm else (taken.state,)
    return {
        "output": output.transpose(0, 1) if case.batch_first else output,
        **dict(zip(("h_n", "c_n"), state, strict=False)),
    }


MODES: dict[str, Callable[[Problem], Outcome]] = {
    "infer": infer,
    "train": train,
    "functional": functional,
    "inplace": inplace,
    "double": double,
    "vmap": mapped,
    "func": func,
    "stepper": stepper,
}


# --- The same of the oracle ---


def truth(problem: Problem, leaves: Named, draws: list[Draws]) -> Outcome:
    """What a mode's outcome should be, from leaves of any type."""
    case = problem.case

    def results_of(_: Problem, given: Named) -> Outcome:
        return oracle.expected(problem, given, draws)

    if case.mode in {"infer", "stepper"}:
        with torch.no_grad():
            return results_of(problem, leaves)
    if case.mode == "func" and case.mapped:
        each = [_member(problem, leaves, m) for m in range(MEMBERS)]
        gradients = [
            _differentiated(problem, results_of(problem, one), one, memory=False, materialize=True, member=m)
            for m, one in enumerate(each)
        ]
        return {name: torch.stack([one[name] for one in gradients]) for name in gradients[0]}
    results = _members(problem, leaves, results_of)
    if case.mode == "inplace":
        results = _changed(results, in_place=False)
    if case.mode == "double":
        return _differentiated_twice(problem, results, leaves)
    return _differentiated(problem, results, leaves, memory=False, materialize=True)


def _is_mapped(problem: Problem, name: str) -> bool:
    letter = "p" if name in problem.parameters else "x" if name == "x" else "s"
    return letter in problem.case.mapped


def _members(problem: Problem, leaves: Named, function: Callable[[Problem, Named], Outcome]) -> Outcome:
    """The results of all members, one after the other."""
    if not problem.case.mapped:
        return function(problem, leaves)
    found = [function(problem, _member(problem, leaves, m)) for m in range(MEMBERS)]
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def _member(problem: Problem, leaves: Named, member: int) -> Outcome:
    return {name: leaf[member] if _is_mapped(problem, name) else leaf for name, leaf in leaves.items()}


def _call_with(problem: Problem, leaves: Named) -> Outcome:
    parameters = {name: leaves[name] for name in problem.parameters}

    def module(*args: Any, **kwargs: Any) -> Any:
        return functional_call(problem.module, parameters, args, kwargs)

    return call(problem, module, leaves)


def _incoming(problem: Problem, results: Named) -> Outcome:
    torch.manual_seed(problem.case.seed + 1)
    like = getattr(torch, problem.case.dtype)
    d = incoming(problem.case, {name: torch.empty(result.shape, dtype=like) for name, result in results.items()})
    return {name: value.to(results[name].dtype) for name, value in d.items()} if _type(results) != like else d


def _type(results: Named) -> torch.dtype:
    return next(iter(results.values())).dtype


def _differentiated(
    problem: Problem,
    results: Named,
    leaves: Named,
    *,
    memory: bool = True,
    materialize: bool = False,
    member: int | None = None,
) -> Outcome:
    """Results, and the gradients of the leaves that want them."""
    wanted = problem.wanted
    if member is None:
        d = _incoming(problem, results)
    else:  # those of one member
        d = _incoming(problem, {name: value.expand(MEMBERS, *value.shape) for name, value in results.items()})
        d = {name: value[member] for name, value in d.items()}
    outcome = {name: result.detach() for name, result in results.items()}
    if not wanted:
        if any(result.requires_grad for result in results.values()):
            raise Wrong("a result requires grad though nothing does")
        return outcome
    chosen = {name: results[name] for name in d if results[name].requires_grad}
    if not materialize and len(chosen) < len(d) and problem.case.t > 0:
        raise Wrong(f"{', '.join(sorted(d.keys() - chosen.keys()))} should require grad")
    if not chosen:
        return outcome
    given = {name: value.clone() for name, value in d.items()}

    def gradients(*, retain: bool) -> Sequence[Tensor | None]:
        return torch.autograd.grad(
            list(chosen.values()), [leaves[name] for name in wanted], [d[name] for name in chosen],
            retain_graph=retain, allow_unused=True, materialize_grads=materialize,
        )  # fmt: skip

    once = gradients(retain=True) if problem.case.retain else []
    found = gradients(retain=False)
    for name, first, second in zip(wanted, once, found, strict=False):
        if first is not None and second is not None and not same_bits(first, second):
            raise Wrong(f"d_{name} of a second backward pass has other bits")
    if not all(same_bits(value, given[name]) for name, value in d.items()):
        raise Wrong("a gradient that arrives was changed")
    absent = [name for name, value in zip(wanted, found, strict=True) if value is None]
    if absent and problem.case.t > 0:
        raise Wrong(f"no gradient of {role(absent[0])}")
    named = {f"d_{name}": value for name, value in zip(wanted, found, strict=True) if value is not None}
    if memory:
        check_memory(problem, results, named)
    return {**outcome, **named}


def _differentiated_twice(problem: Problem, results: Named, leaves: Named) -> Outcome:
    """Results, gradients, and the gradients of random sums of these."""
    wanted = problem.wanted
    outcome = {name: result.detach() for name, result in results.items()}
    d = {name: value.requires_grad_() for name, value in _incoming(problem, results).items()}
    chosen = {name: results[name] for name in d if results[name].requires_grad}
    if not wanted or not chosen:
        return outcome
    inputs, arriving = [leaves[name] for name in wanted], [d[name] for name in chosen]
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(list(chosen.values()), inputs, arriving, create_graph=True, **options)
    outcome |= {f"d_{name}": value.detach() for name, value in zip(wanted, first, strict=True)}
    torch.manual_seed(problem.case.seed + 2)
    total = sum((value * torch.randn(value.shape).to(value.dtype)).sum() for value in first)
    if not isinstance(total, Tensor) or not total.requires_grad:
        return outcome
    second = torch.autograd.grad(total, [*inputs, *arriving], **options)
    names = [*wanted, *(f"arriving_{name}" for name in chosen)]
    return {**outcome, **{f"d_d_{name}": value for name, value in zip(names, second, strict=True)}}
