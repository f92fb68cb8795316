"""Tests the reader of JSON models: made of torch's modules in the layout of each format, they compute the same."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import fused_rnn

if TYPE_CHECKING:
    from pathlib import Path


def keras_rows(rows: Tensor, kind: str) -> Tensor:
    """Gates r z n of a GRU as z r h."""
    parts = rows.chunk(3)
    return torch.cat((parts[1], parts[0], parts[2])) if kind == "gru" else rows


def keras_recurrent(module: nn.RNNBase) -> dict[str, Any]:
    """The layer as Keras has it: [inputs, gates], and for an LSTM the sum of the biases."""
    kind = module.mode.lower()
    w_ih, w_hh, b_ih, b_hh = (keras_rows(each.detach(), kind) for each in module.parameters())
    bias = b_ih + b_hh if kind == "lstm" else torch.stack((b_ih, b_hh))
    weights = [w_ih.T.tolist(), w_hh.T.tolist(), bias.tolist()]
    return {"type": kind, "activation": "tanh", "shape": [None, None, module.hidden_size], "weights": weights}


def keras_dense(module: nn.Linear, activation: str) -> dict[str, Any]:
    weights = [module.weight.T.tolist(), module.bias.tolist()]
    return {"type": "dense", "activation": activation, "shape": [None, None, module.out_features], "weights": weights}


def read(folder: Path, model: Any) -> fused_rnn.Chain:
    (folder / "model.json").write_text(json.dumps(model), encoding="utf-8")
    return fused_rnn.read_json_model(folder / "model.json")


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_keras_model_is_the_one_it_was_made_of(kind: str, residual: bool, tmp_path: Path) -> None:
    first, middle, last = getattr(nn, kind)(2, 5), nn.Linear(5, 4), nn.Linear(4, 2)
    layers = [keras_recurrent(first), keras_dense(middle, "sigmoid"), keras_dense(last, "")]
    layers.append({"type": "activation", "activation": "softmax", "weights": []})
    model = read(tmp_path, {"in_shape": [None, None, 2], "in_skip": int(residual), "layers": layers})
    x = torch.randn(9, 1, 2)
    expected = fused_rnn.Chain(first, middle, nn.Sigmoid(), last, nn.Softmax(dim=-1), residual=residual)(x)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    fused_rnn.save_stream(model, tmp_path / "model.frnn")


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_state_dict_is_the_model_it_was_made_of(kind: str, tmp_path: Path) -> None:
    recurrent, linear = getattr(nn, kind)(1, 6, 2), nn.Linear(6, 1)
    state = {f"rec.{name}": value.tolist() for name, value in recurrent.state_dict().items()}
    state |= {f"lin.{name}": value.tolist() for name, value in linear.state_dict().items()}
    said = {"input_size": 1, "skip": 1, "output_size": 1, "unit_type": kind, "num_layers": 2, "hidden_size": 6}
    model, x = read(tmp_path, {"model_data": said, "state_dict": state}), torch.randn(9, 1, 1)
    assert torch.equal(model(x), fused_rnn.Chain(recurrent, linear, residual=True)(x))
    fused_rnn.save_stream(model, tmp_path / "model.frnn")


def test_layers_may_have_no_biases(tmp_path: Path) -> None:
    layer = keras_recurrent(nn.GRU(1, 3))
    layer["weights"] = layer["weights"][:2]
    (module,) = read(tmp_path, {"layers": [layer]})
    assert len(list(module.parameters())) == 2


DENSE = keras_dense(nn.Linear(2, 3), "")
GRU = keras_recurrent(nn.GRU(1, 3))
REFUSED: list[tuple[Any, type[Exception], str]] = [
    ([], ValueError, "must have layers, or model_data and state_dict"),
    ({"layers": [{"type": "conv1d"}]}, NotImplementedError, "a layer 'conv1d'"),
    ({"layers": [{**DENSE, "activation": "elu"}]}, NotImplementedError, "the activation 'elu'"),
    ({"layers": [{**GRU, "activation": "relu"}]}, NotImplementedError, "gru with other activations"),
    ({"layers": [{**GRU, "weights": [*GRU["weights"][:2], [0.0] * 9]}]}, NotImplementedError, "reset_after=False"),
    ({"layers": [{**GRU, "weights": [*GRU["weights"][:2], [[0.0] * 6] * 2]}]}, ValueError, "bias_ih_l0 of shape [9]"),
    ({"layers": [{**DENSE, "weights": []}]}, ValueError, "without what it needs"),
    ({"layers": [DENSE], "in_skip": 2}, NotImplementedError, "adds 2 inputs"),
    ({"layers": [DENSE], "in_gain": 3.0}, NotImplementedError, "in_gain"),
    ({"model_data": {"unit_type": "RNN"}, "state_dict": {}}, NotImplementedError, "a layer 'rnn'"),
    ({"model_data": {"unit_type": "GRU"}, "state_dict": {}}, ValueError, "without what it needs"),
]


@pytest.mark.parametrize(("model", "error", "words"), REFUSED, ids=lambda each: str(each)[:40])
def test_a_file_is_refused_in_words(model: Any, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=re.escape(words)):
        read(tmp_path, model)


def test_what_is_no_json_is_told(tmp_path: Path) -> None:
    for content in (b"\x89FRNN", b"{"):
        (tmp_path / "model.json").write_bytes(content)
        with pytest.raises(ValueError, match="the file is no JSON: "):
            fused_rnn.read_json_model(tmp_path / "model.json")
