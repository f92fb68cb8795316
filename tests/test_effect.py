"""The command-line effect of examples/realtime beside torch, on sound files of both kinds."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import fused_rnn

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")

RATE = 16_000


def wav(sound: Tensor, floats: bool) -> bytes:
    """A WAV file of sound [samples, channels] from -1 to 1."""
    samples = sound.flatten().tolist() if floats else (sound * 32768).round().to(torch.int64).flatten().tolist()
    data = struct.pack(f"<{len(samples)}{'f' if floats else 'h'}", *samples)
    size, channels = 4 if floats else 2, sound.shape[1]
    form = struct.pack("<HHIIHH", 3 if floats else 1, channels, RATE, RATE * channels * size, channels * size, 8 * size)
    chunks = b"".join(name + struct.pack("<I", len(body)) + body for name, body in ((b"fmt ", form), (b"data", data)))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def samples_of(file: bytes, floats: bool, channels: int) -> Tensor:
    """The sound of a file as `wav` makes it."""
    data = file[44:]
    numbers = struct.unpack(f"<{len(data) // (4 if floats else 2)}{'f' if floats else 'h'}", data)
    return torch.tensor(numbers).view(-1, channels) / (1 if floats else 32768)


def run(built: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [built / "examples/realtime/effect", folder / "model.frnn", folder / "in.wav", folder / "out.wav"]
    return subprocess.run([*map(str, command), *options], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_is_what_torch_makes_of_it(floats: bool, channels: int, built: Path, tmp_path: Path) -> None:
    model = fused_rnn.Chain(fused_rnn.GRU(1, 16), torch.nn.Linear(16, 1), residual=True)
    fused_rnn.save_stream(model, tmp_path / "model.frnn")
    sound = (torch.rand(1000, channels) - 0.5).mul(32768).round() / 32768
    (tmp_path / "in.wav").write_bytes(wav(sound, floats))
    with torch.no_grad():
        expected = model(sound.unsqueeze(2)).squeeze(2).clamp(-1, 1)
    for options in ([], ["--block", "1"], ["--block", "333"]):
        result = run(built, tmp_path, *options)
        assert result.returncode == 0, result.stderr
        assert f"{channels} channel(s) at 16000 Hz" in result.stdout
        assert "real-time factor" in result.stdout
        heard = samples_of((tmp_path / "out.wav").read_bytes(), floats, channels)
        torch.testing.assert_close(heard, expected, rtol=0, atol=2e-6 if floats else 0.6 / 32768)


def test_what_is_wrong_is_said_in_words(built: Path, tmp_path: Path) -> None:
    assert run(built, tmp_path, "--block", "0").returncode == 2
    file = wav(torch.zeros(10, 1), floats=False)
    fused_rnn.save_stream(torch.nn.Linear(2, 1), tmp_path / "model.frnn")
    (tmp_path / "in.wav").write_bytes(file)
    assert "must take and give one value a sample" in run(built, tmp_path).stderr
    fused_rnn.save_stream(torch.nn.Linear(1, 1), tmp_path / "model.frnn")
    for size in range(len(file)):
        (tmp_path / "in.wav").write_bytes(file[:size])
        result = run(built, tmp_path)
        assert result.returncode == 1
        assert "WAV file" in result.stderr
