"""What a case does with its module, and how the outcome is compared with the oracle's."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap

import fused_rnn
from tests.tolerances import TOLERANCES, allowed_error, relative_error
from tools.fuzz import oracle
from tools.fuzz.problem import MEMBERS, Problem, build, call, incoming, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.variant_reference import Draws
    from tools.fuzz.case import Case

    Named = Mapping[str, Tensor]
    Outcome = dict[str, Tensor]


class Failure(NamedTuple):
    """Something wrong: a kind, which many cases share, and what was seen."""

    kind: str
    detail: str = ""


def run(case: Case) -> list[Failure]:
    """All that is wrong with a case."""
    failures: list[Failure] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        problem = build(case)
        before = {name: (tensor, tensor.detach().clone(), tensor._version) for name, tensor in problem.tensors().items()}
        with oracle.recording() as recorded:
            torch.manual_seed(case.seed)
            outcome = MODES[case.mode](problem)
        draws = recorded.draws(case.layers)
        failures += list(compare(problem, draws, outcome))
        failures += [
            Failure(f"{name} was changed")
            for name, (tensor, copy, version) in before.items()
            if tensor._version != version or not _same_bits(tensor.detach(), copy)
        ]
        if case.mode != "infer" and case.again:
            torch.set_num_threads(case.again)
            again = build(case)
            torch.manual_seed(case.seed)
            second = MODES[case.mode](again)
            failures += [
                Failure(f"{_role(name)} has other bits again, threads={case.again}")
                for name, value in outcome.items()
                if _keeps_bits(case) and not _same_bits(value.detach(), second[name].detach())
            ]
    except Wrong as error:
        failures.append(error.failure)
    except Exception as error:  # noqa: BLE001 - whatever is raised is the finding
        text = re.sub(r"0x[0-9a-f]+|-?\d+(\.\d+)?", "N", str(error).split("\n")[0])
        failures.append(Failure(f"{type(error).__name__}: {text[:150]}", str(error)))
    finally:
        torch.set_num_threads(threads)
    return failures


class Wrong(Exception):  # noqa: N818 - not an error of the program
    """A failure that leaves nothing to compare."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.failure = Failure(kind, detail)


def _keeps_bits(case: Case) -> bool:
    """Whether the bits are the same in another run; with two threads those of torch's own products are not."""
    plain = not oracle.has_variants(case) and not case.weight_dropout and not case.recurrent_dropout
    return case.again == 1 or (plain and case.mode not in {"double", "vmap", "func"})


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


# --- The modes: results and gradients by name ---


def infer(problem: Problem) -> Outcome:
    """Twice, where the second call may find the weights as the first one kept them, and with other weights."""
    case = problem.case
    with torch.no_grad():
        first = call(problem, problem.module, problem.inputs)
        _check_memory(problem, first, {})
        if case.again:
            torch.set_num_threads(case.again)
        torch.manual_seed(case.seed)
        second = call(problem, problem.module, problem.inputs)
        for name, value in first.items():
            if _keeps_bits(case) and not _same_bits(value, second[name]):
                raise Wrong(f"{name} has other bits again, threads={case.again}")
        if any(result.requires_grad for result in first.values()):
            raise Wrong("a result of inference requires grad")
    return first


def train(problem: Problem) -> Outcome:
    """One backward pass, or two."""
    return _differentiated(problem, call(problem, problem.module, problem.inputs), problem.leaves)


def functional(problem: Problem) -> Outcome:
    """The same with other parameters by functional_call."""
    with torch.no_grad():
        others = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in problem.parameters.items()}
        for parameter in problem.parameters.values():
            parameter.requires_grad_(requires_grad=False)

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


class Refused(Wrong):
    """Autograd saw the change and refused to go on, which is right too."""

    def __init__(self) -> None:
        super().__init__("refused")


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
    return {"output": output.transpose(0, 1) if case.batch_first else output, **dict(zip(("h_n", "c_n"), state, strict=False))}


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
    problem: Problem, results: Named, leaves: Named, *, memory: bool = True, materialize: bool = False, member: int | None = None
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
        if first is not None and second is not None and not _same_bits(first, second):
            raise Wrong(f"d_{name} of a second backward pass has other bits")
    if not all(_same_bits(value, given[name]) for name, value in d.items()):
        raise Wrong("a gradient that arrives was changed")
    absent = [name for name, value in zip(wanted, found, strict=True) if value is None]
    if absent and problem.case.t > 0:
        raise Wrong(f"no gradient of {_role(absent[0])}")
    named = {f"d_{name}": value for name, value in zip(wanted, found, strict=True) if value is not None}
    if memory:
        _check_memory(problem, results, named)
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


def _role(name: str) -> str:
    """A parameter's name without its layer and direction."""
    return re.sub(r"_l\d+(_reverse)?$", "", name)


# --- Comparing ---


def compare(problem: Problem, draws: list[Draws], outcome: Named) -> Iterator[Failure]:
    """What differs from the oracle by more than the table allows and a naive computation in the same type has."""
    case, dtype = problem.case, getattr(torch, problem.case.dtype)
    margin = oracle.Margin()
    with margin if oracle.kinks(case) else contextlib.nullcontext():
        exact = truth(problem, oracle.exact_leaves(problem), draws)
    naive: Named | None = None
    for name, value in outcome.items():
        if name not in exact:  # where there are no steps nothing depends on anything
            if value.any():
                yield Failure(f"{_role(name)}: not zero without steps")
            continue
        wanted, limit = exact[name].detach(), TOLERANCES[dtype][name.startswith("d_")]
        if value.dtype != dtype or value.shape != wanted.shape:
            yield Failure(f"{_role(name)}: {value.dtype} {list(value.shape)}, expected {dtype} {list(wanted.shape)}")
            continue
        if wanted.numel() == 0:
            continue
        finite = bool(value.isfinite().all())
        error = relative_error(value, wanted) if finite else float("inf")
        # Where a derivative jumps, rounding decides it.
        if error <= limit or (finite and name.startswith("d_") and margin.distance < 64 * torch.finfo(dtype).eps):
            continue
        if naive is None:
            with oracle.norms_of_torch():
                naive = truth(problem, oracle.exact_leaves(problem, dtype), draws)
        theirs = naive[name].detach()
        if not theirs.isfinite().all():  # too large for the type
            continue
        if error > 4 * allowed_error(dtype, relative_error(theirs, wanted)):
            what = "wrong" if finite else "not finite"
            detail = f"{name}: error {error:.1e}, allowed {limit:.0e}, naive {relative_error(theirs, wanted):.1e}"
            yield Failure(f"{_role(name)}: {what}", detail)
    yield from (Failure(f"{_role(name)}: absent") for name in exact if name not in outcome and case.t > 0)


def _check_memory(problem: Problem, results: Named, gradients: Named) -> None:
    """No result and no gradient shares memory with another one or with what was given."""
    given = {name: tensor for name, tensor in problem.tensors().items() if tensor is not None}
    for one, other in itertools.combinations({**results, **gradients}.items(), 2):
        if _overlap(one[1], other[1]):
            raise Wrong(f"{_role(one[0])} and {_role(other[0])} share memory")
    for (name, value), (of, argument) in itertools.product([*results.items(), *gradients.items()], given.items()):
        if _overlap(value, argument) and problem.case.t > 0:
            raise Wrong(f"{_role(name)} and the argument {_role(of)} share memory")


def _overlap(a: Tensor, b: Tensor) -> bool:
    if not a.numel() or not b.numel() or a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    (first, last), (other_first, other_last) = _extent(a), _extent(b)
    return first < other_last and other_first < last


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and last address; of parts of one memory this is exact where they are blocks of it."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    start = tensor.data_ptr()
    return start, start + last * tensor.element_size()
