"""int8 layers on every instruction set of this machine: exact sums, so that only activations may differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fused_rnn import _ops
from tests.warm_python import python

SETS = _ops.instruction_sets()
FUSED = [name for name in SETS if name != "baseline"]  # whose multiplication and addition are rounded once
PROGRAM = """
import sys, torch, fused_rnn
torch.manual_seed(0)
torch.set_num_threads(1)
results = {}
for name, make in {
    "relu": lambda: fused_rnn.RNN(37, 70, 2, nonlinearity="relu", bidirectional=True),
    "lstm": lambda: fused_rnn.LSTM(37, 70, proj_size=33),
    "gru": lambda: fused_rnn.GRU(37, 70),
}.items():
    layer, x = fused_rnn.quantize(make()), torch.randn(9, 5, 37)
    results[name] = layer(x)[0]
    results[name + ", one step"] = layer(x[:1])[0]
torch.save(results, sys.argv[1])
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Of every set, by what was computed."""
    found = {}
    for name in SETS:
        path = tmp_path_factory.mktemp(name) / "results.pt"
        python("-c", PROGRAM, str(path), FUSED_RNN_CPU_ISA=name).check_returncode()
        found[name] = torch.load(path)
    return found


def test_a_cell_without_exponentials_has_the_same_bits_on_all_sets(results: dict[str, dict[str, Tensor]]) -> None:
    for name in FUSED:
        assert torch.equal(results[name]["relu"], results[FUSED[0]]["relu"]), name


@pytest.mark.parametrize("what", ["relu", "lstm", "gru"])
def test_a_step_differs_by_roundings_of_float32_alone(what: str, results: dict[str, dict[str, Tensor]]) -> None:
    for name in SETS:
        expected = results[SETS[-1]][f"{what}, one step"]
        torch.testing.assert_close(results[name][f"{what}, one step"], expected, rtol=2e-6, atol=5e-7, msg=name)


@pytest.mark.parametrize("what", ["relu", "lstm", "gru"])
def test_a_sequence_differs_by_few_roundings_to_int8(what: str, results: dict[str, dict[str, Tensor]]) -> None:
    """A state that differs in its last place may be rounded to the other of two integers."""
    for name in SETS:
        expected = results[SETS[-1]][what]
        difference = (results[name][what] - expected).abs()
        assert difference.max() < 0.02 * expected.abs().max(), name
        assert (difference > 1e-5).double().mean() < 0.2, name
