"""Named problems: one string such as `lstm:t100,b16,i128,h128,f32,train` describes a layer, its input and its use.

Grammar: `CELL:FIELD,FIELD,...` with the fields in any order.

    CELL      lstm, gru, rnn_tanh or rnn_relu
    tN bN iN hN   time steps, batch, input size, hidden size (required)
    DTYPE     f32, f64, bf16, f16, i8 or f32-bf16 (required)
    MODE      train (forward and backward) or infer (forward without grad) (required)
    lN        stacked layers (default 1)
    bi        bidirectional
    pN        projection of the hidden state to N units (LSTM only, N < hidden size)

i8 is a float32 layer with int8 weights, for inference; f32-bf16 is a float32 layer under torch's switch
`torch.backends.mkldnn.rnn.fp32_precision = "bf16"`. `i8` alone is an input size, beside another input size the type.

The tests and the benchmark share this file, so it needs torch alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

GATES: Mapping[str, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
CELLS: tuple[str, ...] = tuple(GATES)
DTYPES: Mapping[str, torch.dtype] = {
    "f32": torch.float32,
    "f64": torch.float64,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}


class Type(NamedTuple):
    """What a layer is in, and what its GEMMs round their factors to where that is another type."""

    dtype: torch.dtype
    factors: torch.dtype | None = None


TYPES: Mapping[str, Type] = {
    **{name: Type(dtype) for name, dtype in DTYPES.items()},
    "i8": Type(torch.float32, torch.int8),
    "f32-bf16": Type(torch.float32, torch.bfloat16),
}
MODES: Mapping[str, bool] = {"train": True, "infer": False}

_SIZES = {"t": "time_steps", "b": "batch", "i": "input_size", "h": "hidden_size", "l": "layers", "p": "proj"}
_LEAST = {"time_steps": 0, "batch": 0, "input_size": 1, "hidden_size": 1, "layers": 1, "proj": 1}
_ALLOWED = f"tN bN iN hN, one of {' '.join(TYPES)}, train or infer, and optionally lN bi pN"


@dataclass(frozen=True)
class Problem:
    """A recurrent layer, the shape of its input, and whether it is trained or only run.

    Example::

        problem = Problem.parse("gru:t100,b4,i64,h64,f32,infer")
        layer = problem.make_layer(torch.nn)
        assert str(problem) == "gru:t100,b4,i64,h64,f32,infer"
    """

    cell: str
    time_steps: int
    batch: int
    input_size: int
    hidden_size: int
    dtype: torch.dtype = torch.float32
    training: bool = True
    layers: int = 1
    bidirectional: bool = False
    proj: int = 0
    factors: torch.dtype | None = None  # what GEMMs round them to, where not to `dtype`

    def __post_init__(self) -> None:
        if self.cell not in GATES:
            raise ValueError(f"unknown cell {self.cell!r}: use {', '.join(CELLS)}")
        if (self.dtype, self.factors) not in TYPES.values():
            factors = f" with factors of {self.factors}" if self.factors else ""
            raise ValueError(f"unknown dtype {self.dtype}{factors}: use {', '.join(TYPES)}")
        if self.training and self.factors == torch.int8:
            raise ValueError("i8 is for inference: layers with int8 weights have no gradients")
        for letter, field in _SIZES.items():
            value = getattr(self, field)
            if value < _LEAST[field] and not (field == "proj" and value == 0):
                raise ValueError(f"{field} ({letter}) must be at least {_LEAST[field]}, got {value}")
        if self.proj and self.cell != "lstm":
            raise ValueError(f"a projection (p{self.proj}) needs the cell lstm, got {self.cell}")
        if self.proj and self.proj >= self.hidden_size:
            raise ValueError(f"the projection p{self.proj} must be smaller than the hidden size h{self.hidden_size}")

    @classmethod
    def parse(cls, text: str) -> Problem:
        """The problem named by `text`; ValueError with one line that names the bad part."""
        cell, colon, rest = text.strip().partition(":")
        if not colon:
            raise ValueError(
                f"problem {_quoted(text)} has no ':'; write CELL:FIELDS, as in lstm:t100,b16,i128,h128,f32,train"
            )
        if cell not in GATES:
            raise ValueError(f"problem {_quoted(text)}: unknown cell {cell!r}: use {', '.join(CELLS)}")
        fields: dict[str, Any] = {}
        parts = [part.strip() for part in rest.split(",")]
        sized = len([part for part in parts if re.fullmatch("i[0-9]+", part)]) > 1  # then a last i8 is the type
        for place, part in enumerate(parts):
            is_type = part in TYPES and (part != "i8" or (sized and "i8" not in parts[place + 1 :]))
            name, value = ("dtype", TYPES[part]) if is_type else _parse_field(part, text)
            if name in fields:
                raise ValueError(f"problem {_quoted(text)}: {_quoted(part)} sets {name} a second time")
            fields[name] = value
        missing = [label for name, label in _REQUIRED.items() if name not in fields]
        if missing:
            raise ValueError(f"problem {_quoted(text)} lacks {', '.join(missing)}")
        try:
            return cls(cell=cell, **fields | fields["dtype"]._asdict())
        except ValueError as error:
            raise ValueError(f"problem {_quoted(text)}: {error}") from None

    def __str__(self) -> str:
        parts = [f"t{self.time_steps}", f"b{self.batch}", f"i{self.input_size}", f"h{self.hidden_size}"]
        parts += (
            [f"l{self.layers}"] * (self.layers != 1) + ["bi"] * self.bidirectional + [f"p{self.proj}"] * bool(self.proj)
        )
        return f"{self.cell}:{','.join([*parts, self.dtype_name, self.mode])}"

    @property
    def dtype_name(self) -> str:
        """The short name of the type: f32, f64, bf16, f16, i8 or f32-bf16."""
        return next(name for name, kind in TYPES.items() if kind == (self.dtype, self.factors))

    @property
    def mode(self) -> str:
        """`train` or `infer`."""
        return "train" if self.training else "infer"

    @property
    def directions(self) -> int:
        """1, or 2 when bidirectional."""
        return 2 if self.bidirectional else 1

    @property
    def gates(self) -> int:
        """Gates of one hidden unit, which is the number of rows of W_hh per unit."""
        return GATES[self.cell]

    @property
    def output_size(self) -> int:
        """Width of the hidden state of one direction: the projection where there is one."""
        return self.proj or self.hidden_size

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[T, B, I]"""
        return self.time_steps, self.batch, self.input_size

    @property
    def h_shape(self) -> tuple[int, int, int]:
        """Shape of h_0 and h_n: [layers * D, B, P]"""
        return self.layers * self.directions, self.batch, self.output_size

    @property
    def c_shape(self) -> tuple[int, int, int]:
        """Shape of c_0 and c_n of an LSTM: [layers * D, B, H]"""
        return self.layers * self.directions, self.batch, self.hidden_size

    def make_layer(self, namespace: ModuleType, **further: Any) -> torch.nn.Module:
        """The layer, from torch.nn or any module with the same classes, in training or evaluation mode.

        `further` are arguments that the problem does not name.
        """
        name = {"lstm": "LSTM", "gru": "GRU"}.get(self.cell, "RNN")
        options: dict[str, Any] = {"num_layers": self.layers, "bidirectional": self.bidirectional, "dtype": self.dtype}
        options |= further
        if self.cell.startswith("rnn_"):
            options["nonlinearity"] = self.cell.removeprefix("rnn_")
        if self.proj:
            options["proj_size"] = self.proj
        layer: torch.nn.Module = getattr(namespace, name)(self.input_size, self.hidden_size, **options)
        return layer.train(self.training)

    def flops(self) -> int:
        """Floating point operations, a multiply-add counted as 2.

        Counted are the GEMMs alone: input (W_ih x), recurrent (W_hh h) and, with a projection, W_hr h, over all
        steps, rows, directions and layers. Training counts three times that: each GEMM has two of the same size in
        the backward pass, one for its input and one for its weight. Biases, gates and activations are not counted.
        """
        per_row = 0
        width = self.input_size
        for _ in range(self.layers):
            per_direction = self.gates * self.hidden_size * (width + self.output_size) + self.hidden_size * self.proj
            per_row += 2 * self.directions * per_direction
            width = self.directions * self.output_size
        return per_row * self.time_steps * self.batch * (3 if self.training else 1)


_REQUIRED = {
    "time_steps": "t (time steps)",
    "batch": "b (batch)",
    "input_size": "i (input size)",
    "hidden_size": "h (hidden size)",
    "dtype": f"a dtype ({', '.join(TYPES)})",
    "training": "a mode (train or infer)",
}


def _quoted(text: str) -> str:
    """`text` in quotes, on one line and of bounded length."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _parse_field(part: str, text: str) -> tuple[str, Any]:
    if part in MODES:
        return "training", MODES[part]
    if part == "bi":
        return "bidirectional", True
    match = re.fullmatch(r"([tbihlp])([0-9]{1,12})", part)
    if match is None:
        raise ValueError(f"problem {_quoted(text)}: bad field {_quoted(part)}; allowed are {_ALLOWED}")
    letter, digits = match.groups()
    if letter == "p" and int(digits) == 0:
        raise ValueError(f"problem {_quoted(text)}: proj (p) must be at least 1, got 0")
    return _SIZES[letter], int(digits)


def _grid(cell: str, modes: tuple[str, ...] = ("infer", "train")) -> tuple[str, ...]:
    """T = 100 with B in 1, 4, 16 and I = H in 64, 128, 256."""
    return tuple(f"{cell}:t100,b{b},i{h},h{h},f32,{mode}" for mode in modes for h in (64, 128, 256) for b in (1, 4, 16))


_QUICK = (
    "lstm:t100,b1,i64,h64,f32,infer",
    "lstm:t100,b4,i128,h128,f32,infer",
    "lstm:t100,b16,i256,h256,f32,infer",
    "lstm:t100,b1,i64,h64,f32,train",
    "lstm:t100,b1,i256,h256,f32,train",
    "lstm:t100,b4,i128,h128,f32,train",
    "lstm:t100,b16,i256,h256,f32,train",
    "gru:t100,b4,i128,h128,f32,infer",
    "gru:t100,b1,i64,h64,f32,train",
    "gru:t100,b16,i256,h256,f32,train",
    "rnn_tanh:t100,b4,i128,h128,f32,infer",
    "rnn_tanh:t100,b4,i128,h128,f32,train",
    "rnn_relu:t100,b16,i256,h256,f32,train",
)
_LARGE = tuple(
    f"lstm:t100,b{b},i{h},h{h},f32,{mode}" for mode in ("infer", "train") for h in (512, 1024) for b in (1, 16)
)
_VARIANTS = (
    "lstm:t100,b4,i128,h128,bi,f32,train",
    "lstm:t100,b4,i128,h128,l2,f32,train",
    "lstm:t100,b4,i128,h128,p64,f32,train",
    "lstm:t100,b4,i128,h128,f64,train",
    "lstm:t100,b4,i128,h128,bf16,train",
    "gru:t100,b4,i128,h128,bi,f32,train",
    "gru:t100,b4,i128,h128,l2,f32,train",
    "gru:t100,b4,i128,h128,bf16,train",
)


def _full_grid(cell: str) -> tuple[str, ...]:
    return tuple(
        f"{cell}:t100,b{b},i{h},h{h},f32,{mode}"
        for mode in ("infer", "train")
        for h in (64, 128, 256, 512)
        for b in (1, 2, 4, 8, 16, 32, 64, 128)
    )


_RNN = _grid("rnn_tanh") + _grid("rnn_relu")

_SUITES: Mapping[str, tuple[str, ...]] = {
    "quick": _QUICK,
    "lstm": _grid("lstm"),
    "gru": _grid("gru"),
    "rnn": _RNN,
    **{f"{cell}-full": _full_grid(cell) for cell in CELLS},
    "all": _grid("lstm") + _grid("gru") + _RNN + _LARGE + _VARIANTS,
}
SUITE_NAMES: tuple[str, ...] = tuple(_SUITES)


def suite(name: str) -> tuple[Problem, ...]:
    """The problems of a named suite.

    `quick` is about a dozen over all cells, `lstm`, `gru` and `rnn` are grids in both modes, those of
    a cell that end with `-full` have more batches and hidden sizes, and `all` adds large
    hidden sizes, other types, and stacked, bidirectional and projected layers.
    """
    if name not in _SUITES:
        raise ValueError(f"unknown suite {name!r}: use {', '.join(SUITE_NAMES)}")
    return tuple(Problem.parse(text) for text in _SUITES[name])
