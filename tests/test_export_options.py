"""An option that changes no result in eval mode stops no export, and what is exported serves other lengths, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch

import fused_rnn
from fused_rnn._variants import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[[torch.Tensor], Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.trace.*` is (deprecated|not supported):DeprecationWarning"),
]

OPTIONS: dict[str, Any] = {
    "layer_norm": True,
    "zoneout": 0.25,
    "recurrent_dropout": 0.5,
    "weight_dropout": 0.5,
    "peephole": True,
    "cell_clip": 0.05,
    "recompute": True,
    "dropout": 0.5,
}
CHANGING = {"layer_norm", "zoneout", "peephole", "cell_clip"}
LENGTH, OTHER = 40, 93  # of the export: more than a segment of recompute; and another


def layer(**options: Any) -> Any:
    torch.manual_seed(0)
    made = fused_rnn.LSTM(3, 5, num_layers=2, **options).eval()
    for name, parameter in made.named_parameters():
        if "peephole" in name:
            torch.nn.init.normal_(parameter)
    return made


def by_onnx(module: torch.nn.Module) -> Run:
    steps = {0: torch.export.Dim("T")}
    program = torch.onnx.export(
        module, (torch.randn(LENGTH, 2, 3),), dynamo=True, dynamic_shapes=(steps,), verbose=False
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def by_export(module: torch.nn.Module) -> Run:
    steps = {0: torch.export.Dim("T")}
    program = torch.export.export(module, (torch.randn(LENGTH, 2, 3),), dynamic_shapes=(steps,)).module()
    return lambda x: program(x)[0]


def by_trace(module: torch.nn.Module) -> Run:
    traced: Any = torch.jit.trace(module, (torch.randn(LENGTH, 2, 3),))  # type: ignore[no-untyped-call]
    return lambda x: traced(x)[0]


def test_every_option_is_looked_at() -> None:
    assert OPTIONS.keys() == {*NAMES, "dropout"}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_change_results_are_told_from_the_others(name: str) -> None:
    x = torch.randn(LENGTH, 2, 3)
    same = torch.equal(layer()(x)[0], layer(**{name: OPTIONS[name]})(x)[0])
    assert same is (name not in CHANGING)


@pytest.mark.parametrize("export", [by_onnx, by_export, by_trace])
def test_options_without_effect_stop_no_export(export: Callable[[torch.nn.Module], Run]) -> None:
    run = export(layer(**{name: value for name, value in OPTIONS.items() if name not in CHANGING}))
    for length in (LENGTH, OTHER):
        x = torch.randn(length, 2, 3)
        torch.testing.assert_close(run(x), layer()(x)[0], rtol=1e-5, atol=1e-6)
