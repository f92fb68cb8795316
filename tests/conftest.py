"""Settings of the Python tests: hypothesis profiles, the same random numbers and one thread in every test."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# Inductor would compile and load a program for each kind of vectors, and its longest headers for one; what it generates
# around our operators is right or wrong without vectors, too. Processes that tests start inherit it.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")

# Where Python was asked to write no bytecode, each process that a test starts would compile torch's modules again,
# for 1 to 4 seconds. They share what they compile in a folder that `make clean` removes.
if sys.dont_write_bytecode:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).resolve().parent.parent / "build" / "bytecode"))

# A drawn problem's time depends on the machine, so there is no deadline. `ci` draws the same problems in every run.
settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=200, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# Files that take longest: begun last, one of them would run alone at the end.
FIRST = (
    *("test_native.py", "test_cuda_emulator.py", "test_bench_peers.py", "test_in_place.py", "test_onnx.py"),
    *("test_compile.py", "test_fork.py", "test_examples.py", "test_fuzz.py", "test_cuda_build.py", "test_build.py"),
    "test_notebooks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of FIRST come first."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread, which a busy neighbour does not slow down a hundredfold; tests of sharing ask for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
