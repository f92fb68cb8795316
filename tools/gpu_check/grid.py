"""Which problems are timed and checked, in the order of their use: what is cut off by a time limit comes last."""

from __future__ import annotations

from itertools import zip_longest

from .stages import SCHEDULES

TIME_STEPS = 1024
BOTH = ("infer", "train")
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
# Middle sizes first, since the list may be cut short.
ALL_HIDDEN = (512, 256, 1024, 128, 64, 768, 2048, 1536)


def _problems(
    cell: str, hidden: tuple[int, ...], batches: tuple[int, ...], type_name: str, option: str = ""
) -> list[str]:
    """Both modes of each size; the input is as wide as the hidden state, as in a stack of layers."""
    options = f",{option}" if option else ""
    return [
        f"{cell}:t{TIME_STEPS},b{batch},i{size},h{size}{options},{type_name},{mode}"
        for size in hidden
        for batch in batches
        for mode in BOTH
    ]


def _in_turns(*groups: list[str]) -> list[str]:
    """Two of each group in turn (the two modes of a size), so that each is met early."""
    pairs = [[group[i : i + 2] for i in range(0, len(group), 2)] for group in groups]
    return [text for row in zip_longest(*pairs, fillvalue=[]) for pair in row for text in pair]


def timed_problems() -> list[str]:
    """What the stage `bench` times, each against torch.nn."""
    return _in_turns(
        _problems("lstm", ALL_HIDDEN[:4], (16, 1, 64), "bf16"),
        _problems("gru", (512, 256, 1024, 128, 2048), (16, 1, 64), "bf16"),
        _problems("lstm", (512, 256, 1024, 128), (16, 1, 64), "tf32"),
        _problems("lstm", ALL_HIDDEN[4:], (16, 1, 64), "bf16"),
        _problems("lstm", (512, 256, 1024), (8, 32, 128), "bf16"),
        _problems("lstm", (768, 512, 1024), (16,), "f16"),
        _problems("lstm", (512, 256, 1024, 64), (1, 32), "f32"),
        _problems("lstm", (256, 512), (1, 16), "bf16", "bi"),
        _problems("gru", (256, 512), (16,), "bf16", "bi"),
        _problems("lstm", (512, 256), (16, 64), "bf16", "packed"),
        _problems("gru", (512,), (16,), "bf16", "packed"),
        _problems("lstm", (2048,), (32,), "f32"),
        _problems("rnn_tanh", (256, 1024), (1, 32), "bf16"),
        _problems("gru", (512,), (16, 1), "tf32"),
        _problems("gru", (512,), (16,), "f16"),
    )


def forced_problems() -> list[tuple[str, str]]:
    """Problems with a schedule each, which show whether the choice between schedules is right."""
    texts = _in_turns(
        _problems("lstm", (256, 512, 1024, 64, 128, 2048), (16, 1, 64), "bf16"),
        _problems("gru", (256, 512), (16,), "bf16"),
    )
    return [(text, schedule) for text in texts for schedule in SCHEDULES]


def baseline_problems() -> list[str]:
    """What the stage `baseline` times and profiles: torch.nn alone."""
    return _in_turns(
        _problems("lstm", (128, 192, 256, 512, 768, 1024), (16,), "bf16"),
        _problems("lstm", (64, 128, 256, 512, 1024), (16,), "tf32"),
        _problems("gru", (128, 512, 1024), (16,), "bf16"),
        _problems("lstm", (512, 768, 1024), (16,), "f16"),
        _problems("lstm", (512,), (1, 128), "bf16"),
        _problems("lstm", (512,), (16,), "f32"),
        _problems("lstm", (512,), (16,), "bf16", "bi"),
        _problems("rnn_tanh", (512,), (16,), "bf16"),
    )


# Sizes around the edges of tiles (8, 16), of one block's units (112), of clusters' slices, and primes; each schedule
# refuses some, and says so.
_CHECKED_SHAPES = (
    "t7,b1,i5,h16",
    "t13,b3,i33,h65,bi",
    "t9,b17,i40,h129",
    "t11,b5,i24,h112,bi",
    "t1,b2,i4,h40",
    "t9,b33,i64,h256,bi",
    "t6,b2,i32,h515",
    "t5,b9,i16,h1030",
)
_PROJECTED_SHAPES = ("t7,b3,i5,h33,p17", "t5,b9,i4,h136,l2,bi,p40")


def checked_problems(schedule: str) -> list[str]:
    """What the stage `correctness` checks for a schedule; float64 and projections are for per_step."""
    types = ("f32", "bf16", "f16", "tf32", *(("f64",) if schedule == "per_step" else ()))
    modes = ("train", "infer")
    listed = [
        f"{cell}:{shape},{type_name},{mode}"
        for shape in _CHECKED_SHAPES
        for type_name in types
        for cell in CELLS
        for mode in modes
    ]
    if schedule == "per_step":
        listed += [f"lstm:{shape},{name},{mode}" for shape in _PROJECTED_SHAPES for name in types for mode in modes]
    return listed


# LSTM, bf16, H200: microseconds of one forward step that the model of the hardware allows, by H and B.
LIMIT_TITLE = "modelled limit, LSTM bf16 H200"
_LIMIT_BATCHES = (1, 8, 16, 32, 64, 128)
_LIMITS = {
    64: (0.23, 0.23, 0.23, 0.23, 0.23, 0.23),
    256: (0.41, 0.43, 0.44, 0.46, 0.56, 0.69),
    512: (0.63, 0.65, 0.68, 0.73, 1.06, 1.31),
    1024: (0.87, 1.03, 1.16, 1.41, 1.75, 2.76),
}


def limit(cell: str, hidden: int, batch: int, type_name: str) -> float | None:
    """The modelled limit of a forward step in microseconds, None where there is none."""
    if cell != "lstm" or type_name != "bf16" or hidden not in _LIMITS or batch not in _LIMIT_BATCHES:
        return None
    return _LIMITS[hidden][_LIMIT_BATCHES.index(batch)]
