"""The comparison of two versions sees one bit that changed, and its problems cover what the kernels can do."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
import torch

from build_support.toolchain import ROOT
from tools.compare_bits import PROBLEMS, differing, digest, hashes, main, problem, work

if TYPE_CHECKING:
    from pathlib import Path

# A folder of fused_rnn as it is here, but that a GRU's last value has another last bit.
CHANGED = """
__path__ = [{path!r}]
exec(open({path!r} + "/__init__.py").read())
_forward = GRU.forward
def _changed(self, *args, **kwargs):
    output, h_n = _forward(self, *args, **kwargs)
    bits = h_n.detach().view(__import__("torch").int32)
    bits[-1, -1, -1] ^= 1
    return output, h_n
GRU.forward = _changed
"""


def gru() -> int:
    """The first problem of a layer of GRUs with states [L*D, B, H] of float32."""
    return next(
        index
        for index in range(PROBLEMS)
        if (case := problem(index)).module == "GRU" and case.dtype == "float32" and case.form == "padded"
    )


def test_one_changed_bit_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fused_rnn").mkdir()
    (tmp_path / "fused_rnn/__init__.py").write_text(CHANGED.format(path=str(ROOT / "fused_rnn")))
    index = gru()
    assert main([str(ROOT), str(tmp_path), "--first", str(index), "--problems", "1"]) == 1
    named, _, summary = capsys.readouterr().out.splitlines()
    assert named == f"--first {index} --problems 1: infer h_n, train h_n"
    assert summary == "1 problems, 1 with other bits"


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no fused_rnn"):
        work(tmp_path, range(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_hash_has_every_bit_the_type_and_the_shape(dtype: torch.dtype) -> None:
    values = torch.randn(3, 4).to(dtype)
    assert digest(values) == digest(values.clone()) == digest(values.t().contiguous().t())
    for index in range(values.element_size() * 8):
        changed = values.clone()
        changed.view(torch.uint8)[2, -1 - index // 8] ^= 1 << index % 8
        assert digest(changed) != digest(values)
    assert len({digest(each) for each in (values, values.t(), values.view(-1), values[:2])}) == 4
    zero = torch.zeros(1, dtype=dtype)
    assert digest(zero) != digest(-zero)


def test_a_result_that_one_version_lacks_differs() -> None:
    assert differing({"h_n": "1", "c_n": "2"}, {"h_n": "1", "d_x": "3"}) == ["c_n", "d_x"]


def test_the_problems_cover_modules_types_and_options() -> None:
    cases = [problem(index) for index in range(PROBLEMS)]
    assert {case.module for case in cases} == {"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"}
    assert {case.dtype for case in cases} == {"float32", "float64", "bfloat16", "float16"}
    assert {case.b for case in cases} == set(range(1, 34))
    assert {case.again for case in cases} == {1, 2}
    assert {case.h % 2 for case in cases} == {0, 1}
    unused = {"mode", "dropout", "w_layout", "s_layout", "d_layout", "some", "into", "retain", "mapped", "nan_padding"}
    for name in {field.name for field in fields(cases[0])} - unused:
        assert len({getattr(case, name) for case in cases}) > 1, name


def test_a_problem_has_results_gradients_and_steps() -> None:
    threads = torch.get_num_threads()
    try:
        found = hashes(problem(gru()))
    finally:
        torch.set_num_threads(threads)
    assert {"infer output", "train output", "train d_x", "train d_weight_hh_l0"} <= found.keys()
    assert not any(":" in value for value in found.values())
