"""Models of LSTMs and GRUs from the JSON files that audio plug-ins load.

Two formats are known. One has the layers of a Keras model, as RTNeural's Python script and AIDA-X write them. The other
has `model_data` and the `state_dict` of a PyTorch model, an LSTM or GRU `rec` and a Linear `lin`, as GuitarML's trainer
writes it.
"""

from __future__ import annotations

import json
import os  # noqa: TC003 - annotations are looked up
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fused_rnn._keras import keras_parameters
from fused_rnn.stream import Chain

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
_RECURRENT: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


def _tensor(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def _fill(module: nn.Module, given: dict[str, Tensor]) -> nn.Module:
    """The module with these parameters, which are all that it has."""
    for name, parameter in module.named_parameters():
        tensor = given.get(name)
        if tensor is None or tensor.shape != parameter.shape:
            got = "nothing" if tensor is None else list(tensor.shape)
            raise ValueError(f"the file must have {name} of shape {list(parameter.shape)} for {module}, got {got}")
        parameter.data = tensor
    return module


def _activation(name: str) -> nn.Module:
    if name == "softmax":
        return nn.Softmax(dim=-1)
    if name not in _ACTIVATIONS:
        raise NotImplementedError(f"the file has the activation {name!r}, which a stream does not compute")
    return _ACTIVATIONS[name]()


def _keras_recurrent(kind: str, weights: list[Tensor]) -> nn.Module:
    if kind == "gru" and len(weights) > 2 and weights[2].ndim != 2:
        raise NotImplementedError("the file has a GRU with reset_after=False, which torch.nn has no cell for")
    given = keras_parameters(kind.upper(), weights)
    module = _RECURRENT[kind](given["weight_ih"].shape[1], given["weight_hh"].shape[1], bias=len(weights) > 2)
    return _fill(module, {f"{name}_l0": tensor for name, tensor in given.items()})


def _keras_modules(layer: dict[str, Any]) -> list[nn.Module]:
    """Those of a layer of the first format: itself, and its activation."""
    kind, activation = layer["type"], layer.get("activation") or ""
    weights = [_tensor(values) for values in layer.get("weights", [])]
    if kind in _RECURRENT:
        if activation not in {"", "tanh"} or len(weights) not in {2, 3}:
            raise NotImplementedError(f"the file has a layer {kind} with other activations or weights")
        return [_keras_recurrent(kind, weights)]
    if kind == "activation":
        return [_activation(activation)]
    if kind not in {"dense", "time-distributed-dense"}:
        raise NotImplementedError(f"the file has a layer {kind!r}: it may have lstm, gru, dense and activation")
    names = ("weight", "bias")
    inputs, outputs = weights[0].shape
    linear = nn.Linear(inputs, outputs, bias=len(weights) > 1)
    made = _fill(linear, dict(zip(names, (weights[0].T.contiguous(), *weights[1:]), strict=False)))
    return [made, _activation(activation)] if activation else [made]


def _from_state_dict(model: dict[str, Any]) -> Chain:
    """A model of the second format."""
    said = model["model_data"]
    given = {name: _tensor(values) for name, values in model["state_dict"].items()}
    kind = str(said["unit_type"]).lower()
    if kind not in _RECURRENT:
        raise NotImplementedError(f"the file has a layer {kind!r}: it may have lstm and gru")
    sizes = (said["input_size"], said["hidden_size"], said.get("num_layers", 1))
    recurrent = _RECURRENT[kind](*sizes, bias=bool(said.get("bias_fl", True)))
    linear = nn.Linear(said["hidden_size"], said["output_size"], bias="lin.bias" in given)
    for name, module in (("rec.", recurrent), ("lin.", linear)):
        _fill(module, {key.removeprefix(name): value for key, value in given.items() if key.startswith(name)})
    return Chain(recurrent, linear, residual=_is_residual(said.get("skip", 0)))


def _is_residual(skip: int) -> bool:
    if skip not in {0, 1}:
        raise NotImplementedError(f"the file adds {skip} inputs to the output; it may add none or one")
    return skip == 1


def read_json_model(path: str | os.PathLike[str]) -> Chain:
    """Read a model of an LSTM or GRU from a JSON file that audio plug-ins load.

    The file has the layers of a Keras model, as RTNeural's script `model_utils.py` and AIDA-X write it, or the
    `state_dict` of a PyTorch model, as GuitarML's trainer does.

    Args:
        path: of the file. Its layers may be LSTM, GRU with reset_after=True, dense and activation.

    Returns:
        The model on the CPU, of float32 modules of `torch.nn`, with a residual where the file asks for one.

    Raises:
        ValueError: the file is no JSON, or is no model of these formats, or its sizes do not fit together.
        NotImplementedError: a layer, an activation or an option that a stream does not compute.
        OSError: the file cannot be read.

    Example::

        effect = fused_rnn.read_json_model("amplifier.json")
        fused_rnn.save_stream(effect, "amplifier.frnn")
    """
    try:
        model = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"the file is no JSON: {error}") from None
    if not isinstance(model, dict) or not ("layers" in model or {"model_data", "state_dict"} <= model.keys()):
        raise ValueError("the file must have layers, or model_data and state_dict")
    try:
        if "layers" not in model:
            return _from_state_dict(model)
        if model.get("in_gain") or model.get("out_gain"):
            raise NotImplementedError("the file has in_gain or out_gain, which a stream does not compute")
        modules = [module for layer in model["layers"] for module in _keras_modules(layer)]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the file has a layer without what it needs: {error!r}") from error
    return Chain(*modules, residual=_is_residual(model.get("in_skip") or 0))
