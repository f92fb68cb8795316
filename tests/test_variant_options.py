"""Options of the variants: what is drawn, names of parameters, copies, state dicts, text, plans, and errors."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial
from typing import Any

import pytest
import torch

import fused_rnn
from fused_rnn import _variants
from fused_rnn._tensors import DirectionWeights
from tests.test_modules import flat
from tests.test_variants import CASES, HIDDEN, each_case, each_layer, make

# --- What is drawn ---


def values_of(tensor: torch.Tensor) -> set[float]:
    return set(tensor.flatten().tolist())


def masks(name: str, *, rows: int = 1, time_steps: int = 50, **options: Any) -> tuple[_variants.Masks, Any]:
    """What a layer of 2000 units with two directions draws, and its variants."""
    layer = getattr(fused_rnn, name)(1, 2000, bidirectional=True, device="meta", **options)
    weights = [DirectionWeights(torch.empty(0), torch.empty(1, 2000)) for _ in range(2)]
    return _variants.draw_masks(layer._variants(), layer.cell, torch.empty(time_steps, rows, 1), weights), layer


@each_layer
def test_zoneout_keeps_each_state_of_each_step_with_its_probability(name: str, kind: dict[str, Any]) -> None:
    states = 2 if name == "LSTM" else 1
    zoneout, recurrent = masks(name, zoneout=0.3, **kind)[0]
    assert recurrent is None
    assert zoneout is not None
    assert zoneout.shape == (50, 1, 2, states, 2000)
    assert values_of(zoneout) == {0.0, 1.0}
    for part in (zoneout, *zoneout.unbind(2), *zoneout.unbind(3), zoneout[0], zoneout[-1]):
        assert abs(part.mean().item() - 0.3) < 5 * (0.3 * 0.7 / part.numel()) ** 0.5  # five standard deviations
    assert not torch.equal(zoneout[0], zoneout[1])


def test_zoneout_has_a_probability_for_h_and_one_for_c() -> None:
    zoneout = masks("LSTM", zoneout=(0.1, 0.6))[0].zoneout
    assert zoneout is not None
    means = zoneout.mean((0, 1, 2, 4))
    torch.testing.assert_close(means, torch.tensor([0.1, 0.6]), rtol=0, atol=0.006)  # five standard deviations
    layer = getattr(fused_rnn, "LSTM")(1, 5, zoneout=[0.1, 0.6])  # noqa: B009 - a list is not in the signature
    assert layer.zoneout == (0.1, 0.6)


def test_a_seed_means_the_same_ones_in_every_type() -> None:
    seed, x = torch.tensor(3), torch.empty(7, 5, 1)
    drawn = _variants._zoneout_mask(x, seed, 1, 2, 13, 0.3, 0.6)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(_variants._zoneout_mask(x.to(dtype), seed, 1, 2, 13, 0.3, 0.6), drawn.to(dtype))
    assert not torch.equal(_variants._zoneout_mask(x, seed + 1, 1, 2, 13, 0.3, 0.6), drawn)


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.1, 0.5, 1.0])
def test_decisions_have_their_probability_and_do_not_depend_on_each_other(probability: float) -> None:
    wanted = max(round(probability * 2**16), 1) / 2**16 if probability else 0.0
    one_run = _variants._zoneout_mask(torch.empty(1, 1, 1), torch.tensor(1), 1, 1, 2**18, probability, probability)
    rows = _variants._zoneout_mask(torch.empty(4, 2**6, 1), torch.tensor(1), 1, 2, 2**10, 0.7, probability)[:, :, :, 1]
    for drawn in (one_run.flatten(), rows.flatten(), _variants._draw_by_torch((2**18,), probability, torch.empty(0))):
        pairs = [drawn[distance:] * drawn[:-distance] for distance in (1, 8, 16, 1024)]  # lanes, draws and rows
        for found, mean in ((drawn, wanted), *((pair, wanted**2) for pair in pairs)):
            # Six standard deviations; those of pairs, which overlap, are less than twice as large.
            assert abs(found.double().mean().item() - mean) <= 6 * 2 * (mean * (1 - mean) / 2**18) ** 0.5


@pytest.mark.parametrize(("arguments", "message"), [
    ((torch.empty(2, 3), torch.tensor(1), 1, 1, 4, 0.5, 0.5), r"x must have shape \[T, B, I\], got \[2, 3\]"),
    ((torch.empty(2, 3, 1), torch.tensor([1]), 1, 1, 4, 0.5, 0.5), r"seed must have shape \[\] = \[\], got \[1\]"),
    ((torch.empty(2, 3, 1), torch.tensor(1.0), 1, 1, 4, 0.5, 0.5), "seed must have type int64"),
    ((torch.empty(2, 3, 1), torch.tensor(1), 1, 1, -4, 0.5, 0.5), "units must be 0 or more, got -4"),
    ((torch.empty(2, 3, 1), torch.tensor(1), 1, 1, 4, 0.5, float("nan")), r"of_others must be in \[0, 1\], got nan"),
])  # fmt: skip
def test_a_mask_of_nothing_possible_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^fused_rnn: {message}"):
        torch.ops.fused_rnn.zoneout_mask(*arguments)


@pytest.mark.parametrize("training", [True, False])
def test_members_of_an_ensemble_have_the_same_masks(training: bool) -> None:
    variants = _variants.Variants(zoneout=(0.1, 0.6), recurrent_dropout=0.2, training=training)
    found: list[Any] = []

    def draw(x: torch.Tensor, w_hh: torch.Tensor) -> torch.Tensor:
        found.extend(_variants.draw_masks(variants, "lstm", x, [DirectionWeights(w_hh, w_hh)]))
        return x

    torch.func.vmap(draw, randomness="same")(torch.zeros(2, 3, 4, 5), torch.zeros(2, 24, 6))
    zoneout, recurrent = found
    assert zoneout.shape == (3, 4, 1, 2, 6)  # none of members
    assert (recurrent is None) == (not training)
    assert zoneout.isfinite().all()  # so it is a tensor outside, too
    assert recurrent is None or recurrent.isfinite().all()


@each_layer
def test_recurrent_dropout_draws_one_mask_for_each_sequence(name: str, kind: dict[str, Any]) -> None:
    zoneout, recurrent = masks(name, rows=8, recurrent_dropout=0.2, **kind)[0]
    assert zoneout is None
    assert recurrent is not None
    assert recurrent.shape == (2, 8, 2000)  # none of time
    assert values_of(recurrent) == {0.0, 1.25}
    assert abs((recurrent == 0).double().mean().item() - 0.2) < 5 * (0.2 * 0.8 / recurrent.numel()) ** 0.5
    rows = recurrent.flatten(0, 1)
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)


def test_weight_dropout_draws_one_mask_for_each_direction_and_scales_the_rest() -> None:
    variants = _variants.Variants(weight_dropout=0.2, training=True)
    weights = [DirectionWeights(torch.ones(4, 2), torch.ones(800, 200), torch.ones(800)) for _ in range(2)]
    first, second = _variants.with_dropped_weights(variants, weights)
    assert not torch.equal(first.w_hh, second.w_hh)
    for found, given in zip((first, second), weights, strict=True):
        assert values_of(found.w_hh) == {0.0, 1.25}
        assert abs((found.w_hh == 0).double().mean().item() - 0.2) < 5 * (0.2 * 0.8 / found.w_hh.numel()) ** 0.5
        assert found._replace(w_hh=given.w_hh) == given


@each_case
def test_the_same_seed_gives_the_same_results(name: str, options: dict[str, Any]) -> None:
    layer = make(name, num_layers=2, bidirectional=True, **options)
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(flat(layer(x)))
    assert all(map(torch.equal, found[0], found[1]))
    random = any(each in options for each in ("zoneout", "recurrent_dropout", "weight_dropout", "dropout"))
    assert torch.equal(found[0][0], found[2][0]) != random
    layer.eval()
    assert all(map(torch.equal, flat(layer(x)), flat(layer(x))))


@each_case
def test_calls_that_nobody_has_checked_compute_the_same(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, found = make(name, **{**options, "dropout": 0.0}), []
    x = torch.randn(6, 5, 3, dtype=torch.float64, requires_grad=True)
    checked = []

    def prepare(*given: Any) -> Any:
        checked.append(given)
        return type(layer)._prepare(layer, *given)

    monkeypatch.setattr(layer, "_prepare", prepare)
    for training in (True, False):
        layer.train(training)
        for _ in range(2):
            torch.manual_seed(1)
            results = flat(layer(x))
            found.append((*results, *torch.autograd.grad([r.sum() for r in results], (x, *layer.parameters()))))
            monkeypatch.setattr(layer, "_run_unchecked", lambda *_: None)
        monkeypatch.setattr(layer, "_run_unchecked", partial(type(layer)._run_unchecked, layer))
        assert all(map(torch.equal, *found[-2:]))
    assert len(checked) == (4 if options.get("layer_norm") else 2)


# --- Life inside torch ---


@each_case
def test_copies_compute_the_same(name: str, options: dict[str, Any]) -> None:
    layer = make(name, num_layers=2, bidirectional=True, recompute=True, **options)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    other = getattr(fused_rnn, name)(
        3, HIDDEN, num_layers=2, bidirectional=True, recompute=True, dtype=torch.float64, **options
    )
    other.load_state_dict(layer.state_dict())
    x, found = torch.randn(6, 5, 3, dtype=torch.float64), []
    copies = (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False), other)
    for each in (layer, *copies):
        assert repr(each) == repr(layer)
        torch.manual_seed(1)
        found.append(flat(each(x)))
    for result in found[1:]:
        assert all(map(torch.equal, result, found[0]))


def test_names_and_shapes_of_the_parameters() -> None:
    def added(name: str, **options: Any) -> dict[str, tuple[int, ...]]:
        layer = getattr(fused_rnn, name)(3, 5, num_layers=2, bidirectional=True, **options)
        plain = getattr(torch.nn, name)(3, 5, num_layers=2, bidirectional=True).state_dict()
        return {each: tuple(t.shape) for each, t in layer.state_dict().items() if each not in plain}

    ends = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert added("LSTM", peephole=True) == {f"weight_peephole_{end}": (15,) for end in ends}
    for name, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        names = {"gain_ih": 5 * gates, "gain_hh": 5 * gates} | ({"gain_c": 5, "bias_c": 5} if name == "LSTM" else {})
        expected = {f"{each}_{end}": (size,) for end in ends for each, size in names.items()}
        assert added(name, layer_norm=True) == expected
    assert added("LSTM", cell_clip=1.0, zoneout=0.1, recurrent_dropout=0.1, weight_dropout=0.1, recompute=True) == {}


def test_gains_start_from_one_and_the_biases_beside_them_from_zero() -> None:
    layer = fused_rnn.LSTM(3, 5, layer_norm=True)
    for _ in range(2):
        for name, parameter in layer.named_parameters():
            if name.startswith(("gain_", "bias_")):
                assert torch.equal(parameter, torch.full_like(parameter, float(name.startswith("gain_")))), name
            else:
                assert len(values_of(parameter)) > 1
                assert parameter.abs().max() <= 5**-0.5
            torch.nn.init.constant_(parameter, 7.0)
        layer.reset_parameters()


def test_state_dicts_of_other_variants_are_refused() -> None:
    plain, normalized, peephole = (
        fused_rnn.LSTM(3, 5, layer_norm=norm, peephole=own)
        for norm, own in ((False, False), (True, False), (False, True))
    )
    for layer in (plain, torch.nn.LSTM(3, 5)):
        with pytest.raises(RuntimeError, match=r'Missing key.* "gain_ih_l0", "gain_hh_l0", "gain_c_l0", "bias_c_l0"'):
            normalized.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match=r'Missing key.* "weight_peephole_l0"'):
        peephole.load_state_dict(plain.state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key.* "gain_ih_l0"'):
        plain.load_state_dict(normalized.state_dict())
    model = torch.nn.ModuleList([normalized, torch.nn.LSTM(3, 5)])
    assert fused_rnn.convert(model)[0] is normalized
    assert not model[1].layer_norm


def test_the_text_names_the_variants_that_are_on() -> None:
    layer = fused_rnn.LSTM(3, 5, bias=False, layer_norm=True, zoneout=(0.1, 0.2), recompute=True)
    assert repr(layer) == "LSTM(3, 5, bias=False, layer_norm=True, zoneout=(0.1, 0.2), recompute=True)"
    layer = fused_rnn.LSTM(3, 5, peephole=True, cell_clip=3, recurrent_dropout=0.25, weight_dropout=0.5)
    assert repr(layer) == "LSTM(3, 5, recurrent_dropout=0.25, weight_dropout=0.5, peephole=True, cell_clip=3)"


def test_norms_run_by_whole_rows_and_every_other_variant_by_one_call_of_a_sweep() -> None:
    x = torch.zeros(6, 5, 3)
    for name, options in CASES:
        layer = getattr(fused_rnn, name)(3, 5, num_layers=2, **options)
        for training in (True, False):
            layer.train(training)
            found = fused_rnn.explain(layer, x).layers[0]
            normalized = options.get("layer_norm", False)
            assert {each.schedule for each in found.passes} == {"cpu_rows" if normalized else "cpu_sweep"}
            expected = ["apart", "apart"] if normalized else ["whole", "one_call"]
            assert [each.route for each in found.passes] == expected


# --- Errors ---

BAD: tuple[tuple[str, dict[str, Any], type[Exception], str], ...] = (
    *((name, {option: value}, ValueError, rf"{name}: {option} should be a number in range \[0, 1\].*got: {text}")
      for name in ("LSTM", "GRU", "RNN") for option in ("zoneout", "recurrent_dropout", "weight_dropout")
      for value, text in ((-0.1, "-0.1"), (1.5, "1.5"), (float("nan"), "nan"), (True, "True"), ("0.1", "'0.1'"),
                          (None, "None"))),
    *((name, {option: 1}, TypeError, f"{name}: {option} should be of type bool, got: int")
      for name in ("LSTM", "GRU", "RNN") for option in ("layer_norm", "recompute")),
    ("LSTM", {"peephole": 1}, TypeError, "LSTM: peephole should be of type bool, got: int"),
    ("LSTM", {"zoneout": (0.1,)}, ValueError, r"zoneout should be a number, or one for h and one for c, got: \(0.1,\)"),
    ("LSTM", {"zoneout": (0.1, 0.1, 0.1)}, ValueError, "zoneout should be a number, or one for h and one for c"),
    ("LSTM", {"zoneout": (0.1, 2)}, ValueError, r"zoneout should be a number in range \[0, 1\].*got: 2"),
    *((name, {"zoneout": (0.1, 0.1)}, ValueError, f"{name}: zoneout should be one number")
      for name in ("GRU", "RNN")),
    *(("LSTM", {"cell_clip": value}, ValueError, "cell_clip should be a number above 0, or None, got: ")
      for value in (0, -1.0, float("nan"), True, "1")),
    *((name, option, ValueError, f"{name}: {next(iter(option))} needs a cell state, which only the LSTM has")
      for name in ("GRU", "RNN") for option in ({"peephole": True}, {"cell_clip": 1.0})),
    *(("LSTM", {"layer_norm": True, **o}, ValueError, f"{next(iter(o))} and layer_norm together are not supported")
      for o in ({"peephole": True}, {"cell_clip": 1.0})),
    *(("LSTM", {"proj_size": 2, "zoneout": value}, ValueError, "zoneout and proj_size together are not supported")
      for value in (0.1, (0.0, 0.1))),
    ("GRU", {"proj_size": 2, "zoneout": 0.1}, ValueError, "proj_size argument is only supported for LSTM"),
    ("LSTM", {"layernorm": True}, TypeError, "layernorm"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "options", "kind", "message"), BAD, ids=[f"{n}-{o}" for n, o, *_ in BAD])
def test_bad_options_raise_with_their_name(
    name: str, options: dict[str, Any], kind: type[Exception], message: str
) -> None:  # fmt: skip
    with pytest.raises(kind, match=message):
        getattr(fused_rnn, name)(3, 5, **options)


def test_a_projection_by_position_is_seen() -> None:
    with pytest.raises(ValueError, match="zoneout and proj_size together are not supported"):
        fused_rnn.LSTM(3, 5, 1, True, False, 0.0, False, 2, zoneout=0.1)


def test_variants_have_no_position() -> None:
    for name, count in (("LSTM", 10), ("RNN", 11), ("GRU", 10)):
        given = (3, 5, 1, *(("tanh",) if name == "RNN" else ()), True, False, 0.0, False, 0, None, None)
        assert len(given) == count
        with pytest.raises(TypeError, match="positional argument"):
            getattr(fused_rnn, name)(*given, True)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_have_no_variants(name: str) -> None:
    with pytest.raises(TypeError, match="layer_norm"):
        partial(getattr(fused_rnn, name), 3, 5)(layer_norm=True)
