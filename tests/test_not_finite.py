"""One infinite value or NaN, at any place, reaches what it reaches in torch.nn, in results and gradients.

Held to torch.nn in float64 on the same values: where it is finite, so are we, and close. Where it is not, neither need
we be; for there torch.nn may have a NaN and we an infinity, since our sigmoid is at least 1.2e-38 and torch's becomes
zero, which times infinity is NaN.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn

# Of torch.nn, which is what results are compared with.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

if TYPE_CHECKING:
    from collections.abc import Iterator

TIME_STEPS, BATCH = 4, 2
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    "projected": ("LSTM", {"proj_size": 3}),
    "GRU": ("GRU", {}),
    "RNN": ("RNN", {}),
    "RNN_RELU": ("RNN", {"nonlinearity": "relu"}),
}
# Input and hidden sizes: even and short of a vector, odd (half of a pair), one more than a vector.
SIZES = [(2, 4), (3, 5), (9, 17)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


def tensors_of(layer: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Everything that the results depend on."""
    layers = 2 if layer.bidirectional else 1
    tensors = {"x": torch.randn(TIME_STEPS, BATCH, layer.input_size), **dict(layer.named_parameters())}
    tensors["h_0"] = torch.randn(layers, BATCH, layer.proj_size or layer.hidden_size)
    if layer.mode == "LSTM":
        tensors["c_0"] = torch.randn(layers, BATCH, layer.hidden_size)
    return {name: tensor.detach().to(dtype) for name, tensor in tensors.items()}


def results_of(layer: Any, tensors: dict[str, torch.Tensor], with_gradients: bool) -> dict[str, torch.Tensor]:
    inputs = {name: tensor.clone().requires_grad_(with_gradients) for name, tensor in tensors.items()}
    parameters = {name: inputs[name] for name, _ in layer.named_parameters()}
    state = (inputs["h_0"], inputs["c_0"]) if layer.mode == "LSTM" else inputs["h_0"]
    output, final = torch.func.functional_call(layer, parameters, (inputs["x"], state))
    results = {"output": output, "h_n": final[0] if layer.mode == "LSTM" else final}
    if layer.mode == "LSTM":
        results["c_n"] = final[1]
    if with_gradients:
        weights = [torch.linspace(0.5, 1.5, each.numel(), dtype=each.dtype).view_as(each) for each in results.values()]
        gradients = torch.autograd.grad(list(results.values()), list(inputs.values()), weights)
        results |= {f"gradient of {name}": each for name, each in zip(inputs, gradients, strict=True)}
    return {name: each.detach() for name, each in results.items()}


def cases(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The last element of each tensor, beside which the padding lies, and one in the middle of x."""
    places = [(name, tuple(size - 1 for size in tensor.shape)) for name, tensor in tensors.items()] + [("x", (1, 0, 0))]
    for (name, place), value in itertools.product(places, (torch.inf, -torch.inf, torch.nan)):
        changed = {**tensors, name: tensors[name].clone()}
        changed[name][place] = value
        yield f"{name}{place} = {value}", changed


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", KINDS)
def test_what_torch_has_finite_is_finite_and_close(name: str, dtype: torch.dtype, bidirectional: bool) -> None:
    kind, options = KINDS[name]
    # In the half types a sum that rounds to the other side of relu's kink changes the gradients behind it, with finite
    # values and in torch.nn, too: there they are finite, and no more can be said.
    kinks = name == "RNN_RELU" and dtype in {torch.bfloat16, torch.float16}
    for input_size, hidden_size in SIZES:
        plain = getattr(torch.nn, kind)(input_size, hidden_size, bidirectional=bidirectional, **options).double()
        layer = fused_rnn.convert(copy.deepcopy(plain)).to(dtype)
        for what, tensors in cases(tensors_of(layer, dtype)):
            expected = results_of(plain, {key: each.double() for key, each in tensors.items()}, True)
            for with_gradients in (True, False):
                for result, actual in results_of(layer, tensors, with_gradients).items():
                    finite = expected[result].isfinite()
                    right, ours = expected[result][finite], actual.double()[finite]
                    scale = 1.0 + (right.abs().max().item() if right.numel() else 0.0)
                    assert ours.isfinite().all(), f"{what}, sizes {input_size}, {hidden_size}: {result}"
                    if kinks and result.startswith("gradient"):
                        continue
                    error = (ours - right).abs().max().item() / scale if right.numel() else 0.0
                    assert error < TOLERANCES[dtype], f"{what}, sizes {input_size}, {hidden_size}: {result} off {error}"


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", KINDS)
def test_a_step_and_a_stepper_do_the_same(name: str) -> None:
    kind, options = KINDS[name]
    for input_size, hidden_size in SIZES:
        plain = getattr(torch.nn, kind)(input_size, hidden_size, **options)
        layer = fused_rnn.convert(copy.deepcopy(plain)).requires_grad_(False)
        stepper = fused_rnn.Stepper(layer, BATCH)
        for what, tensors in cases({key: t for key, t in tensors_of(layer, torch.float32).items() if len(key) < 4}):
            state = (tensors["h_0"], tensors["c_0"]) if layer.mode == "LSTM" else tensors["h_0"]
            expected = plain(tensors["x"][-1:], state)[0][0].detach()
            stepper.state = state
            for actual in (layer(tensors["x"][-1:], state)[0][0], stepper.step(tensors["x"][-1])):
                finite = expected.isfinite()
                assert torch.allclose(actual[finite], expected[finite], atol=1e-4), f"{what}, {hidden_size}"
