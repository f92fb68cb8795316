"""A call leaves no memory behind: not one byte of the C library's heap over hundreds of calls."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap

import pytest

from build_support.native import PATIENCE

# Counts in a process of its own, whose heap nothing else touches. Bytes in use are exact; what some calls leave is told
# from what each leaves by rounds of many calls.
COUNTER = """
import ctypes, gc, sys
import numpy, torch, fused_rnn
torch.set_num_threads(1)
gc.freeze()  # what is there stays: each collection would look through all of torch

class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

counts_of = ctypes.CDLL(None).mallinfo2
counts_of.restype = Counts

def bytes_in_use():
    gc.collect()
    counts = counts_of()
    return counts.uordblks + counts.hblkhd - fused_rnn._ops.kept_bytes()  # which have a limit

def check(name, call, calls):
    for _ in range(200):
        call()
    least = float("inf")
    for _ in range(12):  # what grows at times is still in some round; what each call leaves is in all
        before = bytes_in_use()
        for _ in range(calls):
            call()
        least = min(least, (bytes_in_use() - before) / calls)
        if least < 1:
            return
    print(f"{name} leaves {least:.1f} bytes a call")
"""

HAS_COUNTS = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"

OPS = """
ops, x, resets = torch.ops.fused_rnn, torch.randn(3, 2, 3), torch.zeros(3, 2, dtype=torch.bool)
lengths = torch.tensor([3, 2])
def weights(gates, directions):
    rows = directions * gates * 4
    return torch.randn(rows, 3), torch.randn(rows), torch.randn(rows, 4), torch.randn(rows)
def layer_calls(cell, gates):
    w_ih, b_ih, w_hh, b_hh = weights(gates, 1)
    h = torch.randn(1, 2, 4)
    c = torch.randn(1, 2, 4) if cell == "lstm" else None
    state_only = (x, w_ih, b_ih, w_hh, b_hh, None, h, c)
    none = (None, None, None)  # of the variants
    check(f"layer {cell}", lambda: ops.layer(cell, *state_only, lengths, resets, *none, 1, False, True, False), CALLS)
    c_0 = None if c is None else c[0]
    check(f"step {cell}", lambda: ops.step(cell, x[0], w_ih, b_ih, w_hh, b_hh, h[0], c_0), CALLS)
    output, _, _, cells, saved, *_ = ops.layer(cell, *state_only, lengths, resets, *none, 1, True, False, False)
    d = torch.randn_like(output)
    arguments = (x, w_ih, w_hh, None, output, cells)
    rest = (None, h, c, lengths, resets, *none, True, True, True, True, False, False)
    check(f"layer_backward {cell}",
          lambda: ops.layer_backward(cell, d, None, None, None, *arguments, saved, *rest), CALLS)
    if cell != "rnn_tanh":
        over = saved.clone()
        check(f"layer_backward_in_place {cell}",
              lambda: ops.layer_backward_in_place(cell, d, None, None, None, *arguments, over, *rest), CALLS)
    gates_of_x, by_direction = torch.randn(3, 2, 1, gates, 4), w_hh[None]
    given = (None, h, c, None, None, lengths, resets, None, None)
    check(f"forward {cell}",
          lambda: ops.forward(cell, gates_of_x, by_direction, b_hh[None], *given, True, False), CALLS)
    check(f"backward {cell}",
          lambda: ops.backward(cell, d, None, None, None, by_direction, None, output, cells, saved, *given[1:], False),
          CALLS)
    if cell == "lstm":
        over = saved.clone()
        check("backward_in_place",
              lambda: ops.backward_in_place(cell, d, None, None, None, by_direction, None, output, cells, over, h, c,
                                              lengths, resets), CALLS)
layer_calls("lstm", 4)
layer_calls("gru", 3)
layer_calls("rnn_tanh", 1)
check("product", lambda: ops.product(x[0], x[1].T, None, False, False), CALLS)
def refused():
    try:
        ops.step("unknown", x[0], x[0], None, x[0], None, None, None)
    except RuntimeError:
        pass
check("an error", refused, CALLS)
"""

MODULES = """
x, resets, lengths = torch.randn(3, 2, 3), torch.zeros(3, 2, dtype=torch.bool), torch.tensor([3, 2])
packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
layers = {
    "LSTM": fused_rnn.LSTM(3, 4, num_layers=2, bidirectional=True), "GRU": fused_rnn.GRU(3, 4),
    "RNN": fused_rnn.RNN(3, 4, nonlinearity="relu"), "projected": fused_rnn.LSTM(3, 4, proj_size=2),
    "variant": fused_rnn.LSTM(3, 4, layer_norm=True, zoneout=0.1, recurrent_dropout=0.1),
    "peephole": fused_rnn.LSTM(3, 4, peephole=True),
}
def train(call):
    def run():
        call().sum().backward()
    return run
for name, layer in layers.items():
    check(f"training {name}", train(lambda: layer(x)[0]), CALLS // 4)
    check(f"training {name}, resets", train(lambda: layer(x, resets=resets, lengths=lengths)[0]), CALLS // 4)
    with torch.no_grad():
        check(f"inference {name}", lambda: layer(x), CALLS // 2)
        check(f"inference {name}, one step", lambda: layer(x[:1]), CALLS // 2)
        check(f"inference {name}, packed", lambda: layer(packed), CALLS // 4)
for kind in (fused_rnn.LSTMCell, fused_rnn.GRUCell, fused_rnn.RNNCell):
    cell = kind(3, 4)
    check(f"training {kind.__name__}", train(lambda: cell(x[0])[0]), CALLS // 4)
    with torch.no_grad():
        check(f"inference {kind.__name__}", lambda: cell(x[0]), CALLS)
for weights in (None, torch.int8):
    stepper, array, out = fused_rnn.Stepper(layers["GRU"], 2, weights=weights), x[0].numpy(), torch.empty(2, 4)
    check("Stepper.step", lambda: stepper.step(x[0]), CALLS)
    check("Stepper.step, out", lambda: stepper.step(x[0], out), CALLS)
    check("Stepper.step of arrays", lambda: stepper.step(array), CALLS)
    def get_and_set():
        stepper.state = stepper.state
        stepper.reset(resets[0])
    check("Stepper.state", get_and_set, CALLS)
    import copy
    check("copies of a Stepper", lambda: copy.deepcopy(stepper).step(x[0]), CALLS)
"""


@pytest.mark.skipif(not HAS_COUNTS, reason="counts bytes by mallinfo2 of glibc 2.33 and newer")
@pytest.mark.parametrize(("program", "calls"), [(OPS, 500), (MODULES, 300)], ids=["ops", "modules"])
def test_no_call_leaves_memory_behind(program: str, calls: int) -> None:
    code = f"{COUNTER}\nCALLS = {calls}\n{textwrap.dedent(program)}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (result.returncode, result.stdout) == (0, ""), result.stdout + result.stderr
