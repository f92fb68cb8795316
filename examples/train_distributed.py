"""A character language model on many processes: DDP or FSDP2 under torchrun, which survives the death of a worker.

The text is 32 streams, of which a process reads an equal share, and gradients are averaged: any number of processes
takes the same steps but for rounding. What a step reads depends on its number only, and a checkpoint holds that number
beside parameters, moments of the optimizer and the state carried along. Started again, with any number of processes
that divides 32, a run goes on after its last complete checkpoint. Gloo on CPU, NCCL on GPUs.

    python examples/train_distributed.py                  # about 15 s on one core; with --quick 10 s
    torchrun --standalone --nproc-per-node 2 examples/train_distributed.py --strategy fsdp
    torchrun --standalone --nproc-per-node 2 --max-restarts 1 examples/train_distributed.py --folder DIR --kill-at 70
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn import functional as F
from tqdm import tqdm

import fused_rnn

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
STREAMS, LENGTH, EVERY = 32, 64, 25  # of all processes; characters of one in a step; steps between checkpoints


class CharModel(nn.Module):
    """Embedding, one recurrent layer, and scores of the next character."""

    def __init__(self, implementation: str, cell: str, alphabet: int, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, 64)
        self.recurrent = getattr(IMPLEMENTATIONS[implementation], cell.upper())(64, units)
        self.head = nn.Linear(units, alphabet)

    def forward(self, codes: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Scores [T, B, alphabet] and the last state ([h] or [h, c], each [1, B, H]), for codes [T, B]."""
        output, after = self.recurrent(self.embedding(codes), tuple(state) if len(state) == 2 else state[0])
        return self.head(output), [part.detach() for part in (after if len(state) == 2 else [after])]


def join() -> DeviceMesh:
    """All processes that torchrun started, or this one alone."""
    device, backend = ("cuda", "nccl") if torch.cuda.is_available() else ("cpu", "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    store, rank, workers = next(dist.rendezvous("env://")) if life else (dist.HashStore(), 0, 1)  # type: ignore[attr-defined]
    # torchrun (torch 2.13) has one store for all lives of the workers; gloo must not find the last life's addresses.
    own: Any = dist.PrefixStore(f"life {life}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=rank, world_size=workers)
    return init_device_mesh(device, (dist.get_world_size(),))


def spread(model: nn.Module, strategy: str, mesh: DeviceMesh) -> nn.Module:
    """The model with a copy in each process (ddp), or with an equal share of each parameter (fsdp)."""
    for part in (*model.children(), model) if strategy == "fsdp" else ():
        fully_shard(part, mesh=mesh)
    return model if strategy == "fsdp" else nn.parallel.DistributedDataParallel(model)


def contents(model: nn.Module, optimizer: Any, state: list[Tensor], step: int, mesh: DeviceMesh) -> dict[str, Any]:
    """What a checkpoint holds; a state is one tensor [1, 32, H], of which each process has the rows that it reads."""
    parameters, moments = get_state_dict(model, optimizer)
    whole = [DTensor.from_local(part, mesh, [Shard(1)]) for part in state]
    return {"model": parameters, "optimizer": moments, "state": whole, "step": step}


def read() -> tuple[Tensor, int, float]:
    """Characters as codes [N, 32], how many there are, and the bits that one costs when the one before it is known."""
    text = "\n".join(topics[name] for name in sorted(topics))
    places = {character: code for code, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([places[character] for character in text])
    counts = [torch.bincount(kind).double() for kind in (codes[:-1] * len(places) + codes[1:], codes[:-1])]
    pairs, single = (torch.special.entr(count / count.sum()).sum().item() / math.log(2) for count in counts)
    return codes[: len(codes) // STREAMS * STREAMS].view(STREAMS, -1).t(), len(places), pairs - single


def main() -> None:
    """Train, and print the bits per character over the last tenth of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="lstm", help="(default: %(default)s)")
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp", help="(default: %(default)s)")
    parser.add_argument("--units", type=int, default=256, help="of the layer (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--quick", dest="steps", action="store_const", const=60, help="as --steps 60")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="of checkpoints, to write and to go on from, and of losses.jsonl")
    parser.add_argument("--kill-at", type=int, help="step at which the last worker kills itself, in its first life")
    options = parser.parse_args()
    mesh = join()
    rank, workers, device = dist.get_rank(), dist.get_world_size(), mesh.device_type
    streams, alphabet, by_pairs = read()
    mine = streams.chunk(workers, dim=1)[rank].to(device)
    torch.manual_seed(options.seed)
    model = spread(CharModel(options.impl, options.cell, alphabet, options.units).to(device), options.strategy, mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    start = [torch.zeros(1, mine.shape[1], options.units, device=device)] * (2 if options.cell == "lstm" else 1)
    state, first, bits = [part.clone() for part in start], 0, []
    if options.folder and (done := sorted(options.folder.glob("step-*/.metadata"))):  # which `save` writes last
        saved = contents(model, optimizer, state, first, mesh)
        load(saved, checkpoint_id=done[-1].parent)
        set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
        state, first = [part.to_local() for part in saved["state"]], saved["step"]
    started = time.perf_counter()
    for step in tqdm(range(first, options.steps), initial=first, total=options.steps, disable=rank > 0, leave=False):
        if (step, rank, os.environ.get("TORCHELASTIC_RESTART_COUNT")) == (options.kill_at, workers - 1, "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        window = mine[(place := step % ((len(mine) - 1) // LENGTH) * LENGTH) :][: LENGTH + 1]
        scores, state = model(window[:-1], start if place == 0 else state)
        loss = F.cross_entropy(scores.flatten(0, 1), window[1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        dist.all_reduce(total := loss.detach())
        bits.append(total.item() / workers / math.log(2))
        if options.folder and rank == 0:
            with (options.folder / "losses.jsonl").open("a") as file:
                file.write(json.dumps([step, bits[-1]]) + "\n")
        if options.folder and (step + 1) % EVERY == 0:
            new = contents(model, optimizer, state, step + 1, mesh)
            save(new, checkpoint_id=options.folder / f"step-{step + 1:06d}")
    if rank == 0:
        last, seconds = bits[-max(1, options.steps // 10) :], time.perf_counter() - started
        cost, speed = sum(last) / len(last), len(bits) * STREAMS * LENGTH / seconds
        line = f"{cost:.3f} bits per character, {by_pairs:.3f} by pairs; {speed:.0f} characters a second"
        print(f"train_distributed, {options.cell}, {options.strategy}, processes {workers}: {line}", flush=True)
    os._exit(0)  # where Python frees the last reference to a gloo group, torch 2.13 waits now and then for ever


if __name__ == "__main__":
    main()
