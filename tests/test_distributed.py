"""Two processes with half a batch each have the gradients of torch.nn with the whole batch, under DDP and FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import torch

import fused_rnn
from build_support import native

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 2
KINDS = ("ddp", "fsdp")  # in the same processes, which take 3 seconds to start

START = "import sys; from tests.test_distributed import work; work(int(sys.argv[1]), *sys.argv[2:])"


def make(namespace: Any) -> torch.nn.Module:
    """Two layers with the same parameters for every process and package."""
    torch.manual_seed(0)
    options = {"dtype": torch.float64, "bidirectional": True}
    return torch.nn.Sequential(namespace.LSTM(3, 6, num_layers=2, **options), First(), namespace.GRU(12, 5, **options))


class First(torch.nn.Module):
    """The output of a layer, without its state."""

    def forward(self, result: tuple[torch.Tensor, Any]) -> torch.Tensor:
        return result[0]


def gradients(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Of a mean over the rows, which is that of the processes' means."""
    model(x)[0].square().mean().backward()
    found = [parameter.grad for parameter in model.parameters()]
    return [d.full_tensor() if hasattr(d, "full_tensor") else d for d in found]


def work(rank: int, meeting: str, backend: str) -> None:
    """What one process does, with NCCL on a GPU of its own: it says which kind is right."""
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
        torch.set_default_device(f"cuda:{rank}")
    torch.distributed.init_process_group(
        backend,
        init_method=meeting,
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=native.PATIENCE / 2),
    )
    for kind in KINDS:
        expected = make(torch.nn)
        x = torch.randn(5, 2 * PROCESSES, 3, dtype=torch.float64)
        model: Any = make(fused_rnn)
        if kind == "ddp":
            model = torch.nn.parallel.DistributedDataParallel(model)
        else:
            from torch.distributed.fsdp import fully_shard

            for layer in (*model, model):
                fully_shard(layer)
        for one, other in zip(gradients(model, x.chunk(PROCESSES, 1)[rank]), gradients(expected, x), strict=True):
            torch.testing.assert_close(one, other)
        print(kind, "is right", flush=True)
    # Where Python frees the last reference to the group, torch 2.13 waits now and then for ever: it joins a thread that
    # waits for the interpreter. All has been exchanged by now, so nobody misses this process.
    os._exit(0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torch.distributed")
@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_gradients_of_halves_are_those_of_the_whole(tmp_path: Path, backend: str) -> None:
    if backend == "nccl" and torch.cuda.device_count() < PROCESSES:
        pytest.skip("NCCL wants a GPU for each process")
    meeting = f"file://{tmp_path}/meeting"
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(rank), meeting, backend],
            cwd=native.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(PROCESSES)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=native.PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(outputs)
    assert all(f"{kind} is right" in output for kind in KINDS for output in outputs)
