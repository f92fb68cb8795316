"""How far back the last output can learn from: the gradient that arrives at each earlier input, cell by cell.

Every step multiplies the gradient with the same recurrent weights and the slope of the cell: smaller than one on
average and it vanishes, larger and it explodes. A gated cell adds to its state instead, and with gates biased to
remember (Gers et al., 2000; by 4, for a hundred steps) the gradient arrives. Both are shown, as initialised by torch.nn
but for those biases, and with the recurrent weights `--scale` times as large; and what a relu RNN with exploding
gradients learns by plain gradient descent, with their norm clipped at 1 and without.

Source: Bengio, Simard and Frasconi, "Learning long-term dependencies with gradient descent is difficult", 1994;
Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013.

    python examples/gradient_flow.py --picture flow.png   # about 10 s on one core; with --quick 10 s
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
INPUTS, UNITS, ROWS = 16, 64, 16
CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "tanh RNN": ("RNN", {"nonlinearity": "tanh"}),
    "relu RNN": ("RNN", {"nonlinearity": "relu"}),
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "layer-norm LSTM": ("LSTM", {"layer_norm": True}),
}


@torch.no_grad()
def make(implementation: str, name: str, *, scale: float, remember: float) -> Any:
    """A layer with `scale` times torch.nn's recurrent weights, and `remember` added to the gate of its memory."""
    kind, options = CELLS[name]
    layer = getattr(IMPLEMENTATIONS[implementation], kind)(INPUTS, UNITS, **options)
    layer.weight_hh_l0.mul_(scale)
    gate = {"LSTM": 1, "GRU": 1}.get(kind)  # f of i, f, g, o; z of r, z, n
    if gate is not None:
        layer.bias_hh_l0[gate * UNITS : (gate + 1) * UNITS] += remember
    return layer


def flow(layer: Any, steps: int) -> Tensor:
    """Norms [T] of the gradient of the last output to the inputs, the last step first, relative to that one."""
    x = torch.randn(steps, ROWS, INPUTS, requires_grad=True)
    output, _ = layer(x)
    (d_x,) = torch.autograd.grad(output[-1], x, torch.randn(ROWS, UNITS))
    norms: Tensor = d_x.double().norm(dim=2).mean(1).flip(0)
    return norms / norms[0]


def learn(implementation: str, *, scale: float, clip: float) -> list[float]:
    """Losses of a relu RNN that is to recall, after 20 steps, the input two before the last; answering 0 costs 1."""
    layer = make(implementation, "relu RNN", scale=scale, remember=0.0)
    head = nn.Linear(UNITS, INPUTS)
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.2)
    losses = []
    for _ in range(300):
        x = torch.randn(20, ROWS, INPUTS)
        loss = (head(layer(x)[0][-1]) - x[-3]).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    return losses


def draw(path: Path, flows: dict[str, dict[str, Tensor]], losses: dict[str, list[float]]) -> None:
    """The gradients by distance, and the losses by update, both on logarithmic axes."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    *panels, learning = figure.subplots(1, len(flows) + 1)
    for panel, (title, curves) in zip(panels, flows.items(), strict=True):
        for name, norms in curves.items():
            panel.plot(norms.clamp_min(1e-30), label=name)
        panel.set(title=title, xlabel="steps back", yscale="log")
    panels[0].set_ylabel("gradient, of the last step's")
    panels[0].legend(frameon=False, fontsize=8)
    for name, values in losses.items():
        learning.plot(values, label=name)
    learning.set(title="a relu RNN learns", xlabel="updates", ylabel="loss", yscale="log", ylim=(0.5, 100))
    learning.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=70)


def main(arguments: Sequence[str] | None = None) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Powers of ten that the gradient changes by over `--steps`, by weights and cell; the last losses, by clipping."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="back in time (default: %(default)s)")
    parser.add_argument("--quick", dest="steps", action="store_const", const=30, help="as --steps 30")
    parser.add_argument("--remember", type=float, default=4.0, help="added to gates that keep (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=3.0, help="of weights that explode (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="file to draw gradients and losses to")
    options = parser.parse_args(arguments)

    cells = [name for name in CELLS if options.impl == "fused" or name != "layer-norm LSTM"]  # torch.nn has none
    scales = {"as initialised": 1.0, f"weights x {options.scale:g}": options.scale}
    flows: dict[str, dict[str, Tensor]] = {title: {} for title in scales}
    for title, name in tqdm(list(itertools.product(flows, cells)), leave=False):
        torch.manual_seed(options.seed)
        layer = make(options.impl, name, scale=scales[title], remember=options.remember)
        flows[title][name] = flow(layer, options.steps)
    losses = {}
    for name, clip in {"not clipped": math.inf, "clipped at 1": 1.0}.items():
        torch.manual_seed(options.seed)
        losses[name] = learn(options.impl, scale=options.scale, clip=clip)
    if options.picture:
        draw(options.picture, flows, losses)
    powers = {
        title: {name: norms[-1].log10().item() for name, norms in curves.items()} for title, curves in flows.items()
    }
    last = {name: sum(values[-30:]) / 30 for name, values in losses.items()}
    told = [
        f"{title}: " + ", ".join(f"{name} 1e{power:+.0f}" for name, power in of.items()) for title, of in powers.items()
    ]
    learned = ", ".join(f"{name} {loss:.3g}" for name, loss in last.items())
    print(f"gradient_flow, {options.steps} steps back, {'; '.join(told)}; loss {learned} (1 by answering 0)")
    return powers, last


if __name__ == "__main__":
    main()
