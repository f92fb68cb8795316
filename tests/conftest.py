"""Settings of the Python tests: hypothesis profiles, the same random numbers and one thread in every test."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.stream.library import build

if TYPE_CHECKING:
    from collections.abc import Iterator

# Inductor would compile and load a program for each kind of vectors, and its longest headers for one; what it generates
# around our operators is right or wrong without vectors, too. Processes that tests start inherit it.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")

# Where Python was asked to write no bytecode, each process would compile torch's modules again, for 1 to 10 seconds.
# This one, which has not imported torch yet, and those that tests start share a folder that `make clean` removes.
if sys.dont_write_bytecode:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).resolve().parent.parent / "build" / "bytecode"))
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]

# Cells that tests compile; processes that they start share them, and `make clean` removes them. Unoptimised they take a
# quarter of the time, and test_cell_libraries.py sees that they have the bits of those that users compile.
os.environ.setdefault("FUSED_RNN_CACHE", str(Path(__file__).resolve().parent.parent / "build" / "cells"))
os.environ.setdefault("FUSED_RNN_CXXFLAGS", "-O0")

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
    *(
        "test_notebooks.py",
        "test_recurrent.py",
        "test_stream.py",
        "test_stream_library.py",
        "test_variant_derivatives.py",
    ),
)


# What `make test-fast` leaves out (`pytest -m "not slow"`): these files, but for tests with one of the words in a name,
SLOW: dict[str, tuple[str, ...]] = {
    "test_aot_inductor.py": (),
    "test_bench_features.py": (),
    "test_bench_peers.py": ("refused", "means", "missing_package"),
    "test_bench_realtime.py": ("failure", "usage"),
    "test_bench_report.py": (),
    "test_build.py": (),
    "test_code_blocks.py": (),
    "test_compare_bits.py": (),
    "test_cuda_build.py": (),
    "test_cuda_emulator.py": ("[emulator]", "every_source_is_listed"),
    "test_distributed.py": (),
    "test_effect.py": (),
    "test_examples.py": ("help",),
    "test_examples_distributed.py": (),
    "test_examples_ppo.py": ("rollout",),
    "test_fork.py": (),
    "test_fuzz.py": ("found", "right_layer", "drawn"),
    "test_gpu_check_problems.py": ("problem", "listed", "correctness_check"),
    "test_import.py": ("plain_use",),
    "test_in_place.py": ("eager-", "every_result", "second_derivatives", "vmap", "no_views"),
    "test_leaks.py": (),
    "test_libraries.py": (),
    "test_many_threads.py": (),
    "test_native.py": ("test_cells", "test_storage-avx2", "test_vec_math-avx2", "every_native_source_is_listed"),
    "test_native_arm.py": (),
    "test_notebooks.py": ("outputs", "packages", "prose"),
    "test_onnx.py": (),
    "test_parity.py": ("named_problem", "drawn", "two_threads"),
    "test_perf_check.py": (),
    "test_quantized_onnx.py": (),
    "test_cell_fuzz.py": (),
    "test_cell_libraries.py": ("other_sources",),
    "test_recurrent.py": ("source",),
    "test_recurrent_peers.py": (),
    "test_site.py": (),
    "test_stream.py": ("refused", "version_1", "bytes_of_their_type"),
    "test_stream_library.py": ("flags",),
    "test_torchrl.py": (),
}
# and everywhere tests that by their name ask torch's compilers.
COMPILERS = ("compil", "default_backend", "generated_code", "export")


def is_slow(file: str, name: str) -> bool:
    """Whether `make test-fast` leaves out the test of this name."""
    asks_compiler = any(word in name for word in COMPILERS)
    return asks_compiler or (file in SLOW and not any(word in name for word in SLOW[file]))


def pytest_configure(config: pytest.Config) -> None:
    """The marker of what SLOW and COMPILERS name."""
    config.addinivalue_line("markers", "slow: left out by `make test-fast`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of FIRST come first; slow tests are marked."""
    for item in items:
        if is_slow(item.path.name, item.name):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True, scope="module")
def _imported_for_good() -> None:
    """What tests are made of stays: collections of garbage need not look through all of torch."""
    gc.freeze()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a build of the C library with its tests and examples."""
    base = tmp_path_factory.getbasetemp()
    # Workers of xdist have folders of their own in that of the run.
    return build((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cmake-library")


@pytest.fixture
def by_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers train by the ops, too, as large ones do: see test_short_calls.py."""
    from fused_rnn import _route

    monkeypatch.setattr(_route, "may_be_short", lambda: False)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread, which a busy neighbour does not slow down a hundredfold; tests of sharing ask for two."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
