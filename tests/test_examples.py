"""The examples learn: each, made small, beats the baseline that it prints, whatever the seed."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

import fused_rnn
from build_support.native import ROOT
from examples import forecast, gradient_flow, number_words, own_cell, ppo, streaming, text, vowels

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

SEEDS = ["0", "1"]


@pytest.mark.parametrize("example", [forecast, gradient_flow, number_words, own_cell, ppo, streaming, text, vowels])
def test_the_help_has_defaults_and_a_quick_run(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.main(["--help"])
    _, options = capsys.readouterr().out.split("options:")
    for name in re.findall(r"^  (--[\w-]+) [\w{]", options, re.MULTILINE):
        _, told = options.split(f"  {name} ", 1)
        given = {"--picture": "file to draw", "--save": "write the network"}.get(
            name, "(default: "
        )  # where it is asked for
        assert given in " ".join(told.split("\n  --", 1)[0].split()), name
    assert "--quick" in options


def test_every_example_says_how_long_it_takes() -> None:
    for path in sorted((ROOT / "examples").glob("[a-z]*.py")):
        told = rf"python examples/{path.name} .*# about \d+ s on one core; with --quick \d+ s"
        assert re.search(told, ast.get_docstring(ast.parse(path.read_text())) or ""), path.name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_every_cell_continues_the_cycle_from_its_first_two_letters(
    cell: str, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    share, chance = text.main(["--toy", "--cell", cell, "--seed", seed, "--length", "10"])
    assert share == 1.0 > chance
    written, last = capsys.readouterr().out.splitlines()
    assert written == "abcabcabcabc"
    assert "100.0%" in last


def test_characters_of_real_text_cost_less_than_by_pairs_and_than_from_last_steps_alone() -> None:
    options = ["--cell", "gru", "--quick", "--length", "20"]
    (bits, by_pairs), (last_only, _) = text.main(options), text.main([*options, "--last-only"])
    assert bits < by_pairs - 0.1
    assert bits < last_only - 0.1


@pytest.mark.parametrize("options", [["--seed", seed] for seed in SEEDS] + [["--impl", "torch", "--cell", "gru"]])
def test_speakers_are_named_in_19_of_20_recordings(options: list[str]) -> None:
    right, by_nearest_mean = vowels.main(["--quick", *options])
    assert right >= 0.95 > by_nearest_mean


def test_a_cell_of_few_parameters_names_more_speakers_than_a_gru_of_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_rnn.Recurrent, "_prepare_kernels", lambda _: None)  # which would take longer to compile
    found = own_cell.main(["--seeds", "1", "--epochs", "8", "--layers", "leaky", "small-gru"])
    (few, (share,)), (as_few, (share_of_gru,)) = found.values()
    assert few < as_few
    assert share > max(0.924, share_of_gru + 0.05)  # the nearest mean of vowels.py


@pytest.mark.parametrize("options", [["--seed", seed] for seed in SEEDS])
def test_a_season_is_forecast_better_than_by_the_one_before(options: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "forecast.png"
    for error, naive in forecast.main(["--quick", "--picture", str(picture), *options]):
        assert error < 0.95 * naive
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("options", [["--seed", seed] for seed in SEEDS] + [["--impl", "torch", "--cell", "lstm"]])
def test_numbers_never_seen_are_written_in_words(options: list[str]) -> None:
    right, by_nearest = number_words.main(["--quick", *options])
    assert right > 0.5 > by_nearest


@pytest.mark.parametrize("options", [["--seed", seed] for seed in SEEDS] + [["--impl", "torch"]])
def test_gradients_vanish_and_explode_in_plain_cells_only(options: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "flow.png"
    powers, loss = gradient_flow.main(["--picture", str(picture), *options])
    as_initialised, large = powers.values()
    for name in as_initialised:
        plain = "RNN" in name
        assert (as_initialised[name] < -20) is plain, name
        assert abs(as_initialised[name]) < 2 or plain, name
    assert large["relu RNN"] > large["tanh RNN"] > 1 > large["GRU"]
    assert loss["clipped at 1"] < 0.95
    assert not loss["not clipped"] < 1e6  # nan, where it went further
    assert picture.read_bytes().startswith(b"\x89PNG")
