"""A case: one call of one module with all its options, as a line of text; drawn from a seed, and made smaller."""

from __future__ import annotations

import ast
import random
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

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
        """Whether it is a single step."""
        return self.module.endswith("Cell")

    @property
    def is_lstm(self) -> bool:
        """Whether there is a cell state."""
        return self.module.startswith("LSTM")

    @property
    def is_packed(self) -> bool:
        """Whether the input is a PackedSequence."""
        return self.form in {"packed", "unsorted"}

    @property
    def draws(self) -> bool:
        """Whether anything is drawn at random in the call."""
        zoneout = self.zoneout != 0.0
        return self.training and bool(self.dropout or self.recurrent_dropout or self.weight_dropout or zoneout)

    @property
    def has_variants(self) -> bool:
        """Whether it has formulas that torch.nn has not."""
        return self.layer_norm or self.zoneout != 0.0 or self.peephole or self.cell_clip is not None

    @property
    def has_kinks(self) -> bool:
        """Whether its derivatives jump somewhere."""
        return self.relu or self.cell_clip is not None

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
        values: dict[str, Any] = {n: value if n in texts else ast.literal_eval(value) for n, value in words.items()}
        return cls(**values)


def draw(seed: int, index: int) -> Case:
    """The case with this index of a seed; those before it are not looked at."""
    chosen = _Choices(random.Random(f"{seed}:{index}"))  # noqa: S311
    rng, chance = chosen.rng, chosen.chance
    module = rng.choices(MODULES, (6, 5, 4, 1, 1, 1))[0]
    modes = {"infer": 5, "train": 10, "double": 2, "vmap": 2, "func": 2, "functional": 1, "inplace": 1, "stepper": 2}
    given: dict[str, Any] = {
        "module": module,
        "mode": rng.choices(list(modes), list(modes.values()))[0],
        **chosen.sizes(),
        "bias": chance(0.8),
        "dtype": rng.choices(("float32", "float64", "bfloat16", "float16"), (5, 3, 1, 1))[0],
        "training": chance(0.8),
        "form": "unbatched" if chance(0.1) else "padded",
        "states": chance(0.5),
        "x_layout": chosen.layout(),
        "w_layout": chosen.layout(),
        "s_layout": chosen.layout(),
        "d_layout": chosen.layout(),
        "some": chance(0.25),
        "into": "".join(letter for letter in "ohca" if chance(0.7)) or "o",
        "retain": chance(0.15),
        "again": rng.choice((1, 2)) if chance(0.2) else 0,
        "mapped": "".join(letter for letter in "xsp" if chance(0.5)),
        "seed": rng.randrange(2**31),
    }
    if module.startswith("RNN"):
        given["relu"] = chance(0.5)
    if not module.endswith("Cell"):
        given |= chosen.of_layers()
        if chance(0.5):  # the plain layer is what most use
            given |= chosen.variants(lstm=module == "LSTM")
    if module == "LSTM":
        given |= {"cells": chance(0.3), "proj": rng.randrange(given["h"]) if chance(0.2) else 0}
    return fitted(Case(**given))


class _Choices(NamedTuple):
    """Groups of options, drawn."""

    rng: random.Random

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def layout(self) -> str:
        return self.rng.choice(LAYOUTS) if self.chance(0.3) else ""

    def sizes(self) -> dict[str, int]:
        """Some are 0, some large."""
        rng, chance = self.rng, self.chance
        return {
            "t": 0 if chance(0.03) else rng.choice(_LONG if chance(0.05) else _STEPS),
            "b": 0 if chance(0.03) else rng.choice(_SMALL),
            "i": 0 if chance(0.02) else rng.choice(_LARGE if chance(0.1) else _SMALL),
            "h": rng.choice(_LARGE if chance(0.1) else _SMALL),
        }

    def probability(self) -> float:
        return self.rng.choice((0.1, 0.5, 0.9, 1.0)) if self.chance(0.3) else 0.0

    def of_layers(self) -> dict[str, Any]:
        """What torch.nn's layers have and cells have not, lengths and resets."""
        rng, chance = self.rng, self.chance
        packed = {"form": rng.choice(("packed", "unsorted"))} if chance(0.15) else {}
        return {
            "layers": rng.choices((1, 2, 3), (6, 3, 1))[0],
            "batch_first": chance(0.3),
            "dropout": self.probability(),
            "bidirectional": chance(0.3),
            "lengths": rng.choice(("int64", "int32")) if chance(0.25) else "",
            "resets": chance(0.2),
            "nan_padding": chance(0.5),
            **packed,
        }

    def variants(self, *, lstm: bool) -> dict[str, Any]:
        """What torch.nn has not."""
        rng, chance = self.rng, self.chance
        zoneout: float | tuple[float, float] = self.probability()
        if lstm and chance(0.2):
            zoneout = (rng.choice((0.1, 0.9)), rng.choice((0.0, 0.3, 1.0)))
        return {
            "layer_norm": chance(0.3),
            "zoneout": zoneout,
            "recurrent_dropout": self.probability(),
            "weight_dropout": self.probability(),
            "recompute": chance(0.3),
            "peephole": lstm and chance(0.3),
            "cell_clip": rng.choice((0.05, 0.3, 2.0)) if lstm and chance(0.3) else None,
        }


def fitted(case: Case) -> Case:
    """The case without what cannot be together, and of a size that the oracle runs in milliseconds."""
    if case.mode in {"double", "vmap", "func"}:  # in plain torch
        limits = {"t": 4, "b": 3, "i": 9, "h": 9, "layers": 2}
        case = replace(case, **{name: min(getattr(case, name), limit) for name, limit in limits.items()})
    case = replace(case, **_of_mode(case))
    case = compatible(case)
    rows = (case.b if case.lengths or case.is_packed else 1) * case.layers * (2 if case.bidirectional else 1)
    return replace(case, t=min(case.t, max(4, _COST // max(rows, 1))))


def _of_mode(case: Case) -> dict[str, Any]:
    """What a mode does not have."""
    changes: dict[str, Any] = {}
    if case.mode == "stepper" and case.is_cell:
        changes |= {"mode": "infer"}
    if case.mode not in {"vmap", "func"}:
        changes |= {"mapped": ""}
    elif case.mapped or case.mode == "vmap":
        mapped = case.mapped if case.states else case.mapped.replace("s", "")
        changes |= {"mapped": mapped or "x", "training": False}  # vmap itself says whether members' masks differ
    if case.mode in {"vmap", "func"}:
        changes |= {"recompute": False, "form": "unbatched" if case.form == "unbatched" else "padded"}
    if case.mode in {"infer", "stepper"}:
        changes |= {"some": False, "into": "ohca", "d_layout": "", "retain": False}
    if case.mode == "double" and case.dtype not in {"float32", "float64"}:
        changes |= {"dtype": "float32"}
    if case.mode == "stepper":
        changes |= {
            "dtype": "float64" if case.dtype == "float64" else "float32", "form": "padded", "bidirectional": False,
            "layer_norm": False, "zoneout": 0.0, "lengths": "", "resets": False, "cells": False, "training": False,
            "b": max(case.b, 1),
        }  # fmt: skip
    return changes


def compatible(case: Case) -> Case:
    """The case without the options that are refused beside others."""
    changes: dict[str, Any] = {}
    changes |= {"t": 1} if case.is_cell else {"i": max(case.i, 1)}  # torch.nn's layers refuse an input of no features
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
    if not case.lengths or case.is_packed:
        changes |= {"nan_padding": False}
    return replace(case, **changes)


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
