"""What torch.fx and an export to ONNX by tracing make of the layers and cells: a leaf, and a refusal in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Proxy
from torch.fx.node import map_aggregate
from torch.fx.proxy import TraceError

from fused_rnn._checks import ArgumentTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROXY_ERRORS = (ArgumentTypeError, TraceError)
"""What a call with a Proxy raises: by the checks of arguments, or where an argument is a condition."""


class Traceable(torch.nn.Module):
    """A module that other tracers than the compiler may meet."""

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        """What torch calls in place of `forward` while it traces.

        torch.onnx makes keywords positional, so that a layer by itself would fail before it came to say this.
        """
        if torch.onnx.is_in_onnx_export():
            raise NotImplementedError(
                "fused_rnn has no export to ONNX by tracing: call torch.onnx.export with dynamo=True"
            )
        return super()._slow_forward(*args, **kwargs)  # type: ignore[no-untyped-call]


def leaf(refused: Exception, module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The call of a module as one node of a torch.fx graph, whatever its tracer takes for leaves.

    `refused` is raised where no argument is a Proxy, on which checks of arguments fail.
    """
    proxies: list[Proxy] = []
    map_aggregate((tuple(args), dict(kwargs)), lambda value: _gather(value, proxies))
    if not proxies:
        raise refused
    tracer: Any = proxies[0].tracer
    if module is getattr(tracer, "root", None):
        name = type(module).__name__
        raise TraceError(f"{name} is a leaf for torch.fx, which traces no leaf by itself: trace a module that holds it")
    given = {name: value for name, value in kwargs.items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), tuple(args), given)


def _gather(value: Any, proxies: list[Proxy]) -> Any:
    if isinstance(value, Proxy):
        proxies.append(value)
    return value
