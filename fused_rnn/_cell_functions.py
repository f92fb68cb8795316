"""The functions of cells: of tensors, of numbers, and of what stands for a number while a cell is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from fused_rnn._cell_graph import SCALARS, Condition, TraceError, Value

if TYPE_CHECKING:
    from collections.abc import Callable

Number = TypeVar("Number")  # a tensor, a float, or what stands for them while a cell is traced


def _unary(name: str, in_torch: Callable[[Tensor], Tensor], text: str) -> Callable[[Number], Number]:
    def function(x: Any) -> Any:
        if isinstance(x, Value):
            return x.graph.unary(name, x)
        return in_torch(x) if isinstance(x, Tensor) else SCALARS[name](float(x))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function


exp = _unary("exp", torch.exp, "The exponential function.")
log = _unary("log", torch.log, "The natural logarithm.")
sigmoid = _unary("sigmoid", torch.sigmoid, "1 / (1 + exp(-x)).")
tanh = _unary("tanh", torch.tanh, "The hyperbolic tangent.")
relu = _unary("relu", torch.relu, "The larger one of x and 0.")
softplus = _unary("softplus", lambda x: torch.logaddexp(x, torch.zeros_like(x)), "log(1 + exp(x)).")
sqrt = _unary("sqrt", torch.sqrt, "The square root.")
abs = _unary("abs", torch.abs, "The absolute value.")  # noqa: A001 - the field's name


def _binary(name: str, in_torch: Callable[[Tensor, Tensor], Tensor], text: str) -> Callable[[Any, Any], Any]:
    def function(a: Any, b: Any) -> Any:
        traced = next((each for each in (a, b) if isinstance(each, Value)), None)
        if traced is not None:
            return traced.graph.binary(name, a, b)
        tensor = next((each for each in (a, b) if isinstance(each, Tensor)), None)
        if tensor is None:
            return SCALARS[name](a, b)
        return in_torch(*(each if isinstance(each, Tensor) else tensor.new_tensor(each) for each in (a, b)))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function


maximum = _binary("maximum", torch.maximum, "The larger one of a and b.")
minimum = _binary("minimum", torch.minimum, "The smaller one of a and b.")


def where(condition: Any, a: Any, b: Any) -> Any:
    """A where the condition, such as `x < y`, holds, else b."""
    if isinstance(condition, Condition):
        return condition.left.graph.where(condition, a, b)
    if isinstance(condition, Tensor):
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):  # exact in any type
            a, b = (torch.full_like(condition, each, dtype=torch.float64) for each in (a, b))
        return torch.where(condition, a, b)
    if isinstance(condition, bool):
        return a if condition else b
    raise TraceError(f"where needs a comparison such as a < b, got {type(condition).__name__}")


def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)), exact where sigmoid(x) is near 0."""
    return -softplus(-x)


def clip(x: Any, low: float, high: float) -> Any:
    """X, at least `low` and at most `high`."""
    return minimum(maximum(x, low), high)


def hard_sigmoid(x: Any) -> Any:
    """x / 6 + 1/2 between 0 and 1, as torch.nn.functional.hardsigmoid and Keras 3."""
    return clip(x / 6 + 0.5, 0.0, 1.0)
