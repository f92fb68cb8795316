"""Forecasts of seasons that never repeat exactly: yearly sunspots, and the monthly CO2 of Mauna Loa.

A network reads the past (many to one), and its last state gives the next value and all further ones of a season at
once (multi-step), as differences from the last value seen. The past is scaled by its own mean and deviation, since
cycles differ in height. The last fifth of each series is never learnt from. The baseline is seasonal-naive: the season
seen last, once more.

Data: the yearly mean total sunspot number (SIDC), and CO2 at Mauna Loa (Keeling and Whorf), both in statsmodels.

    python examples/forecast.py --picture forecast.png    # about 15 s on one core; with --quick 10 s
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from statsmodels.datasets import co2, sunspots
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

import fused_rnn

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPLEMENTATIONS: dict[str, Any] = {"fused": fused_rnn, "torch": nn}
UNITS, ROWS = 32, 64  # of the layer, and windows a step
NOISE = 0.1  # added to the past in training, in deviations


class Series(NamedTuple):
    """Values [N] at equal distances since the year `start`; a `season` is what is forecast from a `window` before."""

    name: str
    unit: str
    values: Tensor
    start: float
    per_year: int
    season: int
    window: int


def load() -> list[Series]:
    """309 years of sunspots, whose cycle lasts about 11, and monthly means of CO2; missing months are interpolated."""
    yearly = torch.tensor(sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(np.float32))
    means = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    start, monthly = means.index[0].year + (means.index[0].month - 1) / 12, torch.tensor(means.to_numpy(np.float32))
    return [
        Series("sunspots", "sunspots", yearly, start=1700, per_year=1, season=11, window=44),
        Series("CO2", "ppm", monthly, start, per_year=12, season=12, window=48),
    ]


class Forecaster(nn.Module):
    """The last output of a layer, as `horizon` values."""

    def __init__(self, implementation: str, cell: str, units: int, horizon: int) -> None:
        super().__init__()
        self.recurrent = getattr(IMPLEMENTATIONS[implementation], cell.upper())(1, units)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(units, horizon))

    def forward(self, past: Tensor) -> Tensor:
        """The values [horizon, B] after the `past` [T, B]."""
        mean, deviation = past.mean(0), past.std(0)
        x = (past - mean) / deviation
        noisy = x + NOISE * torch.randn_like(x) if self.training else x
        output, _ = self.recurrent(noisy.unsqueeze(2))
        future: Tensor = mean + deviation * (x[-1] + self.head(output[-1]).t())
        return future


def windows(values: Tensor, series: Series, starts: Tensor) -> tuple[Tensor, Tensor]:
    """The past [window, B] from each start on, and the season [horizon, B] after it."""
    rows = values[starts + torch.arange(series.window + series.season).unsqueeze(1)]
    return rows[: series.window], rows[series.window :]


def train(model: Forecaster, values: Tensor, series: Series, steps: int) -> None:
    """Adam on random windows, with a learning rate that falls to zero as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    length = series.window + series.season - 1
    for _ in (progress := trange(steps, desc=series.name, leave=False)):
        past, future = windows(values, series, torch.randint(len(values) - length, (ROWS,)))
        loss = F.l1_loss(model(past), future)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress.set_postfix(error=f"{loss.item():.3f}", refresh=False)


def draw(panel: Any, series: Series, cut: int, forecasts: Tensor) -> None:
    """The truth from a season before the `cut` on, and each forecast [horizon, B] that begins where another ended."""
    years = series.start + np.arange(len(series.values)) / series.per_year
    shown = slice(cut - series.season, None)
    panel.plot(years[shown], series.values[shown], color="0.6", label="truth")
    for begin in range(0, forecasts.shape[1], series.season):
        span = slice(cut + begin, cut + begin + series.season)
        label = f"{series.season} values at once" if begin == 0 else None
        panel.plot(years[span], forecasts[:, begin], color="C3", linewidth=1, label=label)
    panel.set_ylabel(series.unit)
    panel.legend(frameon=False, fontsize=8)


def main(arguments: Sequence[str] | None = None) -> list[tuple[float, float]]:
    """Mean absolute errors over a season in the last fifth, by the network and seasonal-naive, of both series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", choices=IMPLEMENTATIONS, default="fused", help="whose layers (default: %(default)s)")
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="lstm", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of training (default: %(default)s)")
    parser.add_argument("--quick", dest="steps", action="store_const", const=150, help="as --steps 150")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="file to draw forecasts and truth to")
    options = parser.parse_args(arguments)
    figures, lines, drawings = [], [], []
    for series in load():
        torch.manual_seed(options.seed)
        cut = len(series.values) * 4 // 5
        model = Forecaster(options.impl, options.cell, UNITS, series.season)
        train(model, series.values[:cut], series, options.steps)
        starts = torch.arange(cut - series.window, len(series.values) - series.window - series.season + 1)
        past, future = windows(series.values, series, starts)
        with torch.no_grad():
            forecasts = model.eval()(past)
        errors, naive = (forecasts - future).abs().mean(1), (past[-series.season :] - future).abs().mean(1)
        figures.append((errors.mean().item(), naive.mean().item()))
        lines.append(
            f"{series.name} {errors[0]:.2f} {series.unit} one ahead and {errors.mean():.2f} over {series.season}, "
            f"seasonal-naive {naive[0]:.2f} and {naive.mean():.2f}"
        )
        drawings.append((series, cut, forecasts))
    if options.picture:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        for panel, drawing in zip(figure.subplots(2), drawings, strict=True):
            draw(panel, *drawing)
        figure.savefig(options.picture, dpi=70)
    print(f"forecast, {options.cell}, mean absolute error: {'; '.join(lines)}")
    return figures


if __name__ == "__main__":
    main()
