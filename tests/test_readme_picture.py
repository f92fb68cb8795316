"""The picture of README shows the kept runs, and the figures beside it are theirs."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from bench.saved import rows_of
from tools import performance_tables as tables
from tools import readme_picture as pictures

README = (tables.ROOT / "README.md").read_text()
LARGEST = 10_000  # bytes of a version


@pytest.mark.parametrize("version", pictures.VERSIONS)
def test_a_picture_is_the_one_that_the_kept_runs_make(version: str) -> None:
    text = pictures.place(version).read_text()
    assert text == pictures.picture(tables.kept_runs(), pictures.VERSIONS[version])
    assert len(text) <= LARGEST
    ET.fromstring(text)  # noqa: S314 - our own file
    assert pictures.place(version).relative_to(tables.ROOT).as_posix() in README


def test_bars_fit_the_picture() -> None:
    for text in (pictures.picture(tables.kept_runs(), colors) for colors in pictures.VERSIONS.values()):
        places = re.findall(r'<rect x="([0-9.]+)" y="[0-9.]+" width="([0-9.]+)"', text)
        assert len(places) == 9 + 12 + 2  # CPU, GPU, legend
        assert all(float(x) + float(width) + 40 <= pictures.WIDTH for x, width in places)


def test_the_figures_of_the_gpu_are_those_of_its_page() -> None:
    page = (tables.ROOT / "docs/gpu.md").read_text()
    for bars in pictures.gpu_bars(tables.kept_runs()):
        if "float32" not in bars.name:
            shown = [f"{value:.1f}x" for value in (bars.inference, bars.training) if value is not None]
            assert re.search(rf"^\|.*\| {shown[0]}.*\| {shown[1]}", page, re.MULTILINE), bars


def test_readme_has_the_means_and_ranges_of_the_picture() -> None:
    runs = tables.kept_runs()
    cpu = {bars.name: bars for bars in pictures.cpu_bars(runs)}
    gru, rnn = cpu["GRU"], cpu["RNN, tanh"]
    assert f"training {gru.training:.2f}x and {rnn.training:.2f}x" in README
    assert f"inference {gru.inference:.2f}x and {rnn.inference:.2f}x, in the mean" in README
    every = pictures.gpu_bars(runs)[0]
    assert f"{every.inference:.1f}x in inference and {every.training:.1f}x in training in the mean of all 90" in README
    grids = [runs[tables.GRIDS.format(threads="2threads", cell=cell)] for cell in tables.CELLS]
    ratios = [row.ratio for run in grids for row in rows_of(run)]
    theirs = [row["theirs_us"]["min"] / row["ours_us"]["min"] for row in pictures.gpu_rows(runs)]
    shown = (
        f"{min(ratios):.1f}x to {max(ratios):.0f}x on this CPU, {min(theirs):.1f}x to {max(theirs):.0f}x on this GPU"
    )
    assert shown in README
