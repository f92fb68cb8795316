"""Which float layers and cells can have int8 weights, and the weights that they have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from fused_rnn._int8_layers import LARGEST_SIZE
from fused_rnn._recurrent_layer import RecurrentLayer
from fused_rnn._swap import given_weights, own_behaviour
from fused_rnn._variants import changing


def why_not_quantized(module: torch.nn.Module, base: type[torch.nn.Module]) -> list[str]:
    """Why a float layer stays, as phrases that follow the name of its class."""
    reasons = []
    own = own_behaviour(module, base)
    if own:
        reasons.append(f"has its own {', '.join(own)}")
    if isinstance(module, RecurrentLayer):
        asked = changing(module._variants()._replace(training=False))
        reasons += [f"has {name}={getattr(module, name)}" for name, there in asked.items() if there]
    sizes = {name: getattr(module, name) for name in ("input_size", "hidden_size")}
    reasons += [f"has {name}={size}" for name, size in sizes.items() if not 1 <= size <= LARGEST_SIZE]
    return reasons + _why_weights_are_not_quantized(module)


def _why_weights_are_not_quantized(module: torch.nn.Module) -> list[str]:
    weights = float_weights(module)
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor):
            return [f"has no {name}"]
        if name not in module._parameters and not parametrize.is_parametrized(module, name):
            return [f"has a {name} that is no parameter"]
        if tensor.dtype != torch.float32:
            return [f"has a {name} of {tensor.dtype}"]
        if not tensor.is_cpu:
            return [f"has a {name} on {tensor.device}"]
    return []


def suffixes_of(module: torch.nn.Module) -> list[list[str]]:
    """What the names of the parameters of each direction of each layer end with."""
    if not isinstance(module, torch.nn.RNNBase):
        return [[""]]
    endings = ("", "_reverse") if module.bidirectional else ("",)
    return [[f"_l{index}{end}" for end in endings] for index in range(module.num_layers)]


def float_weights(module: torch.nn.Module) -> dict[str, Any]:
    """By name, the tensors that the next call of a float layer or cell would use."""
    if isinstance(module, torch.nn.RNNBase):
        names = module._flat_weights_names
    else:
        names = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ())]
    held = [getattr(module, name, None) for name in names]
    return dict(zip(names, given_weights(module) or held, strict=True))
