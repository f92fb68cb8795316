"""One recurrent layer (input projection and recurrence of all its directions) and the stack of layers with dropout.

The input projection of all steps and directions is one GEMM; the recurrence starts from its result.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fused_rnn import _autocast, _onnx, _ops, _route, _whole_layer
from fused_rnn._autograd import RecurrenceResult, recurrence
from fused_rnn._heads import ONE_HEAD, Heads
from fused_rnn._modes import hides_derivatives, is_recorded, is_transformed
from fused_rnn._packed import gather_steps, scatter_steps
from fused_rnn._products import linear
from fused_rnn._route import Forward, Graph, Route
from fused_rnn._tensors import Arguments, DirectionWeights, LayerArguments, StepArguments, of_recurrence
from fused_rnn._variants import (
    NO_MASKS,
    PLAIN,
    Masks,
    Variants,
    changing,
    draw_masks,
    norm_of,
    normalize_projection,
    unit_weights,
    unit_weights_of,
    with_dropped_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


_SHORTEST_SEGMENT = 32  # steps; each segment packs the weights and starts the threads again


class Ragged(NamedTuple):
    """Where the rows of a batch end and restart."""

    lengths: Tensor | None = None  # [B] int64: steps from there on are padding; None: there is none
    resets: Tensor | None = None  # [T, B] bool: the state is zero before the step; None: nowhere
    places: Tensor | None = None  # [N], of the elements of a packed sequence in [T * B]; None: it was not packed


REGULAR = Ragged()


class LayerSpec(NamedTuple):
    """What the layers of a call have in common."""

    cell: str
    hidden_size: int
    variants: Variants = PLAIN
    ragged: Ragged = REGULAR
    heads: Heads = ONE_HEAD


class Steps(NamedTuple):
    """What a layer is given for each of some steps."""

    x: Tensor  # [T, B, I] of any strides
    ragged: Ragged
    masks: Masks = NO_MASKS

    def part(self, begin: int, size: int) -> Steps:
        """Those from `begin` on, at most `size`; no packed sequence."""
        steps = slice(begin, begin + size)
        lengths = None if self.ragged.lengths is None else self.ragged.lengths - begin
        resets = None if self.ragged.resets is None else self.ragged.resets[steps]
        return Steps(self.x[steps], Ragged(lengths, resets), self.masks.of_steps(steps))


def layer_arguments(
    x: Any, weights: Sequence[DirectionWeights], h_0: Any, c_0: Any, ragged: Ragged = REGULAR
) -> LayerArguments:
    """Those of a layer, with the weights of its directions one after the other."""
    w = weights[0]
    if len(weights) == 2:
        pairs = zip(*(each[:5] for each in weights), strict=True)  # without the variants'
        joined: Any = [None if pair[0] is None else torch.cat(pair) for pair in pairs]
        w = DirectionWeights(*joined)
    return LayerArguments(x, w.w_ih, w.b_ih, w.w_hh, w.b_hh, w.w_hr, h_0, c_0, ragged.lengths, ragged.resets)


def run_unchecked(
    cell: str, x: Any, weights: DirectionWeights, h_0: Any, c_0: Any, variants: Variants, heads: Heads
) -> RecurrenceResult | None:
    """One direction of one layer without norms by the whole route, on arguments that nobody has checked.

    None means that the route is another one, or that the operator refused: then the caller checks the arguments.
    """
    arguments = layer_arguments(x, (weights,), h_0, c_0)
    if weights.unit is not None:
        arguments = arguments._replace(unit_weights=weights.unit.view(1, -1, weights.w_hh.shape[1]))
    elif weights.w_peephole is not None:  # for the route, which looks at what kind of tensor it is
        arguments = arguments._replace(unit_weights=weights.w_peephole)
    if _route.of_layer(arguments).kind is not Forward.WHOLE:
        return None
    if cell in _ops.LOADED and not _ops.has_kernels(cell, weights.w_ih):
        return None
    if heads is not ONE_HEAD:
        if variants is not PLAIN or not (heads.can_split(h_0) and heads.can_split(c_0)):
            return None
        own = heads.of_weights(weights)
        arguments = layer_arguments(x, (own,), heads.of_states(h_0), heads.of_states(c_0))
        if own.unit is not None:
            arguments = arguments._replace(unit_weights=own.unit.view(heads.number, -1, heads.size))
    elif variants is not PLAIN:
        arguments = _with_variants(arguments, cell, weights, variants)
    try:
        found = _whole_layer.run(cell, arguments, 1, heads=heads.number, handed_out=True)
    except _whole_layer.ArgumentError:
        return None
    return found if heads is ONE_HEAD else heads.all_of(found)


def _with_variants(
    arguments: LayerArguments, cell: str, weights: DirectionWeights, variants: Variants
) -> LayerArguments:
    """Those of one direction with what its variants draw and change."""
    dropped = with_dropped_weights(variants, (weights,))
    masks = draw_masks(variants, cell, arguments.x, dropped)
    of_units = unit_weights_of(variants, dropped) if variants.unit_weights else arguments.unit_weights
    return arguments._replace(
        w_hh=dropped[0].w_hh, unit_weights=of_units, zoneout=masks.zoneout, recurrent_mask=masks.recurrent
    )


def step_unchecked(
    cell: str, x: Tensor, weights: DirectionWeights, states: Sequence[Tensor]
) -> tuple[Tensor, ...] | None:
    """One step of a cell, from x [B, I] and states [B, H], likewise: h, and c where there is one."""
    arguments = StepArguments(x, weights.w_ih, weights.b_ih, weights.w_hh, weights.b_hh, *states)
    if _route.of_step(arguments) is None:
        return None
    try:
        return _whole_layer.step(cell, arguments)
    except _whole_layer.ArgumentError:
        return None


def run_cell(
    cell: str, x: Tensor, weights: DirectionWeights, hidden_size: int, states: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """One step of a cell in any mode, from x [B, I] and states [B, H]: h, and c where there is one, and no views."""
    h_0, c_0 = [*(state.unsqueeze(0) for state in states), None, None][:2]
    found = run_layer(LayerSpec(cell, hidden_size), x.unsqueeze(0), (weights,), h_0, c_0)
    made = (found.h_n,) if found.c_n.dim() == 1 else (found.h_n, found.c_n)
    if torch.compiler.is_compiling() or is_recorded():
        return tuple(state.squeeze(0) for state in made)
    return tuple(_whole_layer.reshaped(state, state.shape[1:]) for state in made)


def step_without_units(
    x: Tensor, weights: DirectionWeights, states: Sequence[Tensor], *, states_made: int
) -> tuple[Tensor, ...]:
    """One step of a cell of no units: empty states [B, 0], which depend on what those of other cells depend on."""
    gates = F.linear(x, weights.w_ih, weights.b_ih)
    gates = gates + F.linear(states[0] if states else gates, weights.w_hh, weights.b_hh)
    return tuple(sum(states, gates).clone() for _ in range(states_made))


def run_layer(
    spec: LayerSpec,
    x: Tensor,
    weights: Sequence[DirectionWeights],
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    *,
    keep_cells: bool = False,
    handed_out: bool = False,
) -> RecurrenceResult:
    """One layer on x [T, B, I] of any strides, from h_0 [D, B, P] and c_0 [D, B, E*H]; None is zero.

    Without grad the result has cells only with `keep_cells`. A node of the graph that makes a copy of the output where
    it is `handed_out` returns it as [T, B, D*P].
    """
    variants, heads = spec.variants, spec.heads
    if variants is PLAIN and heads is ONE_HEAD:
        return _run(spec, weights, Steps(x, spec.ragged), h_0, c_0, keep_cells=keep_cells, handed_out=handed_out)
    weights = with_dropped_weights(variants, weights)
    masks = draw_masks(variants, spec.cell, x, weights, heads.number)
    given = (x, h_0, c_0, *spec.ragged, *masks, *chain.from_iterable(weights))
    if heads is not ONE_HEAD:
        weights = [heads.of_weights(w) for w in weights]
        masks, h_0, c_0 = heads.of_masks(masks), heads.of_states(h_0), heads.of_states(c_0)
    steps = Steps(x, spec.ragged, masks)
    run: Callable[..., RecurrenceResult] = partial(_run, spec._replace(variants=variants.of_each_run), weights)
    if variants.recompute and torch.is_grad_enabled() and not is_recorded() and x.shape[0] > 0:
        result = _run_segments(_while_unchanged(run, given), steps, h_0, c_0, directions=len(weights))
    else:
        result = run(steps, h_0, c_0, keep_cells=keep_cells, handed_out=handed_out and variants is PLAIN)
    return result if heads is ONE_HEAD else heads.all_of(result, keep_cells=keep_cells)


def _run(
    spec: LayerSpec,
    weights: Sequence[DirectionWeights],
    steps: Steps,
    h_0: Tensor | None,
    c_0: Tensor | None,
    *,
    keep_cells: bool = False,
    handed_out: bool = False,
) -> RecurrenceResult:
    """The layer by its route."""
    (x, ragged, masks), directions, heads = steps, len(weights), spec.heads.number
    arguments = layer_arguments(x, weights, h_0, c_0, ragged)
    if spec.variants is not PLAIN or weights[0].unit is not None:
        of_units = unit_weights(spec.variants, weights, spec.hidden_size, heads)
        arguments = arguments._replace(unit_weights=of_units, zoneout=masks.zoneout, recurrent_mask=masks.recurrent)
    built_in = spec.cell not in _ops.LOADED
    has_kernels = built_in or _ops.has_kernels(spec.cell, weights[0].w_hh)
    route = _route.of_layer(arguments, spec.variants, built_in=built_in, has_kernels=has_kernels)
    if route.kind is Forward.WHOLE:
        return _whole_layer.run(
            spec.cell, arguments, directions, ragged.places, heads=heads, keep_cells=keep_cells, handed_out=handed_out
        )
    if route.kind is Forward.ONNX:
        unsupported = {"return_cells": keep_cells, **changing(spec.variants)}
        return _onnx.run_layer(spec.cell, arguments, directions, **unsupported)
    return _run_apart(route, spec, weights, arguments, ragged.places, keep_cells=keep_cells)


def _run_apart(
    route: Route,
    spec: LayerSpec,
    weights: Sequence[DirectionWeights],
    given: LayerArguments,
    places: Tensor | None,
    *,
    keep_cells: bool,
) -> RecurrenceResult:
    """Projection and recurrence."""
    x, w_ih, b_ih, _, _, _, h_0, c_0, lengths, resets, *variant_tensors = given
    cell, hidden_size, variants, _, (heads, _) = spec
    directions = len(weights) * heads
    w_hh, b_hh, w_hr = of_recurrence(given, directions)
    may_train = torch.is_grad_enabled() and route.graph is not Graph.NOTHING
    if lengths is not None and places is None and may_train:
        x = _whole_layer.without_padding(x, lengths)
    if variants.layer_norm:
        b_ih = b_hh = None  # they follow the norms
    unit_shape = (directions, _ops.CELLS[cell].gates, hidden_size // heads)
    if places is not None and not variants.layer_norm:
        elements = linear(gather_steps(x, places), w_ih, b_ih)
        # Kernels do not look at the padding; plain torch, which makes tangents, multiplies it by zero.
        padded = scatter_steps(elements, places, (x.shape[0], x.shape[1]), anything=not hides_derivatives())
        gates = padded.view(x.shape[0], x.shape[1], *unit_shape)
    else:
        gates = _project(x, w_ih, b_ih, unit_shape, may_train=may_train)
    product = gates.dtype
    mixed_dtypes = any(t is not None and t.dtype != product for t in (x, w_hh, h_0, c_0))
    dtype = _autocast.recurrence_type(cell, x, h_0, c_0) if mixed_dtypes else None
    if dtype is not None:
        gates, w_hh = gates.to(dtype), w_hh.to(dtype)
        b_hh, w_hr, h_0, c_0 = (None if t is None else t.to(dtype) for t in (b_hh, w_hr, h_0, c_0))
    norm = None
    if variants.layer_norm:
        gates = normalize_projection(cell, gates, weights)
        norm = norm_of(weights, gates)
    unit_weights, zoneout, mask = (None if t is None else t.to(gates.dtype) for t in variant_tensors)
    arguments = Arguments(gates, w_hh, b_hh, w_hr, h_0, c_0, unit_weights, norm, lengths, resets, zoneout, mask)
    result = recurrence(cell, arguments, heads=heads, keep_cells=keep_cells, route=route)
    if w_hr is None or dtype in {None, product}:
        return result
    return result._replace(output=result.output.to(product), h_n=result.h_n.to(product))  # products, under autocast


def _while_unchanged(
    run: Callable[..., RecurrenceResult], tensors: Iterable[Tensor | None]
) -> Callable[..., RecurrenceResult]:
    """`run`, or an error where one of the tensors was changed in place since: another run would give other results."""
    if torch.compiler.is_compiling() or is_transformed():
        return run  # which saves the tensors, and sees to their versions
    versions = [(t, t._version) for t in tensors if t is not None and not t.is_inference()]

    def checked(*args: Any, **keywords: Any) -> RecurrenceResult:
        for tensor, version in versions:
            if tensor._version != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: a "
                    f"tensor of shape {list(tensor.shape)}, from which a layer with recompute=True runs again, is at "
                    f"version {tensor._version}; expected version {version} instead"
                )
        return run(*args, **keywords)

    return checked


def _run_segments(
    run: Callable[..., RecurrenceResult], steps: Steps, h_0: Tensor | None, c_0: Tensor | None, *, directions: int
) -> RecurrenceResult:
    """The same, segment by segment in time, keeping nothing of a segment but its input and results; handed out.

    The backward pass runs a segment again when it comes to it. Two directions meet nowhere in time, so that there is
    one segment for them; and a compiler, which may not know the number of steps, would write out each segment.
    """
    time_steps, starts = steps.x.shape[0], [0]
    size = time_steps
    if directions == 1 and not torch.compiler.is_compiling():
        size = max(_SHORTEST_SEGMENT, math.isqrt(time_steps))
        starts = list(range(0, time_steps, size))
    parts = []
    for begin in starts:
        given = steps.part(begin, size), h_0, c_0
        part: RecurrenceResult = checkpoint(run, *given, keep_cells=True, use_reentrant=False, preserve_rng_state=False)
        parts.append(part)
        h_0, c_0 = part.h_n, part.c_n if part.c_n.dim() > 1 else None
    output = torch.cat([part.output.flatten(2) for part in parts])
    return parts[-1]._replace(output=output, cells=torch.cat([part.cells for part in parts]))


def run_stack(
    spec: LayerSpec,
    x: Tensor,
    layers: Sequence[Sequence[DirectionWeights]],
    h_0: Tensor | None = None,
    c_0: Tensor | None = None,
    *,
    dropout: float = 0.0,
    keep_cells: bool = False,
) -> RecurrenceResult:
    """Layers on top of each other, on x [T, B, I]: output [T, B, D*P], h_n [L*D, B, P] and c_n [L*D, B, H] or [0].

    h_0 and c_0 have the shapes of h_n and c_n. `dropout` is the probability between layers; the masks are drawn as
    torch.nn draws them, so that the same seed gives the same ones. The cells are those of the last layer, as
    [T, B, D*H], and without grad they are there only with `keep_cells`.
    """
    product = _autocast.product_type(x) if spec.cell.startswith("lstm") and layers[0][0].w_hr is None else None
    if product is not None:  # one type for the whole layer
        x = x.to(product)
        h_0, c_0 = (None if state is None else state.to(product) for state in (h_0, c_0))
    if len(layers) == 1:
        output, h_n, c_n, cells = run_layer(spec, x, layers[0], h_0, c_0, keep_cells=keep_cells, handed_out=True)
        output = output if output.dim() == 3 else _handed_out(output)
        return RecurrenceResult(output, h_n, c_n, _handed_out(cells) if keep_cells else cells)
    h_last, c_last = [], []
    for index, weights in enumerate(layers):
        own = slice(index * len(weights), (index + 1) * len(weights))
        h_own = None if h_0 is None else h_0[own]
        c_own = None if c_0 is None else c_0[own]
        last = index + 1 == len(layers)
        output, h_n, c_n, cells = run_layer(
            spec, x, weights, h_own, c_own, keep_cells=keep_cells and last, handed_out=last
        )
        if not last or output.dim() == 4:
            output = _handed_out(output) if last else output.flatten(2)
        x = output
        if dropout > 0.0 and not last:
            x = _drop(x, dropout, spec.ragged.places)
        h_last.append(h_n)
        c_last.append(c_n)
    return RecurrenceResult(x, torch.cat(h_last), torch.cat(c_last), _handed_out(cells) if keep_cells else cells)


def _handed_out(steps: Tensor) -> Tensor:
    """Steps [T, B, D, N] as [T, B, D*N] that their owner may change in place: no view, and read by no backward pass.

    Three dimensions say that the layer itself has seen to it.
    """
    if steps.dim() == 3:
        return steps
    if steps.requires_grad or hides_derivatives():
        return steps.flatten(2).clone()
    return steps.flatten(2) if torch.compiler.is_compiling() or is_recorded() else _whole_layer.flattened(steps)


def _drop(x: Tensor, probability: float, places: Tensor | None) -> Tensor:
    """Dropout of x [T, B, N]; of a packed sequence as torch.nn draws its mask, for the elements alone."""
    if places is None:
        return F.dropout(x, probability)
    return scatter_steps(F.dropout(gather_steps(x, places), probability), places, (x.shape[0], x.shape[1]))


def _project(
    x: Tensor, w_ih: Tensor, b_ih: Tensor | None, unit_shape: tuple[int, int, int], *, may_train: bool
) -> Tensor:
    """W_ih x + b_ih as gates [T, B, *unit_shape], from x [T, B, I]."""
    time_steps, batch = x.shape[0], x.shape[1]
    if not x.is_contiguous() and x.transpose(0, 1).is_contiguous():
        if may_train and (x.requires_grad or w_ih.requires_grad):
            # The gradient of the gates comes with time first: x is copied to that order, which is less than the
            # copy of the gradient that the backward pass of the projection would make otherwise.
            x = x.contiguous()
        else:
            return linear(x.transpose(0, 1), w_ih, b_ih).view(batch, time_steps, *unit_shape).transpose(0, 1)
    return linear(x, w_ih, b_ih).view(time_steps, batch, *unit_shape)
