"""Prove a cell: finite differences against its derivatives, and its kernels against plain torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence  # noqa: TC003 - typing.get_type_hints looks the name up
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fused_rnn import _ops
from fused_rnn._recurrent import Recurrent
from fused_rnn.cells import Cell, cell_of
from fused_rnn.stepper import Stepper

_LENGTHS = (5, 7, 0, 1)
# Of the largest value: sums of up to some hundred terms in another order.
_LIMITS = {torch.float64: 1e-10, torch.float32: 1e-4}


@dataclass(frozen=True)
class CellCheck:
    """One line of the table."""

    name: str
    error: float  # of the largest value
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its limit; that of a NaN is not."""
        return self.error <= self.limit


@dataclass(frozen=True)
class CellReport:
    """What `check_cell` found; its text is a table."""

    cell: str
    checks: tuple[CellCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{self.cell}: {'all checks passed' if self.passed else 'FAILED'}"]
        for check in self.checks:
            mark = "ok" if check.passed else "FAILED" if math.isfinite(check.error) else "FAILED: NaN or infinity"
            lines.append(f"  {check.name:{width}}  error {check.error:8.1e}  limit {check.limit:7.0e}  {mark}")
        return "\n".join(lines)


def check_cell(cell: Cell | type[Cell], *, dtype: torch.dtype = torch.float64, hidden_size: int = 19) -> CellReport:
    """Compare a cell's kernels with plain torch, and its derivatives with finite differences.

    The kernels are compiled for `dtype` first. Values and gradients are compared for one step and several, from initial
    states, with every option of `Recurrent` and every form of input, and with a NaN, which must reach what it reaches
    in plain torch and nothing else.

    Args:
        cell: a `fused_rnn.Cell`, or its class.
        dtype: float64, or float32, whose rounding hides smaller errors; finite differences are made in float64.
        hidden_size: units of the layers.

    Returns:
        A report; `print` shows it as a table, and `passed` says whether all is well.

    Raises:
        CellError: it is no cell.
        RuntimeError: the kernels cannot be compiled.

    Example::

        print(fused_rnn.check_cell(MyCell))
    """
    if dtype not in _LIMITS:
        raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    definition = cell_of(cell)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        checks = [*_against_torch(definition, dtype, hidden_size), _finite_differences(definition)]
    return CellReport(type(definition).__name__, tuple(checks))


def _layer(cell: Cell, *, dtype: torch.dtype, hidden_size: int, **options: Any) -> Recurrent:
    layer = Recurrent(cell, 5, hidden_size, device="cpu", dtype=dtype, **options)
    with torch.no_grad():
        for name in cell.unit_weights:
            for each, parameter in layer.named_parameters():
                if each.startswith(f"weight_{name}_l"):
                    parameter.uniform_(-0.5, 0.5)
    return layer


_NONE: Mapping[str, Any] = MappingProxyType({})


class _Case(NamedTuple):
    name: str
    options: Mapping[str, Any] = _NONE  # of the layer
    keywords: Mapping[str, Any] = _NONE  # of the call
    time_steps: int = 7
    packed: bool = False
    not_a_number: bool = False  # a value of x, and one beyond the end of its row


def _cases(recurrent: bool) -> tuple[_Case, ...]:
    lengths = torch.tensor(_LENGTHS, device="cpu")
    resets = torch.rand(7, 4, device="cpu") < 0.3
    both = {"bidirectional": True}
    of_w_hh = (
        _Case("two heads", {**both, "num_heads": 2}),
        _Case("recurrent and weight dropout", {**both, "recurrent_dropout": 0.3, "weight_dropout": 0.3}),
    )
    return (
        _Case("one step", time_steps=1),
        _Case("seven steps"),
        _Case("no bias, batch first", {"bias": False, "batch_first": True}),
        _Case("two layers, both directions", {**both, "num_layers": 2, "dropout": 0.3}),
        _Case("lengths", both, {"lengths": lengths}),
        _Case("resets", both, {"resets": resets}),
        _Case("PackedSequence", both, packed=True),
        _Case("zoneout", {**both, "zoneout": 0.3}),
        _Case("recompute", {**both, "recompute": True}),
        *(of_w_hh if recurrent else ()),
        _Case("NaN", both, {"lengths": lengths}, not_a_number=True),
    )


def _input_of(case: _Case, dtype: torch.dtype) -> Tensor | PackedSequence:
    shape = (4, case.time_steps) if case.options.get("batch_first") else (case.time_steps, 4)
    x = torch.randn(*shape, 5, device="cpu", dtype=dtype)
    if case.not_a_number:
        x[3, 1, 2] = x[6, 0, 2] = math.nan
    lengths = torch.tensor([3, 7, 1, 5], device="cpu")
    return pack_padded_sequence(x, lengths, enforce_sorted=False) if case.packed else x


def _against_torch(cell: Cell, dtype: torch.dtype, hidden_size: int) -> Iterator[CellCheck]:
    limit = _LIMITS[dtype]
    for case in _cases(bool(cell.gates)):
        size = hidden_size * case.options.get("num_heads", 1)
        layer = _layer(cell, dtype=dtype, hidden_size=size, **case.options)
        x = _input_of(case, dtype)
        # Initial states that the cell itself has made.
        first = layer(torch.randn(4, 4, 5, device="cpu", dtype=dtype))[1]
        first = tuple(each.detach() for each in (first if isinstance(first, tuple) else (first,)))
        found = _values_and_gradients(layer, x, first, case.keywords)
        if dtype not in _ops.LOADED[layer.cell]:
            raise RuntimeError(f"{type(cell).__name__} has no kernels for {dtype}")
        with in_plain_torch(layer.cell):
            expected = _values_and_gradients(layer, x, first, case.keywords)
        for what, ours, theirs in zip(("values", "gradients"), found, expected, strict=True):
            pairs = zip(ours, theirs, strict=True)
            errors = [_error(_marked(a), _marked(b)) if case.not_a_number else _error(a, b) for a, b in pairs]
            yield CellCheck(f"{case.name}: {what}", _largest(errors), limit)
    layer = _layer(cell, dtype=dtype, hidden_size=hidden_size)
    steps = torch.randn(7, 4, 5, device="cpu", dtype=dtype)
    stepper = Stepper(layer, 4)
    with torch.no_grad():
        yield CellCheck("Stepper", _error(stepper.steps(steps), layer(steps)[0]), limit)


def _values_and_gradients(
    layer: Recurrent, x: Tensor | PackedSequence, first: tuple[Tensor, ...], keywords: Mapping[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(1)  # of masks
    packed = isinstance(x, PackedSequence)
    values_of_x = (x.data if isinstance(x, PackedSequence) else x).clone().requires_grad_()
    x = x._replace(data=values_of_x) if isinstance(x, PackedSequence) else values_of_x
    first = tuple(each.clone().requires_grad_() for each in first)
    output, last = layer(x, first if len(first) > 1 else first[0], **keywords)
    values = [output.data if packed else output, *(last if isinstance(last, tuple) else (last,))]
    weights = [torch.linspace(-1, 1, each.numel(), device="cpu", dtype=each.dtype).view_as(each) for each in values]
    products = [(value * weight).sum() for value, weight in zip(values, weights, strict=True)]
    inputs = [values_of_x, *first, *(p for p in layer.parameters() if p.numel() > 0)]
    found = torch.autograd.grad(torch.stack(products).sum(), inputs, allow_unused=True, materialize_grads=True)
    return [value.detach() for value in values], list(found)


def _marked(tensor: Tensor) -> Tensor:
    """Numbers, of which some say where a NaN is."""
    return torch.cat([tensor.isnan().to(tensor.dtype).flatten(), tensor.nan_to_num().flatten()])


@contextmanager
def in_plain_torch(name: str) -> Iterator[None]:
    """Let a cell have no kernels."""
    _ops.HIDDEN.add(name)
    try:
        yield
    finally:
        _ops.HIDDEN.discard(name)


def _error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value, at least 1."""
    if expected.numel() == 0:
        return 0.0
    difference = (actual.double() - expected.double()).abs().max().item()
    return difference / max(1.0, expected.abs().max().item())


def _largest(errors: Sequence[float]) -> float:
    """NaN where one of them is, which max() would lose."""
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _finite_differences(cell: Cell) -> CellCheck:
    """Those of one layer in float64 against its kernels' gradients, along random directions."""
    layer = _layer(cell, dtype=torch.float64, hidden_size=3)
    x = torch.randn(3, 2, 5, device="cpu", dtype=torch.float64)
    inputs = [x.requires_grad_(), *(p for p in layer.parameters() if p.numel() > 0)]
    weight = torch.randn(3, 2, 3, device="cpu", dtype=torch.float64)

    def loss() -> Tensor:
        value: Tensor = (layer(x)[0] * weight).sum()
        return value

    gradients = torch.autograd.grad(loss(), inputs)
    errors, step = [], 1e-5
    for given, gradient in zip(inputs, gradients, strict=True):
        direction = torch.randn_like(given)
        ends = []
        with torch.no_grad():
            for sign in (1, -2):  # to one side, then to the other
                given.add_(direction, alpha=sign * step)
                ends.append(loss())
            given.add_(direction, alpha=step)
        measured = (ends[0] - ends[1]) / (2 * step)
        errors.append(_error(measured, (gradient * direction).sum()))
    return CellCheck("finite differences", _largest(errors), 1e-6)
