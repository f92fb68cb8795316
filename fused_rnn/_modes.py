"""What torch does around a call: the only file that reads or sets torch's private flags.

Functions of torch are named here, not wrapped, since short calls feel every call of Python.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.autograd import forward_ad
from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_Function = TypeVar("_Function", bound="Callable[..., Any]")

increment_version = torch._C._increment_version
"""Tell autograd that tensors, a sequence of them, were changed."""

is_transformed = torch._C._are_functorch_transforms_active
"""Whether torch.func runs this call: vmap, grad, jvp, functionalize or several of them."""


GIVES_HANDLES = hasattr(getattr(torch._C, "_aoti", None), "alloc_tensors_by_stealing_from_void_ptrs")
"""Whether native code can take tensors of Python and make such without torch's dispatcher."""


def constant_for_compilers(function: _Function) -> _Function:
    """Let torch.compile take what `function` returns for a constant.

    torch.compiler.assume_constant_result sets this attribute, too, but imports the compiler, which takes seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_recorded() -> bool:
    """Whether torch.export or torch.jit.trace records this call: the record holds the operator, without a gradient."""
    return is_exporting() or is_traced()


def is_exporting() -> bool:
    """Whether torch.export records this call.

    In torch 2.11 the compiler takes torch.compiler.is_exporting() for true everywhere, and gradients would be lost
    without a word; the flag behind it is right.
    """
    return torch.compiler._is_exporting_flag


def is_traced() -> bool:
    """Whether torch.jit.trace records this call."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_compiled_for_onnx() -> bool:
    """Whether what the compiler traces becomes an ONNX graph: it takes torch.onnx.is_in_onnx_export() for false."""
    if not is_exporting():
        return False
    from torch.onnx._internal.exporter import _flags

    return _flags._is_onnx_exporting


@constant_for_compilers
def rounds_on_cpu() -> bool:
    """Whether torch's switch lets RNNs on CPU round the factors of float32 GEMMs to bfloat16.

    torch.compile cannot look at the switch: its code keeps to what it was when it was compiled.
    """
    return precision_on_cpu() == "bf16"


precision_on_cpu = partial(torch._C._get_fp32_precision_getter, "mkldnn", "rnn")
"""What `rounds_on_cpu` compares, for calls that no compiler sees."""


def rounds_on_cuda() -> bool:
    """Whether it lets those on GPUs round them to TF32."""
    return bool(torch.backends.cudnn.rnn.fp32_precision == "tf32")  # type: ignore[attr-defined]


def in_plain_eager() -> bool:
    """Whether a call on CPU runs without autocast, tangents, transforms, export and trace."""
    return (  # the flags themselves, since short calls ask
        not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler._is_exporting_flag
        and not torch._C._is_tracing()
    )


def may_be_short() -> bool:
    """Whether nothing of torch wants to see the operators of a pass, which may then go without its dispatcher.

    A forward pass is one in plain eager mode, and a backward pass one without derivatives of its own.
    """
    return (
        GIVES_HANDLES
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._is_torch_function_mode_enabled()
        and not torch._C._autograd._profiler_enabled()
    )


def has_tangents() -> bool:
    """Whether a tensor may have a tangent."""
    return forward_ad._current_level >= 0


def has_tangent(tensor: Tensor) -> bool:
    """Whether this one has; the compiler cannot say it."""
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def tangents_of_tangents() -> bool:
    """Whether a tangent may have one: torch.autograd.forward_ad opens a level, torch.func one inside another."""
    if forward_ad._current_level < 0:
        return False
    return sum(each.key() == torch._C._functorch.TransformType.Jvp for each in _transforms()) > 1


def hides_derivatives() -> bool:
    """Whether a tensor may have a tangent, or be mapped by vmap, which hides that it requires grad."""
    return has_tangents() or (torch.is_grad_enabled() and is_transformed())


def is_functionalized() -> bool:
    """Whether torch.func.functionalize runs this call, which takes operators but no Function."""
    return any(each.key() == torch._C._functorch.TransformType.Functionalize for each in _transforms())


def _transforms() -> Sequence[torch._C._functorch.CInterpreter]:
    return torch._C._functorch.get_interpreter_stack() or ()


def are_batched(tensors: Sequence[Tensor | None]) -> bool:
    """Whether many gradients come at once by autograd's own `is_grads_batched`."""
    for t in tensors:  # noqa: SIM110 - short calls feel a generator
        if t is not None and torch._C._functorch.is_legacy_batchedtensor(t):
            return True
    return False


def are_expanded(weights: Sequence[Tensor | None]) -> bool:
    """Whether weights stand for one of each sample, as torch.nn.utils' per-sample gradients make them."""
    return ExpandedWeight in map(type, weights)


def saves_the_very_tensors() -> bool:
    """Whether no hook puts others in the place of what a node saves."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def graph_is_kept() -> bool:
    """Whether the backward pass that runs leaves the graph for another one."""
    return torch._C._autograd._get_current_graph_task_keep_graph()
