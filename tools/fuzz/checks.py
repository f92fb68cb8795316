"""What can be wrong with tensors: other bits, and memory that two of them share."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.fuzz.case import Case
    from tools.fuzz.problem import Problem


class Failure(NamedTuple):
    """Something wrong: a kind, which many cases share, and what was seen."""

    kind: str
    detail: str = ""


class Wrong(Exception):  # noqa: N818 - not an error of the program
    """A failure that leaves nothing to compare."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.failure = Failure(kind, detail)


class Refused(Wrong):
    """Autograd saw the change and refused to go on, which is right too."""

    def __init__(self) -> None:
        super().__init__("refused")


def role(name: str) -> str:
    """A parameter's name without its layer and direction."""
    return re.sub(r"_l\d+(_reverse)?$", "", name)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same values; NaN is like NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def keeps_bits(case: Case) -> bool:
    """Whether the bits are the same in another run; with two threads those of torch's own products are not."""
    plain = not case.has_variants and not case.weight_dropout and not case.recurrent_dropout
    return case.again == 1 or (plain and case.mode not in {"double", "vmap", "func"})


def check_memory(problem: Problem, results: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    """No result and no gradient shares memory with another one or with what was given."""
    given = problem.tensors()
    for one, other in itertools.combinations({**results, **gradients}.items(), 2):
        if _overlap(one[1], other[1]):
            raise Wrong(f"{role(one[0])} and {role(other[0])} share memory")
    for (name, value), (of, argument) in itertools.product([*results.items(), *gradients.items()], given.items()):
        if _overlap(value, argument) and problem.case.t > 0:
            raise Wrong(f"{role(name)} and the argument {role(of)} share memory")


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have an element in common."""
    memory = a.untyped_storage()
    if not a.numel() or not b.numel() or memory.data_ptr() != b.untyped_storage().data_ptr():
        return False
    places = torch.arange(memory.nbytes() // a.element_size())
    of_a, of_b = (places.as_strided(t.shape, t.stride(), t.storage_offset()).flatten() for t in (a, b))
    return bool(torch.isin(of_a, of_b).any())
