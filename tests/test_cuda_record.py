"""Tests of tools/cuda_record.py: which changes make a record one of other kernels."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.own_cells import OwnElman, OwnGRU
from tools import cuda_record, ptxas_report

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in cuda_record.FOLDERS:
        shutil.copytree(cuda_record.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_copy_has_the_same_digest(checkout: Path) -> None:
    (checkout / "build_support/__pycache__").mkdir()
    (checkout / "build_support/__pycache__/cuda.pyc").write_bytes(b"any")
    assert cuda_record.text_digest(checkout) == cuda_record.text_digest()


@pytest.mark.parametrize("folder", cuda_record.FOLDERS)
def test_each_file_belongs_to_the_digest(folder: str, checkout: Path) -> None:
    before = cuda_record.text_digest(checkout)
    changed = min((path for path in (checkout / folder).rglob("*") if path.is_file()), key=lambda path: path.name)
    changed.write_bytes(changed.read_bytes() + b"\n")
    after = cuda_record.text_digest(checkout)
    changed.rename(changed.with_name("renamed"))
    assert len({before, after, cuda_record.text_digest(checkout)}) == 3


def test_every_kernel_and_what_it_includes_is_in_the_folders() -> None:
    sources = [*cuda_record.ROOT.glob("csrc/**/*.cu"), *cuda_record.ROOT.glob("csrc/**/*.cuh")]
    assert sources
    included = {
        line.split('"')[1].split("/")[0]
        for path in [*sources, *cuda_record.ROOT.glob("csrc/c[eou]*/**/*.h")]
        if "/cpu/" not in path.as_posix()
        for line in path.read_text().splitlines()
        if line.startswith('#include "')
    }
    assert included <= {folder.removeprefix("csrc/") for folder in cuda_record.FOLDERS}


def test_a_record_is_of_a_text_and_of_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record.json"
    assert not cuda_record.is_current(record)
    record.write_text(json.dumps(cuda_record.here()))
    assert cuda_record.is_current(record)
    monkeypatch.setattr(cuda_record, "compiler", lambda: "release 1.0")
    assert not cuda_record.is_current(record)


def test_own_cells_are_of_the_text_and_of_their_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps(cuda_record.here()))
    assert cuda_record.is_current(record)
    assert not cuda_record.has_own_cells(record)
    record.write_text(json.dumps({**cuda_record.here(), "own_cells": cuda_record.own_cells()}))
    assert cuda_record.has_own_cells(record)
    assert cuda_record.is_current(record)
    with monkeypatch.context() as patch:
        patch.setattr(OwnElman, "step", OwnGRU.step)
        patch.setattr(OwnElman, "gates", OwnGRU.gates)
        assert not cuda_record.has_own_cells(record)
    monkeypatch.setattr(cuda_record, "compiler", lambda: "release 1.0")
    assert not cuda_record.has_own_cells(record)


def test_micro_programs_are_of_the_text_and_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, micro = tmp_path / "record.json", cuda_record.text_digest(folders=cuda_record.MICRO)
    record.write_text(json.dumps(cuda_record.here()))
    assert not cuda_record.has_micro_programs(record)
    record.write_text(json.dumps({**cuda_record.here(), "micro": micro}))
    assert cuda_record.has_micro_programs(record)
    with monkeypatch.context() as patch:
        patch.setattr(cuda_record, "MICRO", (*cuda_record.MICRO, "tools/native"))
        assert not cuda_record.has_micro_programs(record)
    monkeypatch.setattr(cuda_record, "compiler", lambda: "release 1.0")
    assert not cuda_record.has_micro_programs(record)


def test_a_build_without_kernels_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ptxas_report, "logs", list)
    monkeypatch.setattr("sys.argv", ["cuda_record", "--write"])
    assert cuda_record.main() == 1
    assert "the build has kernels for no GPU, not for sm_90a alone" in capsys.readouterr().err
