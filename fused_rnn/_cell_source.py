"""Write a traced cell as C++ in the shape of csrc/cells/lstm.h: a file to read, to debug, and to build in.

The derivatives are those of `_cell_graph.differentiate`. The forward pass saves the fewest values that they need:
states are stored in any case, so that what follows from them alone is computed again.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import TYPE_CHECKING, NamedTuple

from fused_rnn._cell_graph import LEAVES, Graph, Value, cheapest_cut, differentiate, reachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PRECEDENCE = {"add": 1, "sub": 1, "mul": 2, "div": 2, "neg": 3}
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
# What nothing else can be called: keywords and macros of C++, and the names in use.
_TAKEN = frozenset(
    {
        "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch",
        "char", "char8_t", "char16_t", "char32_t", "class", "compl", "concept", "const", "consteval", "constexpr",
        "constinit", "const_cast", "continue", "co_await", "co_return", "co_yield", "decltype", "default", "delete",
        "do", "double", "dynamic_cast", "else", "enum", "explicit", "export", "extern", "false", "float", "for",
        "friend", "goto", "if", "inline", "int", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq",
        "nullptr", "operator", "or", "or_eq", "private", "protected", "public", "register", "reinterpret_cast",
        "requires", "return", "short", "signed", "sizeof", "static", "static_assert", "static_cast", "struct",
        "switch", "template", "this", "thread_local", "throw", "true", "try", "typedef", "typeid", "typename",
        "union", "unsigned", "using", "virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq", "errno",
        "stdin", "stdout", "stderr", "assert", "unix", "linux", "Pack", "V", "CellForward", "CellBackward", "abs",
        "constant", "exponential", "log", "maximum", "minimum", "relu", "sigmoid", "softplus", "sqrt", "tanh",
        "where_less", "where_less_equal", "from_x", "from_h", "current", "state", "saved", "d_current", "d_gates",
        "unit_weights", "forward", "backward",
    }
)  # fmt: skip


class Trace(NamedTuple):
    """What a cell's step computes."""

    title: str  # the name of its class
    gates: Sequence[str]  # the first ones are recurrent
    recurrent: int  # how many
    states: Sequence[str]
    unit_weights: Sequence[str]
    graph: Graph
    results: Sequence[Value]  # the new states
    names: Mapping[int, str]  # of nodes, as step calls them


class CellSource(NamedTuple):
    """A cell in C++, and what its schedules have to know of it: see csrc/cells/cell.h."""

    name: str  # its title with a mark of what it computes, so that another version of a cell is another cell
    title: str
    text: str
    gates: int
    states: int
    saved: int
    split: bool
    gradients: int  # of pre-activations of one unit and step that differ
    unit_weights: int
    recurrent_gates: int


class _Backward(NamedTuple):
    """The backward pass of a cell."""

    saved: list[Value]
    leaves: dict[int, str]  # what is at hand, by index
    from_x: list[Value]
    from_h: list[Value]
    states: list[Value]
    unit_weights: list[Value]


def write(trace: Trace) -> CellSource:
    """The cell as C++."""
    backward = _backward_of(trace)
    joint = _joint_gates(trace, backward)
    split = joint < len(trace.gates)
    values = [*backward.from_x, *backward.from_h, *backward.states, *backward.unit_weights]
    used = {value.index for value in (*reachable(trace.results), *reachable(values, stop=_stops(backward)))}
    reads_hidden = any(
        trace.graph.values[index].operation == "state" and trace.graph.values[index].payload == 0 for index in used
    )
    reads_hidden = reads_hidden or any(
        leaf == "current[0]" and index in used for index, leaf in backward.leaves.items()
    )
    trace = trace._replace(title=_identifier(trace.title))
    body, nameless = _body(trace, backward), _body(trace._replace(names={}), backward)
    counts = (
        f"  static constexpr int kGates = {len(trace.gates)}, kStates = {len(trace.states)}, "
        f"kSaved = {len(backward.saved)}, kUnitWeights = {len(trace.unit_weights)};\n"
        f"  static constexpr bool kSplit = {_cpp(split)}, kReadsHidden = {_cpp(reads_hidden)};\n"
        + (f"  static constexpr int kJointGates = {joint};\n" if split else "")
        + (
            f"  static constexpr int kRecurrentGates = {trace.recurrent};\n"
            if trace.recurrent < len(trace.gates)
            else ""
        )
        + "  static constexpr int kNormGroups = 0;\n"
    )
    mark = hashlib.sha256((counts + nameless).encode()).hexdigest()[:12]  # by other names a cell is the same
    name = f"{trace.title}_{mark}"
    text = _HEADER.format(title=trace.title, comment=_comment(trace), name=name, counts=counts, body=body)
    return CellSource(
        name=name,
        title=trace.title,
        text=text,
        gates=len(trace.gates),
        states=len(trace.states),
        saved=len(backward.saved),
        split=split,
        gradients=len(trace.gates) + (trace.recurrent - joint if split else 0),
        unit_weights=len(trace.unit_weights),
        recurrent_gates=trace.recurrent,
    )


def _identifier(name: str) -> str:
    """A name that C++ takes: that of a macro has capitals."""
    found = re.sub(r"\W", "_", name)
    return f"{found}_" if found in _TAKEN or (found.isupper() and len(found) > 1) else found


def _body(trace: Trace, backward: _Backward) -> str:
    return "\n".join((_forward_text(trace, backward), "", _backward_text(trace, backward)))


_HEADER = """\
// The cell {title}, written by fused_rnn from its `step`.
//
{comment}
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {{

struct {title} {{
  static constexpr const char* kName = "{name}";
{counts}
{body}
}};

static_assert(RecurrentCell<{title}>);

}}  // namespace fused_rnn::own
"""


def _comment(trace: Trace) -> str:
    lines = []
    recurrent, others = trace.gates[: trace.recurrent], trace.gates[trace.recurrent :]
    if recurrent:
        lines.append(f"gates {' '.join(recurrent)}: from_x = W_ih x + b_ih, from_h = W_hh h + b_hh")
    if others:
        lines.append(f"gates {' '.join(others)}, of x alone")
    lines.append(f"states {' '.join(trace.states)}")
    if trace.unit_weights:
        lines.append(f"weights of each unit {' '.join(trace.unit_weights)}")
    return "\n".join(f"// {line}" for line in lines)


def _cpp(flag: bool) -> str:
    return "true" if flag else "false"


def _is_gate(value: Value) -> bool:
    return value.operation in {"from_x", "from_h", "gate"}


def _backward_of(trace: Trace) -> _Backward:
    """The derivatives, and what is saved for them."""
    graph, states = trace.graph, range(len(trace.states))
    forward = {value.index for value in reachable(trace.results)}
    found = differentiate(trace.results, [graph.node("d_state", payload=k) for k in states])
    zero = graph.constant(0.0)

    def of(operation: str, payload: int) -> Value:
        return found.get(graph.node(operation, payload=payload).index, zero)

    from_x, from_h = [], []
    for g in range(len(trace.gates)):
        joint, x, h = of("gate", g), of("from_x", g), of("from_h", g)
        from_x.append(joint + x)
        # Of a gate that reads x alone nobody asks for the other one.
        from_h.append(joint + h if g < trace.recurrent else from_x[-1])
    of_states = [of("state", k) for k in states]
    of_units = [of("unit", k) for k in range(len(trace.unit_weights))]
    roots = [*from_x, *from_h, *of_states, *of_units]
    # The states after the step are stored, but h only where there is no other: else it may be a projection.
    stored = {trace.results[k].index: f"current[{k}]" for k in states if k > 0 or len(trace.states) == 1}

    def is_free(value: Value) -> bool:
        return value.operation in {"state", "unit", "constant", "d_state"} or (
            value.index in stored and not _is_gate(value)
        )

    wanted = [v for v in reachable(roots, stop=lambda v: v.index in forward) if v.index in forward]
    saved = cheapest_cut(wanted, hidden=_is_gate, free=is_free)
    leaves = {value.index: f"saved[{number}]" for number, value in enumerate(saved)}
    leaves = {**{index: leaf for index, leaf in stored.items() if not _is_gate(graph.values[index])}, **leaves}
    return _Backward(saved, leaves, from_x, from_h, of_states, of_units)


def _joint_gates(trace: Trace, backward: _Backward) -> int:
    """The first gates of which both gradients are one."""
    pairs = zip(backward.from_x, backward.from_h, strict=True)
    return next((g for g, (x, h) in enumerate(pairs) if x is not h), len(trace.gates))


def _stops(backward: _Backward) -> Callable[[Value], bool]:
    return lambda value: value.index in backward.leaves


class _Writer:
    """Statements for nodes: each named one, and each that is used more than once, has a constant of its own."""

    def __init__(self, trace: Trace, leaves: Mapping[int, str], roots: Sequence[Value]) -> None:
        self._trace, self._leaves = trace, leaves
        self._nodes = reachable(roots, stop=lambda value: value.index in leaves)
        self._uses: dict[int, int] = {}
        for value in (*roots, *(a for v in self._nodes if v.index not in leaves for a in v.arguments)):
            self._uses[value.index] = self._uses.get(value.index, 0) + 1
        self._texts: dict[int, tuple[str, int]] = {}
        self._taken: set[str] = set(_TAKEN)
        self.lines: list[str] = []
        for value in self._nodes:
            self._write(value)

    def text(self, value: Value, precedence: int = 0) -> str:
        """The node as part of an expression."""
        found, own = self._texts[value.index]
        return f"({found})" if own < precedence else found

    def _write(self, value: Value) -> None:
        expression, precedence = self._expression(value)
        named = self._trace.names.get(value.index)
        simple = value.operation in {"constant", "d_state", "state", "unit"} and value.index not in self._leaves
        if simple or not (named or self._uses.get(value.index, 0) > 1):
            self._texts[value.index] = expression, precedence
            return
        name = self._free_name(named or "t")
        self.lines.append(f"    const V {name} = {expression};")
        self._texts[value.index] = name, 9

    def _free_name(self, wanted: str) -> str:
        name, number = wanted if wanted != "t" else "t0", 0
        name = _identifier(name)
        while name in self._taken:
            number += 1
            name = f"{wanted}{number}" if wanted == "t" else f"{_identifier(wanted)}_{number}"
        self._taken.add(name)
        return name

    def _expression(self, value: Value) -> tuple[str, int]:
        """C++ and how strongly it binds."""
        operation, payload = value.operation, value.payload
        if value.index in self._leaves:
            return self._leaves[value.index], 9
        if operation == "constant":
            if math.isinf(payload):
                return f"constant<V>({'-' if payload < 0 else ''}std::numeric_limits<double>::infinity())", 9
            whole = payload == int(payload) and abs(payload) < 1000
            return f"V({int(payload)})" if whole else f"constant<V>({payload!r})", 9
        if operation in LEAVES:
            return _LEAF_TEXTS[operation].format(payload), 1 if operation == "gate" else 9
        if operation in _SIGNS:
            own = _PRECEDENCE[operation]
            left, right = value.arguments
            return f"{self.text(left, own)} {_SIGNS[operation]} {self.text(right, own + 1)}", own
        if operation == "neg":
            return f"-{self.text(value.arguments[0], 3)}", 3
        return (
            f"{_CPP_NAMES.get(operation, operation)}({', '.join(self.text(argument) for argument in value.arguments)})",
            9,
        )


_CPP_NAMES = {"exp": "exponential"}
_LEAF_TEXTS = {
    "from_x": "from_x[{0}]", "from_h": "from_h[{0}]", "gate": "from_x[{0}] + from_h[{0}]", "state": "state[{0}]",
    "unit": "unit_weights[{0}]", "d_state": "d_current[{0}]",
}  # fmt: skip


def _pack(writer: _Writer, values: Sequence[Value]) -> str:
    return "{" + ", ".join(writer.text(value) for value in values) + "}"


def _function(trace: Trace, result: str, name: str, parameters: Sequence[str], lines: Sequence[str]) -> str:
    """A static function of the cell; the compiler is not to complain about parameters that a cell does not need."""
    given = [*parameters, *([f"const Pack<V, {len(trace.unit_weights)}>& unit_weights"] if trace.unit_weights else [])]
    text = ", ".join(f"[[maybe_unused]] {parameter}" for parameter in given)
    head = f"  template <class V>\n  FUSED_RNN_HD static inline {result}<V, {trace.title}> {name}({text}) {{"
    return "\n".join((head, *lines, "  }"))


def _forward_text(trace: Trace, backward: _Backward) -> str:
    writer = _Writer(trace, {}, [*trace.results, *backward.saved])
    lines = [*writer.lines, f"    return {{{_pack(writer, trace.results)}, {_pack(writer, backward.saved)}}};"]
    gates, states = len(trace.gates), len(trace.states)
    parameters = (
        f"const Pack<V, {gates}>& from_x",
        f"const Pack<V, {gates}>& from_h",
        f"const Pack<V, {states}>& state",
    )
    return _function(trace, "CellForward", "forward", parameters, lines)


def _backward_text(trace: Trace, backward: _Backward) -> str:
    packs = [backward.from_x, backward.from_h, backward.states, backward.unit_weights]
    joint = all(x is h for x, h in zip(backward.from_x, backward.from_h, strict=True))
    written = [backward.from_x, *packs[2:]] if joint else packs
    writer = _Writer(trace, backward.leaves, [value for pack in written for value in pack])
    texts = [_pack(writer, pack) for pack in written]
    lines = list(writer.lines)
    if joint:  # one object for both, which compilers keep in registers
        lines.append(f"    const Pack<V, {len(trace.gates)}> d_gates{texts[0]};")
        texts[:1] = ["d_gates", "d_gates"]
    lines.append(f"    return {{{', '.join(texts)}}};")
    states = len(trace.states)
    parameters = (
        f"const Pack<V, {len(backward.saved)}>& saved",
        f"const Pack<V, {states}>& state",
        f"const Pack<V, {states}>& current",
        f"const Pack<V, {states}>& d_current",
    )
    return _function(trace, "CellBackward", "backward", parameters, lines)
