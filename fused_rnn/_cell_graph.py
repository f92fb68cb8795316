"""What a cell computes for one unit at one step, as a graph of operations on numbers, and its derivatives.

`Value` stands for a number while a cell's `step` is traced. Equal operations on equal values are one node, so that a
value that is used twice is computed once. `differentiate` walks a graph from its results to its inputs (reverse mode)
and gives the derivatives as nodes of the same graph. `cheapest_cut` chooses what a forward pass saves for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Operations of one value, of two, and of four: where_less(a, b, x, y) is x where a < b, else y.
UNARY = ("neg", "exp", "log", "sigmoid", "tanh", "relu", "softplus", "sqrt", "abs")
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
SELECT = ("where_less", "where_less_equal")
LEAVES = ("from_x", "from_h", "gate", "state", "unit", "constant", "d_state")


_Place: TypeAlias = tuple[int, int]
_BOOLS: tuple[type, ...] = (bool,)  # numbers to Python, but not to a reader


class TraceError(TypeError):
    """A cell's step does something that cannot be written as operations on numbers."""


@dataclass(frozen=True, eq=False)
class Condition:
    """A comparison, which `where` takes and nothing else does."""

    operation: str  # of SELECT
    left: Value
    right: Value

    def __bool__(self) -> bool:
        raise TraceError(
            "a comparison is neither true nor false for all units at once: use where(condition, a, b) in place of "
            "`if`, one where within another in place of `and` and `or`, maximum and minimum in place of max and min"
        )

    def _no_logic(self, *_: Any) -> Any:
        raise TraceError("comparisons are not joined: write one where within another")

    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _no_logic


class Value:
    """A node: an operation and what it is applied to. Made by a `Graph` alone."""

    __slots__ = ("arguments", "graph", "index", "operation", "payload")

    def __init__(self, graph: Graph, operation: str, arguments: tuple[Value, ...], payload: Any) -> None:
        self.graph, self.operation, self.arguments, self.payload = graph, operation, arguments, payload
        self.index = len(graph.values)

    def __add__(self, other: Any) -> Value:
        return self.graph.binary("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Value:
        return self.graph.binary("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.graph.binary("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self.graph.binary("mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Value:
        return self.graph.binary("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.graph.binary("div", other, self)

    def __neg__(self) -> Value:
        return self.graph.unary("neg", self)

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return self.graph.unary("abs", self)

    def __pow__(self, exponent: Any) -> Value:
        if not isinstance(exponent, int) or not 1 <= exponent <= 16:
            got = "a value" if isinstance(exponent, Value) else repr(exponent)
            raise TraceError(f"a power must be an integer from 1 to 16, got {got}: use sqrt, or exp and log")
        half = self ** (exponent // 2) if exponent > 1 else None
        square = self if half is None else half * half
        return square * self if half is not None and exponent % 2 else square

    def _no_operator(self, *_: Any) -> Any:
        raise TraceError("a cell has the operators + - * / and ** with an integer")

    __matmul__ = __rmatmul__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __rpow__ = _no_operator

    def __lt__(self, other: Any) -> Condition:
        return Condition("where_less", self, self.graph.value(other))

    def __gt__(self, other: Any) -> Condition:
        return Condition("where_less", self.graph.value(other), self)

    def __le__(self, other: Any) -> Condition:
        return Condition("where_less_equal", self, self.graph.value(other))

    def __ge__(self, other: Any) -> Condition:
        return Condition("where_less_equal", self.graph.value(other), self)

    def __eq__(self, other: object) -> bool:
        raise TraceError("values are not compared for equality: use where(a < b, ...), or <=, > and >=")

    __ne__ = __eq__
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TraceError("a value has no truth while a cell is traced: use where(condition, a, b) in place of `if`")

    def _no_number(self, *_: Any) -> Any:
        raise TraceError(
            "a value is no number while a cell is traced, since it differs between units and steps: in place of "
            "functions of math use those of fused_rnn.cells"
        )

    __float__ = __int__ = __index__ = _no_number

    def _no_parts(self, *_: Any) -> Any:
        raise TraceError("a value stands for one number of one unit, which has no parts")

    __iter__ = __len__ = __getitem__ = _no_parts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TraceError(f"a value has no {name!r}: the functions of a cell are those of fused_rnn.cells")

    def __array_ufunc__(self, function: Any, *given: Any, **_: Any) -> Any:
        """The operators with numbers of numpy; its functions are an error."""
        operation = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}.get(function.__name__)
        return self.__array__() if operation is None else self.graph.binary(operation, *given[1:])

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TraceError("numpy cannot compute with a value of a cell: the functions of a cell are in fused_rnn.cells")

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        name = getattr(function, "__name__", function)
        raise TraceError(
            f"torch.{name} does not know the values of a cell: the functions of a cell are in fused_rnn.cells"
        )


class Graph:
    """The nodes that were made, in an order in which each comes after its arguments."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self._known: dict[tuple[Any, ...], Value] = {}

    def node(self, operation: str, arguments: tuple[Value, ...] = (), payload: Any = None) -> Value:
        """The node, new or known."""
        key = (operation, payload, *(argument.index for argument in arguments))
        if key not in self._known:
            self._known[key] = value = Value(self, operation, arguments, payload)
            self.values.append(value)
        return self._known[key]

    def constant(self, number: float) -> Value:
        """A number."""
        if math.isnan(number):
            raise TraceError("a cell computes with numbers, got one that is none (nan)")
        return self.node("constant", payload=float(number))

    def value(self, given: Any) -> Value:
        """A value, or a number as one."""
        if isinstance(given, Value):
            if given.graph is not self:
                raise TraceError("a value of another trace: a cell must not keep what step was given")
            return given
        if isinstance(given, Real) and not isinstance(given, _BOOLS):
            return self.constant(float(given))
        advice = ": a trained number of each unit is one of unit_weights" if isinstance(given, Tensor) else ""
        raise TraceError(f"a cell computes with its gates, states and numbers, got {type(given).__name__}{advice}")

    def unary(self, operation: str, given: Any) -> Value:
        """The operation on one value."""
        value = self.value(given)
        number = _number_of(value)
        if number is not None:
            return self.constant(SCALARS[operation](number))
        if operation == "neg" and value.operation == "neg":
            return value.arguments[0]
        return self.node(operation, (value,))

    def binary(self, operation: str, left_given: Any, right_given: Any) -> Value:
        """The operation on two values, without those of 0 and 1 that do nothing."""
        left, right = self.value(left_given), self.value(right_given)
        a, b = _number_of(left), _number_of(right)
        if a is not None and b is not None and not (operation == "div" and b == 0):
            return self.constant(SCALARS[operation](a, b))
        neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(operation)
        if b is not None and b == neutral:
            return left
        if operation in {"add", "mul"} and a == neutral:
            return right
        if operation == "mul" and 0.0 in (a, b):
            return self.constant(0.0)
        if operation == "sub" and a == 0.0:
            return self.unary("neg", right)
        if operation == "add" and right.operation == "neg":
            return self.binary("sub", left, right.arguments[0])
        if operation in {"add", "mul"} and left.index > right.index:  # one order for both
            left, right = right, left
        return self.node(operation, (left, right))

    def where(self, condition: Condition, chosen: Any, other: Any) -> Value:
        """`chosen` where the condition holds, else `other`."""
        if not isinstance(condition, Condition):
            raise TraceError(f"where needs a comparison such as a < b, got {type(condition).__name__}")
        one, another = self.value(chosen), self.value(other)
        if one is another:
            return one
        return self.node(condition.operation, (condition.left, condition.right, one, another))


def _number_of(value: Value) -> float | None:
    return value.payload if value.operation == "constant" else None


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


# The operations on numbers.
SCALARS: dict[str, Callable[..., float]] = {
    "neg": lambda x: -x, "exp": math.exp, "log": math.log, "sigmoid": _sigmoid, "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0), "softplus": _softplus, "sqrt": math.sqrt, "abs": abs,
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "maximum": max, "minimum": min,
}  # fmt: skip


def reachable(roots: Iterable[Value], *, stop: Callable[[Value], bool] = lambda _: False) -> list[Value]:
    """What the roots are computed from, themselves included, arguments first; not beyond where `stop` says so."""
    found: dict[int, Value] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if value.index not in found:
            found[value.index] = value
            waiting += () if stop(value) else value.arguments
    return [found[index] for index in sorted(found)]


def differentiate(results: Sequence[Value], arriving: Sequence[Value]) -> dict[int, Value]:
    """The derivatives of all nodes that the results depend on, by index, when `arriving` arrive at the results."""
    found: dict[int, Value] = {}
    for result, d in zip(results, arriving, strict=True):
        _add(found, result, d)
    for value in reversed(reachable(results)):
        if value.index not in found:
            continue
        for argument, d_argument in zip(value.arguments, _derivatives(value, found[value.index]), strict=True):
            if d_argument is not None and argument.operation != "constant":
                _add(found, argument, d_argument)
    return found


def _add(found: dict[int, Value], value: Value, d: Value) -> None:
    found[value.index] = found[value.index] + d if value.index in found else d


def _derivatives(value: Value, d: Value) -> tuple[Value | None, ...]:
    """Those of the arguments of a node; None is zero."""
    operation, arguments = value.operation, value.arguments
    if operation in LEAVES:
        return ()
    if operation in _UNARY_DERIVATIVES:
        return (_UNARY_DERIVATIVES[operation](value, arguments[0], d),)
    if operation in SELECT:
        left, right, _, _ = arguments
        condition, zero = Condition(operation, left, right), value.graph.constant(0.0)
        return None, None, value.graph.where(condition, d, zero), value.graph.where(condition, zero, d)
    a, b = arguments
    if operation == "add":
        return d, d
    if operation == "sub":
        return d, -d
    if operation == "mul":
        return d * b, d * a
    if operation == "div":
        return d / b, -(d * value / b)
    # As torch does: half to each where they are equal, all to both where one is a NaN.
    less, more = (a, b) if operation == "maximum" else (b, a)
    half, zero, where = d * 0.5, value.graph.constant(0.0), value.graph.where
    d_a = where(less < more, zero, where(less <= more, half, d))
    return d_a, where(more < less, zero, where(more <= less, half, d))


_UNARY_DERIVATIVES: dict[str, Callable[[Value, Value, Value], Value]] = {
    "neg": lambda _, __, d: -d,
    "exp": lambda value, _, d: d * value,
    "log": lambda _, x, d: d / x,
    "sigmoid": lambda value, _, d: d * (value * (1 - value)),
    "tanh": lambda value, _, d: d * (1 - value * value),
    "relu": lambda value, _, d: value.graph.where(value <= 0, 0.0, d),  # d where it is a NaN, as in torch
    "softplus": lambda value, x, d: d * value.graph.unary("sigmoid", x),
    "sqrt": lambda value, _, d: d * 0.5 / value,
    "abs": lambda value, x, d: value.graph.where(x > 0, d, value.graph.where(x < 0, -d, d - d)),  # 0, or a NaN of d
}


def cheapest_cut(
    wanted: Sequence[Value], *, hidden: Callable[[Value], bool], free: Callable[[Value], bool]
) -> list[Value]:
    """The fewest nodes from which `wanted` can be computed without those that are `hidden`, besides the `free` ones.

    Of several such sets the one nearest to `wanted`: an activation rather than what it is made of. This is the minimum
    vertex cut between the hidden leaves and what is wanted, found by augmenting paths (Ford and Fulkerson, 1956).
    """
    nodes = [value for value in reachable(wanted, stop=free) if not free(value)]
    names = {value.index for value in nodes}
    source, sink, unlimited = (-1, 0), (-2, 0), len(nodes) + 1
    # Of each node an entry (index, 0) and an exit (index, 1), between which one unit may flow.
    room: dict[_Place, dict[_Place, int]] = {source: {}, sink: {}}

    def edge(start: _Place, end: _Place, capacity: int) -> None:
        room.setdefault(start, {})[end] = capacity
        room.setdefault(end, {}).setdefault(start, 0)

    for value in nodes:
        edge((value.index, 0), (value.index, 1), 1)
        if hidden(value):
            edge(source, (value.index, 0), unlimited)
        for argument in value.arguments:
            if argument.index in names:
                edge((argument.index, 1), (value.index, 0), unlimited)
    for value in wanted:
        if value.index in names:
            edge((value.index, 1), sink, unlimited)
    while path := _path(room, source, sink):
        for start, end in pairwise(path):
            room[start][end] -= 1
            room[end][start] += 1
    before_sink = _reaching(room, sink)
    return [v for v in nodes if (v.index, 1) in before_sink and (v.index, 0) not in before_sink]


def _path(room: dict[_Place, dict[_Place, int]], source: _Place, sink: _Place) -> list[_Place]:
    """A way from source to sink along which more may flow, or nothing."""
    before: dict[_Place, _Place] = {source: source}
    waiting = [source]
    for place in waiting:
        for following, capacity in room[place].items():
            if capacity > 0 and following not in before:
                before[following] = place
                waiting.append(following)
    if sink not in before:
        return []
    path = [sink]
    while path[-1] != source:
        path.append(before[path[-1]])
    return path[::-1]


def _reaching(room: dict[_Place, dict[_Place, int]], sink: _Place) -> set[_Place]:
    """From where more may flow to the sink."""
    found, waiting = {sink}, [sink]
    while waiting:
        end = waiting.pop()
        for start in room[end]:  # edges have both directions
            if start not in found and room[start][end] > 0:
                found.add(start)
                waiting.append(start)
    return found
