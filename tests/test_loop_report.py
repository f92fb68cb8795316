"""Tests of tools/loop_report.py on a disassembly that is written here."""

from __future__ import annotations

import io
import re
import shutil

import pytest

from build_support import native
from tools import loop_report, ptxas_report

# As cuobjdump writes it: a kernel with a short loop inside of its step loop, and one without a barrier.
LISTING = """\
\t\tFunction : _Z4steps
\t.headerflags\t@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                  /* 0x00000a00ff017b82 */
                                                                           /* 0x000fe20000000800 */
        /*0010*/                   LDS.128 R4, [R2] ;                      /* 0x0000000002047984 */
        /*0020*/                   FFMA R8, R4, R5, R8 ;                   /* 0x0000000504087223 */
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;           /* 0x0000000000007b1d */
        /*0040*/              @!P0 BRA 0x30 ;                              /* 0xfffffffc00f88947 */
        /*0050*/              @!P1 MUFU.EX2 R9, R8 ;                       /* 0x0000000800099308 */
        /*0060*/               @P2 BRA 0x10 ;                              /* 0xfffffffc00e82947 */
        /*0070*/                   EXIT ;                                  /* 0x000000000000794d */
\t\tFunction : _Z5otherv
        /*0000*/                   MOV R1, R2 ;                            /* 0x0000000200017202 */
        /*0010*/               @P0 BRA 0x0 ;                               /* 0xfffffffc00f80947 */
"""


def test_the_step_loop_is_the_longest_with_a_barrier() -> None:
    (loop,) = loop_report.step_loops(LISTING)
    assert (loop.kernel, loop.length) == ("_Z4steps", 6)
    assert dict(loop.counts) == {"LDS": 1, "FFMA": 1, "BAR": 1, "MUFU": 1, "BRA": 2}


def test_names_choose_the_kernels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for names, lines in ((["_Z4"], 1), (["_Z4", "none"], 0), ([], 1)):
        monkeypatch.setattr("sys.stdin", io.StringIO(LISTING))
        assert loop_report.main(names) == 0
        assert len(capsys.readouterr().out.splitlines()) == lines


# Those that docs/gpu.md counts for sm_90a: the row of the table, the object, and words of the kernel's mangled name.
COUNTED = {
    "LSTM forward": ("lstm_float32", "11ForwardPassINS_8LstmCellEfi"),
    "LSTM backward": ("lstm_float32", "12BackwardPassINS_8LstmCellEfi"),
    "GRU forward": ("gru_float32", "11ForwardPassINS_7GruCellEfi"),
    "GRU backward": ("gru_float32", "12BackwardPassINS_7GruCellEfi"),
}


@pytest.mark.parametrize("row", COUNTED)
def test_the_page_counts_the_loop_of_the_built_kernel(row: str) -> None:
    unit, words = COUNTED[row]
    logs = [log for log in ptxas_report.logs() if log.name == f"{unit}.o.log"]
    if shutil.which("cuobjdump") is None or not any("sm_90a" in log.read_text() for log in logs):
        pytest.skip("needs kernels for sm_90a, and cuobjdump")
    loops, plain = loop_report.loops_of(logs[0].with_suffix(""), "sm_90a"), f"{words}LNS0_8FeaturesE0"
    (loop,) = (one for one in loops if all(word in one.kernel for word in (plain, "PersistentKernel", "GridExchange")))
    page = (native.ROOT / "docs" / "gpu.md").read_text()
    kinds = re.search(r"^\| loop \| instructions \| (.*) \| registers \|$", page, re.MULTILINE)
    counts = re.search(rf"^\| {row} \| (\d+) \| (.*) \| \d+ \|$", page, re.MULTILINE)
    assert kinds is not None
    assert counts is not None
    assert loop.length == int(counts[1])
    assert [loop.counts[kind] for kind in kinds[1].split(" | ")] == [int(count) for count in counts[2].split(" | ")]
