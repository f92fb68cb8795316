"""A case's module and tensors, of any layout in memory, and the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from tools.fuzz.case import Case

MEMBERS = 2  # that vmap maps
_RESULTS = {"o": "output", "h": "h_n", "c": "c_n", "a": "cells"}


class Problem(NamedTuple):
    """What a case is made of. Leaves are what gradients are taken for; vmap maps the first dimension of some."""

    case: Case
    module: Any
    inputs: dict[str, Tensor]  # x, and h_0 and c_0 where they are given
    parameters: dict[str, Tensor]
    lengths: Tensor | None
    resets: Tensor | None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Inputs and parameters."""
        return {**self.inputs, **self.parameters}

    @property
    def wanted(self) -> list[str]:
        """The leaves that want gradients."""
        return [name for name, leaf in self.leaves.items() if leaf.requires_grad]

    def tensors(self) -> dict[str, Tensor]:
        """All that a call may not change."""
        others = {"lengths": self.lengths, "resets": self.resets}
        return {**self.leaves, **{name: value for name, value in others.items() if value is not None}}


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The values in memory of that layout; what is expanded has the values of its first entry."""
    if not layout or values.dim() == 0:
        return values.clone()
    if layout == "transposed":
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":  # every other value of each row
        return torch.stack([values, torch.full_like(values, torch.nan)], -1)[..., 0]
    if layout == "padded":  # rows further apart than they are long
        return torch.cat([values, values.new_full((*values.shape[:-1], 3), torch.nan)], -1)[..., : values.shape[-1]]
    if layout == "expanded":
        return values[:1].clone().expand(values.shape)
    if layout == "negated":  # as the imaginary part of a conjugate has it
        return torch._neg_view(-values)
    assert layout == "offset"  # noqa: S101 - and no vector aligned
    return torch.cat([values.new_full((3,), torch.nan), values.flatten()])[3:].view(values.shape)


def make_module(case: Case, namespace: ModuleType, **further: Any) -> Any:
    """The module of a case, or torch.nn's."""
    options: dict[str, Any] = {"bias": case.bias, "dtype": getattr(torch, case.dtype), **further}
    if case.relu:
        options["nonlinearity"] = "relu"
    if not case.is_cell:
        options |= {"num_layers": case.layers, "batch_first": case.batch_first, "bidirectional": case.bidirectional}
        if case.layers > 1:  # torch.nn warns of a dropout that does nothing
            options["dropout"] = case.dropout
        if case.proj:
            options["proj_size"] = case.proj
    names = ("layer_norm", "zoneout", "recurrent_dropout", "weight_dropout", "peephole", "cell_clip", "recompute")
    if namespace is fused_rnn:
        options |= {name: getattr(case, name) for name in names if getattr(case, name)}
    return getattr(namespace, case.module)(case.i, case.h, **options).train(case.training)


def build(case: Case) -> Problem:
    """The tensors of a case."""
    torch.manual_seed(case.seed)
    module = make_module(case, fused_rnn)
    batch = () if case.form == "unbatched" else (case.b,)
    steps = () if case.is_cell else (case.t,)
    x_shape = (*batch, *steps, case.i) if case.batch_first else (*steps, *batch, case.i)
    lengths = _lengths(case)
    resets = torch.rand(*x_shape[:-1]) < 0.3 if case.resets else None
    inputs = {"x": _random(case, "x", x_shape)}
    if case.nan_padding and lengths is not None:
        padding = torch.arange(case.t).unsqueeze(1) >= lengths
        padding = (padding.t() if case.batch_first else padding).reshape(*x_shape[:-1], 1)
        inputs["x"] = laid_out(inputs["x"].masked_fill(padding, torch.nan), case.x_layout.replace("expanded", ""))
    if case.states:
        rows = () if case.is_cell else (case.layers * (2 if case.bidirectional else 1),)
        inputs["h_0"] = _random(case, "s", (*rows, *batch, case.proj or case.h))
        if case.is_lstm:
            inputs["c_0"] = _random(case, "s", (*rows, *batch, case.h))
    for name, parameter in list(module.named_parameters()):
        values = parameter.detach()
        if name.startswith(("gain_", "bias_")):  # not what they start from
            values = (values * 0.5 + 0.2 * torch.randn(values.shape)).to(values.dtype)
        if "p" in case.mapped:
            values = torch.stack([values, *(0.5 * values for _ in range(MEMBERS - 1))])
        module._parameters[name] = torch.nn.Parameter(laid_out(values, case.w_layout))
    problem = Problem(case, module, inputs, dict(module.named_parameters()), lengths, resets)
    for leaf in problem.leaves.values():
        leaf.requires_grad_(not case.some or bool(torch.rand(()) < 0.5))
    return problem


def _random(case: Case, letter: str, shape: tuple[int, ...]) -> Tensor:
    """The input (x) or an initial state (s)."""
    members = (MEMBERS,) if letter in case.mapped else ()
    values = torch.randn(*members, *shape).to(getattr(torch, case.dtype))
    return laid_out(values, case.x_layout if letter == "x" else case.s_layout)


def _lengths(case: Case) -> Tensor | None:
    """Those of packed rows, of which one has all steps, or of padded ones."""
    if case.is_packed:
        lengths = torch.randint(1, case.t + 1, (case.b,))
        lengths[torch.randint(case.b, ())] = case.t
        return lengths if case.form == "unsorted" else lengths.sort(descending=True).values
    if not case.lengths:
        return None
    return torch.randint(
        0, case.t + 1, () if case.form == "unbatched" else (case.b,), dtype=getattr(torch, case.lengths)
    )


def call(problem: Problem, module: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The results of a module by name, as it returns them; of packed ones the data."""
    case, x = problem.case, inputs["x"]
    given: Any = x
    if case.is_packed:
        given = pack_padded_sequence(x, problem.lengths, case.batch_first, case.form == "packed")  # type: ignore[arg-type]
    hx = (inputs["h_0"], inputs["c_0"]) if "c_0" in inputs else inputs.get("h_0")
    options: dict[str, Any] = {}
    if not case.is_packed and problem.lengths is not None:
        options["lengths"] = problem.lengths
    if problem.resets is not None:
        options["resets"] = problem.resets
    if case.cells:
        options["return_cells"] = True
    return named(case, module(given, hx, **options))


def named(case: Case, results: Any) -> dict[str, Tensor]:
    """Results by name, without what surrounds them."""

    def flat(value: Any) -> list[Tensor]:
        if isinstance(value, PackedSequence):
            return [value.data]
        return [value] if isinstance(value, Tensor) else [each for part in value for each in flat(part)]

    names = ["h_n", "c_n"] if case.is_cell else ["output", "h_n", *(["c_n"] if case.is_lstm else []), "cells"]
    return dict(zip(names, flat(results), strict=False))


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Those of the results by name, of input that is not packed."""
    batch = () if case.form == "unbatched" else (case.b,)
    directions = 2 if case.bidirectional else 1
    rows = () if case.is_cell else (case.layers * directions,)
    steps = (*batch, case.t) if case.batch_first else (case.t, *batch)
    found: dict[str, tuple[int, ...]] = {"h_n": (*rows, *batch, case.proj or case.h)}
    if case.is_lstm:
        found["c_n"] = (*rows, *batch, case.h)
    if not case.is_cell:
        found = {"output": (*steps, directions * (case.proj or case.h)), **found}
    if case.cells:
        found["cells"] = (*steps, directions * case.h)
    return {name: (*((MEMBERS,) if case.mapped else ()), *shape) for name, shape in found.items()}


def incoming(case: Case, results: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random gradients for those results at which some arrive."""
    names = {_RESULTS[letter] for letter in case.into}
    chosen = [name for name in results if name in names] or list(results)[:1]
    return {name: laid_out(torch.randn(results[name].shape).to(results[name].dtype), case.d_layout) for name in chosen}
