"""Which way a call goes, forward and backward, and why: decided here before anything runs, read everywhere else.

A route depends on the arguments, the options and what torch does around the call. An error never chooses one.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fused_rnn import _modes, _ops
from fused_rnn._products import use_own_gemm
from fused_rnn._variants import PLAIN, Variants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fused_rnn._tensors import LayerArguments, StepArguments


class Forward(Enum):
    """The ways forward."""

    STEP = "step"  # one step of a cell by its own operator
    WHOLE = "whole"  # a layer by one operator call, from its input
    APART = "apart"  # the input projection, then the operator of the recurrence
    REFERENCE = "reference"  # the input projection, then the recurrence in plain torch
    QUANTIZED = "quantized"  # a layer with int8 weights by one operator call
    ONNX = "onnx"  # a node of an ONNX graph
    STEPPER = "stepper"  # native code that keeps the state; chosen by making a Stepper


class Backward(Enum):
    """The ways back."""

    ONE_CALL = "one_call"  # all gradients of a layer by one operator call
    APART = "apart"  # the backward operator of the recurrence, then GEMMs
    REFERENCE = "reference"  # derivatives of the recurrence in plain torch


class Graph(Enum):
    """What stands for a recurrence, or for its backward pass, in autograd's graph."""

    NODE = "node"  # a Function, where a gradient is wanted
    TRANSFORMABLE = "transformable"  # a Function with rules for all transforms, whatever is wanted
    OPERATOR = "operator"  # the operator, whose gradients are registered
    NOTHING = "nothing"  # the operator, without gradients


class Route(NamedTuple):
    """A way and its reason; for the recurrence also what is in autograd's graph."""

    kind: Forward | Backward
    reason: str
    graph: Graph = Graph.NODE


STEP = Route(Forward.STEP, "one step of a plain cell on CPU")
WHOLE = Route(Forward.WHOLE, "a layer on CPU in eager mode: its kernel multiplies the input, too")
QUANTIZED = Route(Forward.QUANTIZED, "a layer with int8 weights on CPU, without gradients", Graph.NOTHING)
ONNX = Route(Forward.ONNX, "torch.onnx.export takes the layer for an operator of ONNX")
_NORMS = Route(Forward.APART, "a norm stands between the input projection and the recurrence")
_AUTOCAST = Route(Forward.APART, "autocast may give projection and recurrence different types")
ON_GPU = Route(Forward.APART, "on a GPU a library multiplies the input")
_NOT_PLAIN = Route(Forward.APART, "the tensors are not plain ones of one type on CPU, or there are no features")
_RECURRENCE = Route(Forward.APART, "the gates are given")
_RECORDED = Route(Forward.APART, "torch.export or torch.jit.trace records the operators", Graph.NOTHING)
_COMPILED = Route(Forward.APART, "torch.compile or functionalize needs the operators in its graph", Graph.OPERATOR)
_TRANSFORMED = Route(Forward.APART, "a transform or tangents need a Function with rules for them", Graph.TRANSFORMABLE)
ONE_CALL = Route(Backward.ONE_CALL, "own kernels run all GEMMs, and the gradients need no derivatives", Graph.NOTHING)
LIBRARY_GEMMS = Route(Backward.APART, "torch's GEMMs are faster for these sizes on this processor", Graph.NOTHING)
DIFFERENTIATED = Route(Backward.APART, "the gradients are themselves differentiated or mapped")
_BATCHED = Route(Backward.APART, "is_grads_batched makes many gradients at once", Graph.NOTHING)
_SEPARATE = Route(Backward.APART, "the forward pass was projection and recurrence", Graph.NOTHING)


def _in_plain_torch(kind: Forward | Backward, what: str, why: str) -> Route:
    return Route(kind, f"{what} would run in plain torch, since {why}")


NO_KERNELS = _in_plain_torch(
    Forward.REFERENCE, "the cell", "it has no kernels for this device and type: see fused_rnn.Recurrent"
)
_OWN_IN_ONNX = _in_plain_torch(Forward.REFERENCE, "the cell in a graph of ONNX", "ONNX has no operator for it")
_NESTED_TANGENTS = _in_plain_torch(  # they are zero through any Function (pytorch issue 197867)
    Forward.REFERENCE, "tangents of tangents", "torch takes them for zero in a function with kernels"
)
_COMPILED_TANGENTS = _in_plain_torch(
    Forward.REFERENCE, "tangents inside torch.compile or functionalize", "there they are zero through an operator"
)
SECOND_DERIVATIVES = _in_plain_torch(Backward.REFERENCE, "second derivatives", "the kernels have first ones only")
TANGENTS = _in_plain_torch(Backward.REFERENCE, "tangents (forward-mode derivatives)", "the kernels have gradients only")
TANGENTS_OF_GRADIENTS = _in_plain_torch(Backward.REFERENCE, "tangents of gradients", "the kernels have gradients only")

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def of_step(arguments: StepArguments) -> Route | None:
    """One step of a cell; None: as a layer of one step. The operator itself refuses arguments that do not fit."""
    if torch.compiler.is_compiling():
        return None
    for t in arguments:
        if t is not None and type(t) not in _PLAIN_TYPES:
            return None
    return STEP if arguments.x.is_cpu and _modes.in_plain_eager() else None


may_be_short = _modes.may_be_short  # as it is, since short calls feel every call of Python


def of_layer(
    arguments: LayerArguments, variants: Variants = PLAIN, *, built_in: bool = True, has_kernels: bool = True
) -> Route:
    """One layer; its arguments need not be checked, since the operator refuses those that do not fit.

    Only a cell that is not built in may have no kernels.
    """
    if not has_kernels:
        return NO_KERNELS
    x, w_ih, b_ih, w_hh, b_hh, w_hr, h_0, c_0, _, _, unit_weights, zoneout, mask = arguments
    if torch.compiler.is_compiling() or not _modes.in_plain_eager():
        if _exports_to_onnx():
            return ONNX if built_in else _OWN_IN_ONNX
        return of_recurrence(_AUTOCAST)
    if variants.layer_norm:
        return _NORMS
    if type(x) not in _PLAIN_TYPES or not x.is_cpu:
        return ON_GPU if x.is_cuda else _NOT_PLAIN
    dtype = x.dtype
    given = (w_ih, b_ih, w_hh, b_hh, w_hr, h_0, c_0, unit_weights, zoneout, mask)
    for t in given:  # a loop, since short calls feel a generator
        if t is not None and (type(t) not in _PLAIN_TYPES or t.dtype != dtype or not t.is_cpu):
            return _NOT_PLAIN
    return WHOLE if x.dim() == 3 and not x.is_nested and x.shape[2] > 0 else _NOT_PLAIN


def of_quantized_layer() -> Route:
    """One layer with int8 weights; the operator itself refuses arguments that do not fit."""
    return ONNX if _exports_to_onnx() else QUANTIZED


def of_recurrence(otherwise: Route = _RECURRENCE) -> Route:
    """A recurrence whose gates are made apart from it; `otherwise` where nothing but autograd watches it."""
    if _modes.is_recorded():
        return _RECORDED
    if torch.compiler.is_compiling() or _modes.is_functionalized():
        return _COMPILED_TANGENTS if _modes.has_tangents() else _COMPILED
    if _modes.tangents_of_tangents():
        return _NESTED_TANGENTS
    return _TRANSFORMED if _modes.hides_derivatives() else otherwise


def is_differentiated() -> bool:
    """Whether what a backward pass returns has derivatives or tangents of its own."""
    return torch.is_grad_enabled() or _modes.has_tangents()


def of_gradients(incoming: Sequence[Tensor | None], layer: LayerArguments | None = None) -> Route:
    """The backward pass that runs, of a whole layer where its arguments are given, else of a recurrence."""
    if is_differentiated() or _modes.is_transformed():
        return DIFFERENTIATED
    if layer is None:
        return _SEPARATE
    if _modes.are_batched(incoming):
        return _BATCHED
    # This line alone leads to LIBRARY_GEMMS, and so to `_ops.backward_in_place`: on Intel's processors for the largest
    # sizes, and in bfloat16 where torch multiplies by AMX.
    return ONE_CALL if uses_own_gemms(layer) else LIBRARY_GEMMS


def of_backward(forward: Route, layer: LayerArguments) -> Route:
    """The backward pass that a layer will have, without create_graph."""
    if forward.kind is Forward.WHOLE:
        with torch.no_grad():
            return of_gradients((), layer)
    return _SEPARATE if forward.kind is Forward.APART else Route(Backward.REFERENCE, forward.reason)


def uses_own_gemms(layer: LayerArguments) -> bool:
    """Whether own kernels are to multiply for all weight gradients."""
    dtype, rows = layer.x.dtype, layer.x.shape[0] * layer.x.shape[1]
    for w in (layer.w_ih, layer.w_hh, layer.w_hr):
        if w is not None and not use_own_gemm(dtype, rows, *w.shape):
            return _ops.rounds_factors(layer.x)  # which a library's GEMMs would not
    return True


def _exports_to_onnx() -> bool:
    if torch.compiler.is_compiling():
        return _modes.is_compiled_for_onnx()
    if _modes.is_traced() and torch.onnx.is_in_onnx_export():
        raise NotImplementedError("fused_rnn has no export to ONNX by tracing: call torch.onnx.export with dynamo=True")
    return False
