"""Mistakes of the first hour: each error names the argument and says what to give instead, in every class."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any, get_type_hints

import pytest
import torch
from torch.fx.proxy import TraceError
from torch.nn.utils.rnn import pack_sequence

import fused_rnn
from fused_rnn._variants import NAMES

LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
OF_CELL_STATE = ("peephole", "cell_clip")
of_every_layer = pytest.mark.parametrize("name", LAYERS)
of_every_cell = pytest.mark.parametrize("name", CELLS)
of_every_module = pytest.mark.parametrize("name", LAYERS + CELLS)
X = torch.randn(4, 2, 3)  # [T, B, I]


def make(name: str, **options: Any) -> Any:
    return getattr(fused_rnn, name)(3, 5, **options)


def state(name: str, *shape: int) -> Any:
    return (torch.zeros(shape), torch.zeros(shape)) if name.startswith("LSTM") else torch.zeros(shape)


def first(name: str) -> str:
    """What errors call the first state, in a pattern."""
    return r"hx\[0\]" if name.startswith("LSTM") else "hx"


def options_of(name: str) -> list[str]:
    return [each for each in NAMES if name == "LSTM" or each not in OF_CELL_STATE]


# --- Token ids ---


@of_every_module
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("shape", [(2,), (4, 2), (4, 2, 3)], ids=str)
@pytest.mark.parametrize("with_state", [False, True], ids=["", "state"])
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_token_ids_as_input_are_told_of_an_embedding(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], with_state: bool, autocast: bool
) -> None:
    ids = torch.ones(shape, dtype=dtype)
    states = state(name, *((2, 5) if name in CELLS else (1, 2, 5))) if with_state else None
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        pytest.raises((RuntimeError, ValueError, NotImplementedError)) as error,
    ):
        make(name)(ids, states)
    if name in LAYERS or len(shape) < 3:
        assert str(error.value).endswith(
            f"input has integers ({dtype}): are they token ids? torch.nn.Embedding makes features of them"
        )


@of_every_layer
def test_packed_token_ids_are_told_of_an_embedding(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"input\.data must have shape .*torch\.nn\.Embedding"):
        make(name)(pack_sequence([torch.arange(4), torch.arange(2)]))


@of_every_module
def test_other_inputs_are_not(name: str) -> None:
    for x in (torch.randn(2, 7), torch.randn(()), torch.ones(2, 3, dtype=torch.bool), X.double()):
        with pytest.raises((RuntimeError, ValueError, NotImplementedError)) as error:
            make(name)(x)
        assert "Embedding" not in str(error.value)


# --- States ---


@of_every_layer
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_a_state_with_its_batch_first_is_told_to_be_transposed(
    name: str, batch_first: bool, options: dict[str, Any]
) -> None:
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    x = torch.randn(2, 7, 3) if batch_first else torch.randn(7, 2, 3)
    advice = rf"{first(name)} must .*: batch comes second .*; give {first(name)}\.transpose\(0, 1\)$"
    with pytest.raises(RuntimeError, match=advice):
        make(name, batch_first=batch_first, **options)(x, state(name, 2, rows, 5))


@of_every_module
@pytest.mark.parametrize(
    ("rows", "advice"),
    [(9, r"rows and {hx} has 9: is this a smaller last batch\? Give {hx}\[{lead}:2\] .*drop_last=True"),
     (1, r"rows and {hx} has 1: give {hx}\.expand\({expand}2, -1\)$")],
)  # fmt: skip
def test_a_state_of_another_batch_is_told_what_to_do(name: str, rows: int, advice: str) -> None:
    of_layer = name in LAYERS
    shape, x = ((1, rows, 5), X) if of_layer else ((rows, 5), X[0])
    words = {"hx": first(name), "lead": ":, " if of_layer else "", "expand": "-1, " if of_layer else ""}
    with pytest.raises(RuntimeError, match=r"input has 2 " + advice.format(**words)):
        make(name)(x, state(name, *shape))


@of_every_module
def test_a_state_of_fewer_rows_is_asked_about(name: str) -> None:
    x, shape = (torch.randn(7, 4, 3), (1, 3, 5)) if name in LAYERS else (torch.randn(4, 3), (3, 5))
    with pytest.raises(RuntimeError, match=rf"input has 4 rows and {first(name)} has 3: is it the state of another"):
        make(name)(x, state(name, *shape))


# --- Keywords ---


@of_every_layer
def test_a_keyword_with_other_underscores_or_an_ending_is_told_the_right_one(name: str) -> None:
    spellings = {option: [option.replace("_", ""), option.upper(), f"{option}s"] for option in options_of(name)}
    spellings["zoneout"] = ["zone_out", "zoneouts", "zone_outs", "Zoneout"]
    for option, wrong in spellings.items():
        for keyword in {*wrong} - {option}:
            message = f"{name}.__init__() got an unexpected keyword argument '{keyword}': did you mean {option}?"
            with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
                make(name, **{keyword: True})


@of_every_layer
def test_a_keyword_like_no_other_is_told_all_of_them(name: str) -> None:
    with pytest.raises(TypeError, match=r"'ratio': the arguments are input_size, hidden_size, .*, recompute$"):
        make(name, ratio=3)


@of_every_layer
@pytest.mark.parametrize(
    ("keyword", "meant"), [("mask", "lengths"), ("h_0", "hx"), ("initial_state", "hx"), ("episode_starts", "resets")]
)
def test_the_word_of_another_library_is_told_ours(name: str, keyword: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{keyword}': did you mean {meant}\?$"):
        make(name)(X, **{keyword: torch.zeros(2)})
    with pytest.raises(TypeError, match="'units': did you mean hidden_size"):
        getattr(fused_rnn, name)(3, units=5)


@of_every_layer
def test_lengths_in_the_place_of_the_state_are_told_their_name(name: str) -> None:
    with pytest.raises((TypeError, RuntimeError), match=r": are these lengths\? Give them by name, lengths=\.\.\.$"):
        make(name)(X, torch.tensor([4, 2]))
    with pytest.raises((TypeError, RuntimeError)) as error:
        make(name)(X, torch.zeros(2))
    assert "lengths" not in str(error.value)


@of_every_module
def test_an_array_is_told_how_to_become_a_tensor(name: str) -> None:
    x = X if name in LAYERS else X[0]
    with pytest.raises(TypeError, match=r"input must be a Tensor.*, got ndarray: torch\.from_numpy makes one$"):
        make(name)(x.numpy())


@of_every_cell
@pytest.mark.parametrize("keyword", [*NAMES, "layernorm", "zone_out", "num_layers", "batch_first", "proj_size"])
def test_a_cell_says_which_layer_has_the_option(name: str, keyword: str) -> None:
    meant = {"layernorm": "layer_norm", "zone_out": "zoneout"}.get(keyword, keyword)
    layer = "LSTM" if meant in OF_CELL_STATE else name.removesuffix("Cell")
    with pytest.raises(
        TypeError, match=f"'{keyword}': {name} has no {meant}, which is an argument of fused_rnn.{layer}$"
    ):
        make(name, **{keyword: 1})


def test_a_subclass_hands_its_own_keywords_on() -> None:
    class Mine(fused_rnn.GRU):
        def __init__(self, size: int, **options: Any) -> None:
            super().__init__(size, size, **options)

    assert Mine(3, zoneout=0.5).zoneout == 0.5
    with pytest.raises(TypeError, match="did you mean zoneout"):
        Mine(3, zone_out=0.5)


@of_every_layer
@pytest.mark.parametrize("swap", [lambda layer: layer, fused_rnn.quantize])
def test_a_keyword_of_a_call_is_told_the_right_one(name: str, swap: Any) -> None:
    layer = swap(make(name))
    for keyword, meant in (("length", "lengths"), ("Resets", "resets"), ("return_cell", "return_cells"), ("h_x", "hx")):
        message = f"{name}.forward() got an unexpected keyword argument '{keyword}': did you mean {meant}?"
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            layer(X, **{keyword: None})
    with pytest.raises(TypeError, match=r"'speed': the arguments are input, hx, lengths, resets, return_cells$"):
        layer(X, speed=None)
    with pytest.raises(TypeError, match="multiple values for argument 'input'"):
        layer(X, input=X)


@of_every_cell
@pytest.mark.parametrize("swap", [lambda cell: cell, fused_rnn.quantize])
def test_a_keyword_of_a_cells_call_is_told_all_of_them(name: str, swap: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\.forward\(\) got .* 'lengths': the arguments are input, hx$"):
        swap(make(name))(X[0], lengths=None)


def test_a_subclass_is_called_by_its_name() -> None:
    class Mine(fused_rnn.LSTM):
        def forward(self, x: Any, **options: Any) -> Any:  # type: ignore[override]
            return super().forward(x, **options)

    mine: Any = Mine(3, 5)
    with pytest.raises(TypeError, match=r"^Mine\.forward\(\) got .*'reset': did you mean resets\?$"):
        mine(X, reset=None)


@pytest.mark.parametrize(
    ("function", "keyword", "meant"),
    [
        (fused_rnn.convert, "zone_out", "zoneout"),
        (fused_rnn.quantize, "in_place", "inplace"),
        (partial(fused_rnn.explain, x=X), "length", "lengths"),
        (fused_rnn.Stepper, "batchsize", "batch_size"),
    ],
)
def test_a_keyword_of_a_function_is_told_the_right_one(function: Any, keyword: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"\(\) got an unexpected .* '{keyword}': did you mean {meant}\?$"):
        function(fused_rnn.GRU(3, 5), **{keyword: None})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'strict': the arguments are model$"):
        fused_rnn.restore(fused_rnn.GRU(3, 5), strict=True)  # type: ignore[call-arg]


@of_every_module
def test_advice_leaves_signatures_as_they_are(name: str) -> None:
    forward = getattr(fused_rnn, name).forward
    assert "unknown" not in {*inspect.signature(forward).parameters, *get_type_hints(forward)}


def test_torch_fx_says_that_a_layer_is_a_leaf() -> None:
    with pytest.raises(TraceError, match=r"is a leaf for torch\.fx, which traces no leaf by itself"):
        torch.fx.symbolic_trace(fused_rnn.GRU(3, 5))


# --- Masks for lengths ---


@of_every_layer
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(2, 4), (4, 2)], ids=str)
def test_a_mask_for_lengths_is_told_to_be_summed(
    name: str, batch_first: bool, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    x, mask = (X.transpose(0, 1) if batch_first else X), torch.ones(shape, dtype=dtype)
    layer, axis = make(name, batch_first=batch_first), shape.index(4)
    for given in (mask, mask.numpy()):
        with pytest.raises((TypeError, RuntimeError), match=r"^lengths must .*mask.*mask\.sum\([01]\)"):
            layer(x, lengths=given)
    with pytest.raises(
        (TypeError, RuntimeError), match=rf"give mask\.sum\({axis}\), or \(~mask\)\.sum\({axis}\) where"
    ):
        layer(x, lengths=mask)
    layer(x, lengths=mask.sum(axis))


# --- Options that are set later ---


@of_every_layer
@pytest.mark.parametrize("options", [{}, {"zoneout": 0.1, "layer_norm": True}], ids=str)
def test_a_value_that_the_constructor_refuses_cannot_be_set_later(name: str, options: dict[str, Any]) -> None:
    bad = {"zoneout": (5, -1, "much", None, (0.1, 0.2, 0.3)), "recurrent_dropout": (1.5,), "weight_dropout": (True,),
           "layer_norm": (1,), "peephole": (1,), "cell_clip": (-1, "1"), "recompute": ("yes",)}  # fmt: skip
    layer = make(name, **options)
    text = repr(layer)
    for option, values in bad.items():
        for value in values:
            with pytest.raises((TypeError, ValueError), match=f"{name}: {option} "):
                setattr(layer, option, value)
    assert repr(layer) == text
    layer(X)


@of_every_layer
def test_an_option_with_parameters_is_for_the_constructor(name: str) -> None:
    layer = make(name)
    for option in ("layer_norm", *(["peephole"] if name == "LSTM" else [])):
        with pytest.raises(ValueError, match=rf"{name}: {option}=True needs parameters .*: give {option} to the cons"):
            setattr(layer, option, True)
    layer(X)


@of_every_layer
def test_an_option_that_is_set_later_acts_as_if_given_before(name: str) -> None:
    values: dict[str, Any] = {"zoneout": 0.3, "recurrent_dropout": 0.2, "weight_dropout": 0.1, "recompute": True}
    given, changed = make(name, **values), make(name)
    changed.load_state_dict(given.state_dict())
    for option, value in values.items():
        setattr(changed, option, value)
    found = []
    for layer in (given, changed):
        torch.manual_seed(1)
        found.append(layer(X)[0])
    assert torch.equal(*found)
    assert repr(given) == repr(changed)
    projected = fused_rnn.LSTM(3, 5, proj_size=2)
    with pytest.raises(ValueError, match="zoneout and proj_size together are not supported"):
        projected.zoneout = 0.1
