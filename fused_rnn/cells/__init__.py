"""Recurrent cells of one's own, written in Python and run by the project's kernels.

A cell says what one hidden unit computes at one step, from its gates and its states. `fused_rnn.Recurrent` makes a
layer of it. The cell is traced once, differentiated, written as C++ and compiled for this processor when it is first
used; then it runs in the schedules of the built-in cells. Without a compiler it runs in plain torch.

Example::

    class CoupledLSTM(fused_rnn.Cell):
        gates = ("f", "g", "o")
        states = ("h", "c")

        def step(self, gate, state):
            f = sigmoid(gate.f)
            c = f * state.c + (1 - f) * tanh(gate.g)
            return {"h": sigmoid(gate.o) * tanh(c), "c": c}

    layer = fused_rnn.Recurrent(CoupledLSTM, 128, 256)

`python -m fused_rnn.cells build package.module:CoupledLSTM --out DIR` compiles it for machines without a compiler,
where `fused_rnn.cells.load(DIR)` finds it.
"""

from __future__ import annotations

import copy
import inspect
import json
import keyword
import linecache
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fused_rnn import _cell_compiler, _ops, _reference
from fused_rnn._cell_functions import (
    abs,  # noqa: A004 - the field's name
    clip,
    exp,
    hard_sigmoid,
    log,
    log_sigmoid,
    maximum,
    minimum,
    relu,
    sigmoid,
    softplus,
    sqrt,
    tanh,
    where,
)
from fused_rnn._cell_graph import Graph, TraceError, Value
from fused_rnn._cell_source import CellSource, Trace, write

__all__ = [
    "Cell", "CellError", "abs", "build", "clip", "exp", "hard_sigmoid", "load", "log", "log_sigmoid", "maximum",
    "minimum", "relu", "sigmoid", "softplus", "sqrt", "tanh", "where",
]  # fmt: skip


class CellError(TypeError):
    """A cell is not what a cell must be: the message names the class, and the line of `step` where there is one."""


class _Named:
    """The gates, states or weights of a unit as attributes; notes which were read."""

    def __init__(self, owner: str, kind: str, values: Mapping[str, Any], **parts: Any) -> None:
        self.__dict__.update(parts)
        self.__dict__["_owner"], self.__dict__["_kind"], self.__dict__["_values"] = owner, kind, values
        self.__dict__["_read"] = set()

    def __getattr__(self, name: str) -> Any:
        if name not in self._values:
            known = ", ".join(self._values) or "none"
            raise TraceError(f"{self._owner} has no {self._kind} {name!r}; it has {known}")
        self._read.add(name)
        value = self._values[name]
        return value() if callable(value) else value

    def __getitem__(self, name: Any) -> Any:
        raise TraceError(f"a {self._kind} is an attribute, not an item, got {name!r}")

    def __setattr__(self, name: str, _: Any) -> None:
        raise TraceError(f"{self._kind} {name!r} cannot be set: step returns the new states")


class _ClassOrInstance:
    """A method that a class answers, too, as an instance of it that was made without arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return lambda: self._function(owner() if instance is None else instance)


class Cell:
    """What a hidden unit computes at a step; derive from it and write `step`.

    Attributes:
        gates: names of the gates, in the order of the rows of W_ih and W_hh: each is W_ih x + b_ih + W_hh h + b_hh.
        input_gates: names of further gates, which read x alone: W_ih x + b_ih. A cell without other gates is a
            diagonal recurrence, whose steps have no matrix product.
        states: names of 1 to 4 states; the first is what W_hh multiplies and what the layer returns.
        unit_weights: names of trained numbers that each unit has for itself, at first 0.

    A cell may have a constructor of its own, whose numbers `step` reads; they are constants of the kernels.

    Raises:
        CellError: of `step` or the attributes, where the cell is used.

    Example::

        class Decay(fused_rnn.Cell):
            input_gates = ("forget", "new")

            def step(self, gate, state):
                f = fused_rnn.cells.sigmoid(gate.forget)
                return {"h": f * state.h + (1 - f) * gate.new}
    """

    gates: ClassVar[Sequence[str]] = ()
    input_gates: ClassVar[Sequence[str]] = ()
    states: ClassVar[Sequence[str]] = ("h",)
    unit_weights: ClassVar[Sequence[str]] = ()

    def step(self, gate: Any, state: Any, unit: Any = None) -> dict[str, Any]:
        """The new states, by name.

        Args:
            gate: the pre-activations as attributes, `gate.f`. The two parts that a gate is the sum of are `gate.x.f`
                (W_ih x + b_ih) and `gate.h.f` (W_hh h + b_hh).
            state: the states before the step as attributes.
            unit: the unit's weights as attributes, for a cell that has some; others leave the argument out.

        It is called with tensors [B, H], and once with what stands for a number of a unit: so it uses + - * / ** with
        integers, comparisons within `where`, and the functions of `fused_rnn.cells`.
        """
        raise NotImplementedError("a cell needs a method step(self, gate, state), which returns the new states by name")

    def reset_parameters(self, parameters: dict[str, Tensor]) -> None:
        """Change the parameters of one layer and direction, which were drawn as torch.nn draws them.

        Args:
            parameters: by name: "weight_ih" [G, H, I] and "bias_ih" [G, H], with the gates and then the input gates;
                "weight_hh" [R, H, H / heads] and "bias_hh" [R, H] of the gates; and each of the unit weights [H].
        """

    @_ClassOrInstance
    def source(self) -> str:
        """The cell as C++, as it is compiled."""
        return source_of(self).text


SOURCES: dict[str, CellSource] = {}
"""The cells that were written, by name."""


def source_of(cell: Cell) -> CellSource:
    """The cell in C++, as it is now; then its name is known to the operators."""
    found = write(_traced(cell))
    if found.name not in _reference.STEPS:
        spec = _ops.CellSpec(
            gates=found.gates, states=found.states, saved=found.saved, split=found.split, gradients=found.gradients,
            unit_weights=found.unit_weights, norm_groups=0, recurrent_gates=found.recurrent_gates,
        )  # fmt: skip
        _ops.add_cell(found.name, spec)
        SOURCES[found.name] = found
        own = copy.deepcopy(cell)  # which nobody changes
        _reference.STEPS[found.name] = lambda *tensors: _step_in_torch(own, *tensors)
    return found


def cell_of(given: Any) -> Cell:
    """A cell from an instance, a class, or a layer and a class of those that come with the package."""
    for name in ("_definition", "_published"):
        given = getattr(given, name, given)
    if isinstance(given, type) and issubclass(given, Cell):
        given = given()
    if not isinstance(given, Cell):
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        raise TypeError(f"cell must be a fused_rnn.Cell, or a class of them, got {name}")
    return given


# What the parameters of a layer are called.
_RESERVED = frozenset({"ih", "hh", "hr", "weight_ih", "weight_hh", "bias_ih", "bias_hh"})


def _names_of(cell: Cell, attribute: str) -> tuple[str, ...]:
    owner, names = type(cell).__name__, getattr(cell, attribute)
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise CellError(f"{owner}.{attribute} must be a tuple of names, got {names!r}")
    wrong = [
        name
        for name in names
        if name in _RESERVED or not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_")
    ]
    if wrong or len(set(names)) != len(names):
        raise CellError(
            f"{owner}.{attribute} must be names as of variables, each once, and none of a parameter such as weight_ih, "
            f"got {names!r}"
        )
    return tuple(names)


def _gates(owner: str, names: Sequence[str], recurrent: int, from_x: Any, from_h: Any, both: Any) -> _Named:
    """The gates of a step; `both` gives the sum of a recurrent gate."""
    sums = {name: (both(g) if g < recurrent else from_x(g)) for g, name in enumerate(names)}
    x = _Named(owner, "gate", {name: from_x(g) for g, name in enumerate(names)})
    h = _Named(owner, "gate with a part of h", {name: from_h(g) for g, name in enumerate(names[:recurrent])})
    reserved = [name for name in ("x", "h") if name in names]
    if reserved:
        raise CellError(f"{owner}.gates: a gate cannot be called {reserved[0]!r}, which gate.{reserved[0]} stands for")
    return _Named(owner, "gate", sums, x=x, h=h)


def _call_step(cell: Cell, gates: _Named, state: _Named, unit: _Named) -> dict[str, Any]:
    result: dict[str, Any] = cell.step(gates, state, unit) if cell.unit_weights else cell.step(gates, state)
    return result


def _check_arguments(cell: Cell) -> None:
    """That step takes what it is given."""
    names, reason = ("gate, state, unit", "") if cell.unit_weights else ("gate, state", "no ")
    try:
        inspect.signature(cell.step).bind(*names.split())
    except TypeError:
        message = f"{type(cell).__name__}.step must take (self, {names}), since the cell has {reason}unit_weights"
        raise CellError(message) from None


def _step_in_torch(
    cell: Cell, from_x: Tensor, from_h: Tensor, h: Tensor, c: Tensor, unit_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """New h [B, H] and the other states [B, E*H] from the pre-activations [B, G, H], in plain torch."""
    owner, names = type(cell).__name__, (*cell.gates, *cell.input_gates)
    x, by_h = from_x.unbind(1), from_h.unbind(1)
    gates = _gates(owner, names, len(cell.gates), lambda g: x[g], lambda g: by_h[g], lambda g: lambda: x[g] + by_h[g])
    others = cell.states[1:]
    before = (h, *c.chunk(len(others), 1)) if others else (h,)
    units = () if unit_weights is None else unit_weights.unbind(0)
    unit = _Named(owner, "unit weight", dict(zip(cell.unit_weights, units, strict=True)))
    made = _call_step(cell, gates, _Named(owner, "state", dict(zip(cell.states, before, strict=True))), unit)
    new = [made[name] if isinstance(made[name], Tensor) else torch.full_like(h, made[name]) for name in cell.states]
    new = [each.to(h.dtype).expand_as(h) for each in new]
    return new[0], torch.cat(new[1:], 1) if others else c


def _traced(cell: Cell) -> Trace:
    """The graph of a cell's step."""
    owner = type(cell).__name__
    names = {attribute: _names_of(cell, attribute) for attribute in ("gates", "input_gates", "states", "unit_weights")}
    states, units, recurrent = names["states"], names["unit_weights"], len(names["gates"])
    gate_names = (*names["gates"], *names["input_gates"])
    if not gate_names or len(set(gate_names)) != len(gate_names):
        raise CellError(f"{owner} must have gates or input_gates, each with a name of its own")
    if not 1 <= len(states) <= 4:
        raise CellError(f"{owner}.states must be 1 to 4 names, got {len(states)}")
    graph = Graph()

    def leaf(operation: str) -> Callable[[int], Value]:
        return lambda place: graph.node(operation, payload=place)

    gates = _gates(owner, gate_names, recurrent, leaf("from_x"), leaf("from_h"), leaf("gate"))
    state = _Named(owner, "state", {name: graph.node("state", payload=k) for k, name in enumerate(states)})
    unit = _Named(owner, "unit weight", {name: graph.node("unit", payload=k) for k, name in enumerate(units)})
    _check_arguments(cell)
    made, local = _call_and_watch(cell, gates, state, unit)
    if not isinstance(made, dict) or set(made) != set(states):
        wanted, got = ", ".join(states), sorted(made) if isinstance(made, dict) else type(made).__name__
        raise CellError(f"{owner}.step must return a dict with the new states {wanted}, got {got}")
    try:
        results = [graph.value(made[name]) for name in states]
    except TraceError as error:
        raise CellError(f"{owner}.step returns a state that is no value: {error}") from None
    read = gates._read | gates.x._read | gates.h._read
    for kind, missing in (("gate", [n for n in gate_names if n not in read]), ("unit weight", set(units) - unit._read)):
        if missing:
            several, it = ("s", "them") if len(missing) > 1 else ("", "it")
            listed = ", ".join(sorted(missing))
            raise CellError(f"{owner}.step never reads the {kind}{several} {listed}: leave {it} out")
    for place, name in enumerate(states):
        if results[place] is graph.node("state", payload=place):
            raise CellError(f"{owner}.step never changes the state {name}: leave it out, or make it a unit weight")
        if place > 0 and name not in state._read:
            raise CellError(f"{owner}.step never reads the state {name}: it is no state then, leave it out")
    known = {value.index: name for name, value in local.items() if isinstance(value, Value) and value.graph is graph}
    inputs = {value.index for value in graph.values if value.operation in {"state", "unit", "constant"}}
    return Trace(
        title=owner, gates=gate_names, recurrent=recurrent, states=states, unit_weights=units, graph=graph,
        results=results, names={index: name for index, name in known.items() if index not in inputs},
    )  # fmt: skip


def _call_and_watch(cell: Cell, *given: _Named) -> tuple[Any, dict[str, Any]]:
    """What step returns, and its local variables at the end, for their names."""
    code: Any = getattr(type(cell).step, "__code__", None)
    local: dict[str, Any] = {}

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            local.update(frame.f_locals)

    watches = sys.getprofile() is None  # a profiler goes on, and the values have no names
    if watches:
        sys.setprofile(watch)
    try:
        return _call_step(cell, *given), local
    except CellError:
        raise
    except Exception as error:
        raise CellError(
            f"{type(cell).__name__}.step{_place_of(error, getattr(code, 'co_filename', ''))}: {error}"
        ) from error
    finally:
        if watches:
            sys.setprofile(None)


def _place_of(error: BaseException, filename: str) -> str:
    """The line of a file in which an error arose."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename != __file__]
    if not frames:
        return ""
    line = linecache.getline(filename, frames[-1].lineno or 0).strip()
    return f", {Path(filename).name}:{frames[-1].lineno}" + (f", `{line}`" if line else "")


DTYPES = {_cell_compiler.name_of(dtype): dtype for dtype in _cell_compiler.CPP_TYPES}
INSTRUCTION_SETS = tuple(name for name in json.loads(_ops.CELL_FLAGS) if name != "common")


def build(
    cell: Cell | type[Cell],
    out: str | Path,
    dtypes: Iterable[torch.dtype] = (torch.float32,),
    instruction_sets: Iterable[str] = INSTRUCTION_SETS,
) -> list[Path]:
    """Compile a cell ahead of time.

    Args:
        cell: the cell, or its class.
        out: the folder for the libraries, which is made; the cell's C++ is put beside them.
        dtypes: the types of numbers to compile for.
        instruction_sets: those of the processors to compile for, by default all of this kind of machine; see
            `build_info()["instruction_sets"]`, where avx512_vnni and the like count as avx512.

    Returns:
        The libraries. `load` of the folder finds them on a machine without a compiler, with the same version of
        fused_rnn.

    Raises:
        CellError: it is no cell.
        RuntimeError: there is no compiler, or it failed.
    """
    source, folder = source_of(cell_of(cell)), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{source.title}.h").write_text(source.text)
    made = []
    for dtype in dtypes:
        for isa in instruction_sets:
            if isa not in INSTRUCTION_SETS:
                raise ValueError(f"instruction_sets must be some of {', '.join(INSTRUCTION_SETS)}, got {isa!r}")
            made.append(folder / _cell_compiler.library_name(source, dtype, isa))
            _cell_compiler.compile_library(source, dtype, isa, made[-1])
            made[-1].with_suffix(".lock").unlink(missing_ok=True)
    return made


def load(folder: str | Path) -> list[str]:
    """Use the libraries of a folder that `build` made.

    Args:
        folder: the folder. Its cells then are known by their names to exported programs, too.

    Returns:
        The names of the libraries in it that are whole and fit this version of fused_rnn and the instruction set in
        use.

    Raises:
        FileNotFoundError: there is no such folder, or no library in it that fits.
        RuntimeError: the headers here are not those that fused_rnn was built from.
    """
    place = Path(folder).resolve()
    mark = f"-{_ops.active_isa()}-{_cell_compiler.sources_mark()}.so"
    found = [path for path in sorted(place.glob(f"*{mark}")) if _cell_compiler.is_whole(path)]
    if not found:
        raise FileNotFoundError(f"{place} has no cells for this version of fused_rnn and {_ops.active_isa()}")
    for path in found:
        _ops.load_cell(str(path), _cell_compiler.sources_mark(), DTYPES[path.name.split("-")[1]])
    return [path.name for path in found]
