"""A case: one call of one module with all its options, as a line of text; drawn from a seed, and made smaller."""

from __future__ import annotations

import ast
import random
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULES = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
LAYOUTS = ("transposed", "sliced", "offset", "padded", "expanded", "negated")
_SMALL = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17)  # around the vectors of 4, 8 and 16 values
_LARGE = (31, 32, 33, 47, 64, 65)  # around tiles of several vectors
_STEPS = (1, 2, 3, 4, 5, 7, 9, 13)
_LONG = (31, 33, 64, 65)  # recomputation has segments of at least 32 steps
_COST = 60  # of rows' steps that the oracle takes one by one


@dataclass(frozen=True)
class Case:
    """What is run. The values of all tensors follow from `seed`, whatever has the same sizes."""

    module: str = "LSTM"
    mode: str = "train"  # one of tools.fuzz.modes.MODES
    t: int = 1
    b: int = 1
    i: int = 1
    h: int = 1
    relu: bool = False
    layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj: int = 0
    dtype: str = "float32"
    layer_norm: bool = False
    zoneout: float | tuple[float, float] = 0.0
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    peephole: bool = False
    cell_clip: float | None = None
    recompute: bool = False
    training: bool = True
    form: str = "padded"  # or unbatched, packed, or unsorted: packed with rows in any order
    states: bool = False
    lengths: str = ""  # the integer type of lengths; of packed input always int64
    resets: bool = False
    cells: bool = False  # return_cells
    nan_padding: bool = False
    x_layout: str = ""
    w_layout: str = ""
    s_layout: str = ""  # of the initial states
    d_layout: str = ""  # of the gradients that arrive
    some: bool = False  # only some of the inputs and parameters want gradients
    into: str = "ohca"  # gradients arrive at the output, h_n, c_n and all cells
    retain: bool = False  # a first backward pass retains the graph
    again: int = 0  # the same call once more, with this number of threads
    mapped: str = ""  # vmap maps the input (x), states (s) and parameters (p)
    seed: int = 0

    @property
    def is_cell(self) -> bool:
        return self.module.endswith("Cell")

    @property
    def is_lstm(self) -> bool:
        return self.module.startswith("LSTM")

    @property
    def is_packed(self) -> bool:
        return self.form in {"packed", "unsorted"}

    @property
    def draws(self) -> bool:
        """Whether anything is drawn at random in the call."""
        zoneout = self.zoneout != 0.0
        return self.training and bool(self.dropout or self.recurrent_dropout or self.weight_dropout or zoneout)

    def __str__(self) -> str:
        default = Case()
        given = [(f.name, getattr(self, f.name)) for f in fields(self)]
        always = {"module", "mode", "t", "b", "i", "h"}
        return " ".join(
            f"{name}={str(value).replace(' ', '')}"
            for name, value in given
            if name in always or value != getattr(default, name)
        )

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case of a line."""
        words = dict(word.split("=", 1) for word in text.split())
        unknown = words.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"case has no {', '.join(sorted(unknown))}")
        texts = {f.name for f in fields(cls) if isinstance(getattr(Case(), f.name), str)}
        return cls(**{name: value if name in texts else ast.literal_eval(value) for name, value in words.items()})


def draw(seed: int, index: int) -> Case:
    """The case with this index of a seed; those before it are not looked at."""
    rng = random.Random(f"{seed}:{index}")  # noqa: S311

    def chance(probability: float) -> bool:
        return rng.random() < probability

    def size() -> int:
        return rng.choice(_LARGE if chance(0.1) else _SMALL)

    def probability() -> float:
        return rng.choice((0.1, 0.5, 0.9, 1.0))

    def layout() -> str:
        return rng.choice(LAYOUTS) if chance(0.3) else ""

    module = rng.choices(MODULES, (6, 5, 4, 1, 1, 1))[0]
    is_cell, is_lstm = module.endswith("Cell"), module.startswith("LSTM")
    modes = {"infer": 5, "train": 10, "double": 2, "vmap": 2, "func": 2, "functional": 1, "inplace": 1}
    if not is_cell:
        modes["stepper"] = 2
    mode = rng.choices(list(modes), list(modes.values()))[0]
    given: dict[str, Any] = {
        "module": module,
        "mode": mode,
        "t": 0 if chance(0.03) else rng.choice(_LONG if chance(0.05) else _STEPS),
        "b": 0 if chance(0.03) else rng.choice(_SMALL),
        "i": 0 if chance(0.01) else size(),
        "h": size(),
        "bias": chance(0.8),
        "dtype": rng.choices(("float32", "float64", "bfloat16", "float16"), (5, 3, 1, 1))[0],
        "training": chance(0.8),
        "form": "unbatched" if chance(0.1) else "padded",
        "states": chance(0.5),
        "x_layout": layout(),
        "w_layout": layout(),
        "s_layout": layout(),
        "d_layout": layout(),
        "some": chance(0.25),
        "into": "".join(letter for letter in "ohca" if chance(0.7)) or "o",
        "retain": chance(0.15),
        "again": rng.choice((1, 2)) if chance(0.2) else 0,
        "seed": rng.randrange(2**31),
    }
    if module.startswith("RNN"):
        given["relu"] = chance(0.5)
    if is_cell:
        given["t"] = 1
    else:
        given |= {
            "layers": rng.choices((1, 2, 3), (6, 3, 1))[0],
            "batch_first": chance(0.3),
            "dropout": probability() if chance(0.2) else 0.0,
            "bidirectional": chance(0.3),
            "layer_norm": chance(0.2),
            "zoneout": probability() if chance(0.2) else 0.0,
            "recurrent_dropout": probability() if chance(0.2) else 0.0,
            "weight_dropout": probability() if chance(0.2) else 0.0,
            "recompute": chance(0.2),
        }
        if given["form"] != "unbatched" and chance(0.15):
            given["form"] = rng.choice(("packed", "unsorted"))
        given["lengths"] = rng.choice(("int64", "int32")) if chance(0.25) else ""
        given["resets"] = chance(0.2)
        given["nan_padding"] = chance(0.5)
    if module == "LSTM":
        given["cells"] = chance(0.3)
        given["proj"] = rng.randrange(1, given["h"]) if given["h"] > 1 and chance(0.2) else 0
        given["peephole"] = chance(0.15)
        given["cell_clip"] = rng.choice((0.05, 0.3, 2.0)) if chance(0.15) else None
        if given["zoneout"] and chance(0.5):
            given["zoneout"] = (given["zoneout"], rng.choice((0.0, 0.3, 1.0)))
    if chance(0.5):  # the plain layer is what most use
        plain = ("layer_norm", "zoneout", "recurrent_dropout", "weight_dropout", "peephole", "cell_clip", "recompute")
        given = {name: value for name, value in given.items() if name not in plain}
    if mode in {"vmap", "func"}:
        given["mapped"] = "".join(letter for letter in "xsp" if chance(0.5))
        if mode == "vmap" and not given["mapped"]:
            given["mapped"] = "x"
    return fitted(Case(**given))


def fitted(case: Case) -> Case:
    """The case without what cannot be together, and of a size that the oracle runs in milliseconds."""
    changes: dict[str, Any] = {}
    if case.mode in {"double", "vmap", "func"}:  # in plain torch
        limits = {"t": 4, "b": 3, "i": 9, "h": 9, "layers": 2}
        case = replace(case, **{name: min(getattr(case, name), limit) for name, limit in limits.items()})
    if case.is_cell:
        changes |= {"t": 1}
    else:  # torch.nn's layers refuse 0
        changes |= {"i": max(case.i, 1)}
    if case.layer_norm:
        changes |= {"peephole": False, "cell_clip": None}
        if case.w_layout == "expanded":  # rows that are all the same, whose norm is all rounding
            changes |= {"w_layout": ""}
    if case.proj:
        changes |= {"zoneout": 0.0, "proj": min(case.proj, case.h - 1)}
    if case.is_packed:
        changes |= {"lengths": "", "resets": False, "t": max(case.t, 1), "b": max(case.b, 1)}
    if case.form == "unbatched":
        changes |= {"b": 1}
    if not (case.lengths and case.form == "padded"):
        changes |= {"nan_padding": False}
    if case.mode == "double" and case.dtype not in {"float32", "float64"}:
        changes |= {"dtype": "float32"}
    if case.mode in {"vmap", "func"}:
        changes |= {"recompute": False, "form": "unbatched" if case.form == "unbatched" else "padded"}
        if case.mapped:  # what is drawn differs, or does not, by vmap's own choice
            changes |= {"training": False}
        if "s" in case.mapped and not case.states:
            changes |= {"mapped": case.mapped.replace("s", "") or "x"}
    if case.mode == "infer":
        changes |= {"some": False, "into": "ohca", "d_layout": "", "retain": False}
    if case.mode == "stepper":
        changes |= {
            "dtype": "float64" if case.dtype == "float64" else "float32", "form": "padded", "bidirectional": False,
            "layer_norm": False, "zoneout": 0.0, "lengths": "", "resets": False, "cells": False, "training": False,
            "b": max(case.b, 1), "i": max(case.i, 1), "some": False, "into": "ohca", "d_layout": "",
            "nan_padding": False,
        }  # fmt: skip
    case = replace(case, **changes)
    rows = (case.b if case.lengths or case.is_packed else 1) * case.layers * (2 if case.bidirectional else 1)
    return replace(case, t=min(case.t, max(4, _COST // max(rows, 1))))


def smallest(case: Case, fails: Callable[[Case], bool]) -> Case:
    """A smaller case that fails too: options are left out and sizes lowered one by one, as long as it does."""
    while True:
        found = next((other for other in _smaller(case) if fails(other)), None)
        if found is None:
            return case
        case = found


def _smaller(case: Case) -> Iterator[Case]:
    default = Case()
    for field in fields(case):
        value, plain = getattr(case, field.name), getattr(default, field.name)
        if field.name in {"module", "mode", "seed", "into", "mapped"} or value == plain:
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            tried: list[Any] = [each for each in (plain, value // 2, value - 1) if 0 < each < value]
        else:
            tried = [plain, 0.5] if isinstance(value, float) and value not in {0.5, plain} else [plain]
        for each in tried:
            other = fitted(replace(case, **{field.name: each}))
            if other != case and other.module == case.module:
                yield other
    for name in ("into", "mapped"):
        letters = getattr(case, name)
        yield from (replace(case, **{name: letters.replace(each, "")}) for each in letters if len(letters) > 1)
