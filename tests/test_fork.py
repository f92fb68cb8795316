"""A forked child computes, with one thread, whatever its parent has done with threads before."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from build_support.native import PATIENCE

# A process of its own, since it starts threads and then forks, and may hang. `fork` runs a call in a child and compares
# its result with the parent's, bit for bit.
PROGRAM = """
import os, signal, sys
import torch, fused_rnn
from fused_rnn import _ops
torch.set_num_threads(2)
torch.manual_seed(0)

def fork(call):
    expected = call()  # with threads
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that waits
        same = all(torch.equal(a, b) for a, b in zip(call(), expected, strict=True))
        lost = _ops.threads_are_lost() and torch.get_num_threads() == 1
        os._exit(0 if same and lost else 1)
    status = os.waitpid(child, 0)[1]
    print("same" if status == 0 else f"status {status}")
    assert not _ops.threads_are_lost() and torch.get_num_threads() == 2

def flat(result):
    return [t for part in result for t in (part if isinstance(part, tuple) else (part,))]

x = torch.randn(40, 24, 64)
layers = {
    "LSTM": lambda: fused_rnn.LSTM(64, 128, bidirectional=True), "GRU": lambda: fused_rnn.GRU(64, 128, num_layers=2),
    "RNN": lambda: fused_rnn.RNN(64, 128), "projected": lambda: fused_rnn.LSTM(64, 128, proj_size=40),
    "variant": lambda: fused_rnn.LSTM(64, 96, layer_norm=True),
}
"""

CASES = {
    "inference": """
        layer = layers[NAME]()
        with torch.no_grad():
            fork(lambda: flat(layer(x)))
    """,
    "packed": """
        layer, lengths = layers[NAME](), torch.randint(1, 41, (24,))
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        with torch.no_grad():
            fork(lambda: [layer(packed)[0].data])
    """,
    # autograd's own threads are lost with the fork as well, which torch says in an error; so the child trains first.
    "training": """
        layer = layers[NAME]()
        with torch.no_grad():
            layer(x)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            layer(x)[0].sum().backward()
            os._exit(0 if all(p.grad.isfinite().all() for p in layer.parameters()) else 1)
        print("same" if os.waitpid(child, 0)[1] == 0 else "failed")
    """,
}
OTHERS = {
    "cells": """
        for kind in (fused_rnn.LSTMCell, fused_rnn.GRUCell, fused_rnn.RNNCell):
            cell, step = kind(512, 512), torch.randn(64, 512)
            with torch.no_grad():
                fork(lambda: flat((cell(step),)))
    """,
    "stepper": """
        stepper = fused_rnn.Stepper(fused_rnn.LSTM(64, 512))
        assert stepper._native.threads == 2
        def step():
            stepper.reset()
            return [stepper.step(x[0, :1])]
        fork(step)
    """,
    "product": """
        a = torch.randn(512, 512)
        fork(lambda: [_ops.product(a, a)])
    """,
    "a grandchild": """
        layer = layers["GRU"]()
        with torch.no_grad():
            layer(x)
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                grandchild = os.fork()
                if grandchild == 0:
                    signal.alarm(50)
                    layer(x)
                    os._exit(0)
                os._exit(0 if os.waitpid(grandchild, 0)[1] == 0 else 1)
            print("same" if os.waitpid(child, 0)[1] == 0 else "failed")
    """,
    "multiprocessing": """
        import multiprocessing
        layer = layers["GRU"]()
        layer.requires_grad_(False)
        expected = layer(x)[0][:, 0, 0].tolist()
        def work(queue):
            queue.put(layer(x)[0][:, 0, 0].tolist())
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        worker = context.Process(target=work, args=(queue,), daemon=True)
        worker.start()
        print("same" if queue.get(timeout=600) == expected else "differs")
        worker.join()
    """,
    "a data loader": """
        layer = layers["GRU"]()
        layer.requires_grad_(False)
        class Data(torch.utils.data.Dataset):
            def __len__(self): return 2
            def __getitem__(self, index): return layer(x)[0][index]
        layer(x)
        loader = torch.utils.data.DataLoader(Data(), num_workers=1, timeout=600)
        print("same" if torch.equal(next(iter(loader))[0], layer(x)[0][0]) else "differs")
    """,
}
LAYERS = ["LSTM", "GRU", "RNN", "projected", "variant"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a platform without fork")


@pytest.fixture(scope="module")
def printed() -> dict[str, list[str]]:
    """What each case printed; one process forks for all of them, since a new one would import torch each time."""
    code = PROGRAM
    for name, case in CASES.items():
        code += f"print({name!r} + ':', flush=True)\n"
        code += "".join(f"NAME = {layer!r}\n{textwrap.dedent(case)}" for layer in LAYERS)
    for name, case in OTHERS.items():
        code += f"print({name!r} + ':', flush=True)\n{textwrap.dedent(case)}"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    lines: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        if line.endswith(":"):
            lines[line[:-1]] = []
        else:
            lines[list(lines)[-1]].append(line)
    return lines


@pytest.mark.parametrize("case", CASES)
def test_a_layer_computes_in_a_forked_child(case: str, printed: dict[str, list[str]]) -> None:
    assert printed[case] == ["same"] * len(LAYERS)


@pytest.mark.parametrize("case", OTHERS)
def test_a_forked_child_computes(case: str, printed: dict[str, list[str]]) -> None:
    assert set(printed[case]) == {"same"}
