"""One layer and the stack: layouts, directions, dropout masks and autocast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from fused_rnn._layers import LayerSpec, run_layer, run_stack
from fused_rnn._tensors import DirectionWeights
from tests import reference
from tests.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from torch import Tensor

CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def draw_weights(
    cell: str,
    input_size: int,
    hidden_size: int,
    proj: int = 0,
    dtype: torch.dtype = torch.float64,
    *,
    bias: bool = True,
) -> DirectionWeights:
    units, width = reference.GATES[cell] * hidden_size, proj or hidden_size

    def draw(*shape: int) -> Tensor:
        return (torch.rand(shape, dtype=dtype) - 0.5).requires_grad_()

    w_ih, w_hh = draw(units, input_size), draw(units, width)
    b_ih, b_hh = (draw(units), draw(units)) if bias else (None, None)
    return DirectionWeights(w_ih, w_hh, b_ih, b_hh, draw(proj, hidden_size) if proj else None)


def named(layers: list[list[DirectionWeights]]) -> dict[str, Tensor]:
    """The weights under torch.nn's names."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    found: dict[str, Tensor] = {}
    for index, directions in enumerate(layers):
        for weights, suffix in zip(directions, ("", "_reverse"), strict=False):
            found |= {f"{name}_l{index}{suffix}": t for name, t in zip(names, weights, strict=False) if t is not None}
    return found


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("cell", "proj"), [*((cell, 0) for cell in CELLS), ("lstm", 2)])
def test_a_stack_matches_the_oracle_with_all_gradients(cell: str, proj: int, directions: int, bias: bool) -> None:
    width = directions * (proj or 5)
    layers = [[draw_weights(cell, i, 5, proj, bias=bias) for _ in range(directions)] for i in (3, width, width)]
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    h_0 = torch.randn(3 * directions, 2, proj or 5, dtype=torch.float64, requires_grad=True)
    c_0 = torch.randn(3 * directions, 2, 5, dtype=torch.float64, requires_grad=True) if cell == "lstm" else None
    output, h_n, c_n, _ = run_stack(LayerSpec(cell, 5), x, layers, h_0, c_0)
    expected = reference.stack(cell, x, named(layers), h_0, c_0)
    actual = [output, h_n, *([c_n] if expected.c_n is not None else [])]
    wanted = [t for t in expected[:3] if t is not None]
    inputs = [x, h_0, *([c_0] if c_0 is not None else []), *named(layers).values()]
    d_outputs = [torch.randn_like(t) for t in actual]
    for one, other in zip(actual, wanted, strict=True):
        assert relative_error(one, other) <= TOLERANCES[torch.float64].outputs
    found = torch.autograd.grad(actual, inputs, d_outputs)
    for one, other in zip(found, reference.gradients(wanted, inputs, d_outputs), strict=True):
        assert relative_error(one, other) <= TOLERANCES[torch.float64].gradients


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_layout_of_the_input_does_not_matter(cell: str, grad: bool) -> None:
    weights = [draw_weights(cell, 6, 5, dtype=torch.float64) for _ in range(2)]
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    layouts = [
        x,
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        torch.stack([x, x], 3)[..., 0],
        x.repeat(2, 1, 1)[:4],
    ]
    with torch.set_grad_enabled(grad):
        results = [run_layer(LayerSpec(cell, 5), each, weights) for each in layouts]
    for result in results[1:]:
        assert relative_error(result.output, results[0].output) <= TOLERANCES[torch.float64].outputs


def test_a_batch_major_input_is_projected_where_it_lies() -> None:
    weights = [draw_weights("gru", 6, 5, bias=False)]
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    with torch.no_grad(), torch.profiler.profile() as profile:
        run_layer(LayerSpec("gru", 5), x.transpose(0, 1), weights)
    assert not [event.name for event in profile.events() if event.name in ("aten::copy_", "aten::clone")]


def test_one_direction_copies_no_weights() -> None:
    weights = [draw_weights("lstm", 6, 5, bias=False)]  # the library copies a bias
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    with torch.no_grad(), torch.profiler.profile() as profile:
        run_layer(LayerSpec("lstm", 5), x, weights)
    assert not [event.name for event in profile.events() if event.name in ("aten::copy_", "aten::cat", "aten::stack")]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_dropout_draws_the_masks_of_torch(name: str, batch_first: bool, bidirectional: bool) -> None:
    import fused_rnn

    options = {"num_layers": 3, "dropout": 0.5, "batch_first": batch_first, "bidirectional": bidirectional}
    ours = getattr(fused_rnn, name)(3, 20, **options)
    theirs = getattr(torch.nn, name)(3, 20, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 4, 3)
    torch.manual_seed(1)
    output = ours(x)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(output, theirs(x)[0])
    assert not torch.equal(output, ours(x)[0])


def test_dropout_of_one_drops_everything_between_layers() -> None:
    layers = [[draw_weights("gru", 3, 5, bias=False)], [draw_weights("gru", 5, 5, bias=False)]]
    output, *_ = run_stack(LayerSpec("gru", 5), torch.randn(4, 2, 3, dtype=torch.float64), layers, dropout=1.0)
    assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_autocast_gives_gradients_in_the_weights_type(cell: str, dtype: torch.dtype) -> None:
    for proj in (0, 3) if cell == "lstm" else (0,):
        layers = [[draw_weights(cell, i, 9, proj, torch.float32) for _ in range(2)] for i in (3, 2 * (proj or 9))]
        x = torch.randn(4, 2, 3, requires_grad=True)
        h_0 = torch.randn(4, 2, proj or 9, requires_grad=True)
        c_0 = torch.randn(4, 2, 9, requires_grad=True) if cell == "lstm" else None
        with torch.autocast("cpu", dtype=dtype):
            output, h_n, *_ = run_stack(LayerSpec(cell, 9), x, layers, h_0, c_0)
        assert output.dtype == h_n.dtype == (torch.float32 if cell == "gru" else dtype)  # h_0 is float32
        inputs = [x, h_0, *named(layers).values()]
        gradients = torch.autograd.grad(output.sum() + h_n.sum(), inputs)
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        expected = reference.stack(cell, x.double(), {n: t.double() for n, t in named(layers).items()},
                                   h_0.double(), None if c_0 is None else c_0.double())  # fmt: skip
        assert relative_error(output, expected.output.detach()) <= TOLERANCES[dtype].outputs


def test_autocast_leaves_float64_alone() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = run_layer(LayerSpec("gru", 5), torch.randn(4, 2, 3, dtype=torch.float64), [draw_weights("gru", 3, 5)])
    assert result.output.dtype == torch.float64
