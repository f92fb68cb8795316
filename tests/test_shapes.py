"""All tensors of a call are on one device: what is on another is named before anything is computed.

Such a call reaches the shape rules if nobody looks, and gave freed memory as numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fused_rnn
from tests.test_in_place import CELLS, LAYERS, flat

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES: tuple[tuple[str, dict[str, Any]], ...] = (
    *LAYERS,
    *CELLS,
    ("LSTM", {"layer_norm": True, "bidirectional": True}),
    ("LSTM", {"peephole": True, "num_layers": 2}),
    ("LSTM", {"zoneout": 0.5, "recurrent_dropout": 0.5, "weight_dropout": 0.5}),
    ("GRU", {"bias": False}),
)
each_module = pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
each_mode = pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])


def make(name: str, options: dict[str, Any]) -> tuple[Any, Tensor, tuple[Tensor, ...]]:
    """A module, its input and its states."""
    module = getattr(fused_rnn, name)(3, 8, **options)
    dtype = options.get("dtype", torch.float32)
    if name.endswith("Cell"):
        states: Any = [torch.zeros(2, 8, dtype=dtype)] * 2
        return module, torch.randn(2, 3, dtype=dtype), tuple(states[: 1 + (name == "LSTMCell")])
    rows = len(module.all_weights)
    states = [torch.zeros(rows, 2, width, dtype=dtype) for width in (module.proj_size or 8, 8)]
    return module, torch.randn(2, 2, 3, dtype=dtype), tuple(states[: 1 + (name == "LSTM")])


def calls(module: Any, x: Tensor, states: tuple[Tensor, ...]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An input and keywords for every way through a module."""
    hx = states if len(states) == 2 else states[0]
    yield x, {}
    yield x, {"hx": hx}
    if isinstance(module, torch.nn.RNNBase):
        lengths = torch.tensor([2, 1])
        yield x, {"hx": hx, "lengths": lengths}
        yield x, {"resets": torch.ones(2, 2, dtype=torch.bool)}
        yield pack_padded_sequence(x, lengths, batch_first=module.batch_first), {"hx": hx}


@each_mode
@each_module
def test_a_parameter_elsewhere_is_named(name: str, options: dict[str, Any], grad: bool) -> None:
    module, x, states = make(name, options)
    for parameter, held in list(module.named_parameters()):
        setattr(module, parameter, torch.nn.Parameter(held.detach().to("meta")))
        for given, keywords in calls(module, x, states):
            message = f"^Input and parameter tensors are not at the same device, .*: {parameter} must be on cpu$"
            with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
                module(given, **keywords)
        setattr(module, parameter, held)


@each_mode
@each_module
def test_a_state_elsewhere_is_named(name: str, options: dict[str, Any], grad: bool) -> None:
    module, x, states = make(name, options)
    for index in range(len(states)):
        moved = tuple(state.to("meta") if i == index else state for i, state in enumerate(states))
        label = f"hx\\[{index}\\]" if len(states) == 2 else "hx"
        for given, keywords in calls(module, x, moved):
            if "hx" in keywords:
                message = f"^Input and hidden tensors are not at the same device, .*: {label} must be on cpu$"
                with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
                    module(given, **keywords)


@each_mode
@each_module
def test_an_input_elsewhere_is_refused(name: str, options: dict[str, Any], grad: bool) -> None:
    module, x, states = make(name, options)
    for given, keywords in calls(module, x, states):
        message = "tensors are not at the same device, found input tensor at meta|is on device cpu but input is on meta"
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
            module(given.to("meta"), **keywords)


def test_an_order_of_rows_elsewhere_is_refused() -> None:
    packed = pack_padded_sequence(torch.randn(3, 2, 3), torch.tensor([1, 3]), enforce_sorted=False)
    for name in ("sorted_indices", "unsorted_indices"):
        fields = {**packed._asdict(), name: getattr(packed, name).to("meta")}
        with pytest.raises(RuntimeError, match=f"input.{name} is on device meta but input.data is on cpu"):
            fused_rnn.LSTM(3, 8)(PackedSequence(**fields))


@each_mode
@each_module
def test_all_on_the_meta_device_is_a_call(name: str, options: dict[str, Any], grad: bool) -> None:
    module, x, states = make(name, options)
    there = make(name, {**options, "device": "meta"})[0]
    for given, keywords in calls(module, x, states):
        moved: dict[str, Any] = torch.utils._pytree.tree_map(lambda t: t.to("meta"), keywords)
        with torch.set_grad_enabled(grad):
            found, wanted = there(given.to("meta"), **moved), module(given, **keywords)
        for one, other in zip(flat(found), flat(wanted), strict=True):
            assert one.shape == other.shape


def operator_names() -> list[str]:
    """Those of every operator of the library."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix("fused_rnn::") for name in names if name.startswith("fused_rnn::"))


def arguments_of(operator: Any) -> dict[str, Any]:
    """Some tensor for every argument that may be one; a shape rule looks at the devices first."""
    values = {"str": "lstm", "int": 1, "bool": True, "float": 0.5}
    found = {}
    for argument in operator._schema.arguments:
        kind = str(argument.type).removeprefix("Optional[").removesuffix("]")
        found[argument.name] = torch.zeros(1, 1, 1, 1, 1) if kind == "Tensor" else values[kind]
    return found


@pytest.mark.parametrize("name", operator_names())
def test_an_operator_refuses_each_tensor_elsewhere(name: str) -> None:
    operator = getattr(torch.ops.fused_rnn, name).default
    arguments = arguments_of(operator)
    tensors = [key for key, value in arguments.items() if isinstance(value, Tensor)]
    assert len(tensors) > 1
    model = next(key for key in ("x", "gates", "output", "left") if key in tensors)
    for key in tensors:
        moved = {**arguments, key: arguments[key].to("meta")}
        message = (
            r"^fused_rnn: \w+ must be on the device of \w+, meta, got cpu$"
            if key == model
            else f"^fused_rnn: {key} must be on the device of {model}, cpu, got meta$"
        )
        with pytest.raises(RuntimeError, match=message):
            operator(*moved.values())
