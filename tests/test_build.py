"""Tests of the build: what the module is linked to, what the distributions hold, and what a failed build says."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

import fused_rnn
from build_support import ninja, toolchain
from build_support.toolchain import MIN_TORCH, ROOT
from tests.test_import import NO_EDITABLE, check_that_it_names_the_installed_one, copied, imported
from tools import check_abi

if TYPE_CHECKING:
    from pathlib import Path

BUILD = ["build_ext", "--inplace"]


def run_setup(*arguments: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py, after the statements `before`."""
    code = f"import runpy, sys\n{before}\nsys.argv[1:] = {arguments!r}\nrunpy.run_path('setup.py', run_name='__main__')"
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_what_is_built_takes_only_c_symbols_from_torch() -> None:
    assert check_abi.foreign_symbols() == []
    assert not [name for name in check_abi.undefined_symbols(check_abi.built_library()) if re.match("_?Py", name)]


def test_foreign_symbols_are_told_from_the_allowed_ones() -> None:
    assert not check_abi.ALLOWED.match("_ZN3c105ErrorC1Ev")
    assert not check_abi.ALLOWED.match("_ZN2at6Tensor4dataEv")
    assert check_abi.ALLOWED.match("aoti_torch_get_sizes")
    assert check_abi.ALLOWED.match("_ZNSt9exceptionD2Ev@GLIBCXX_3.4")


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF headers")
def test_the_library_names_no_path_the_module_its_own_and_none_an_openmp_runtime() -> None:
    paths: dict[Path, list[str]] = {}
    for built in (check_abi.built_library(), check_abi.built_module()):
        header = subprocess.run(["objdump", "-p", str(built)], capture_output=True, text=True, check=True).stdout
        paths[built] = re.findall(r"R(?:UN)?PATH +(.*)", header)
        assert "gomp" not in header
    assert list(paths.values()) == [[], ["$ORIGIN"]]


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF headers")
def test_the_library_loads_where_torch_has_no_cuda_and_shares_no_cuda_symbol() -> None:
    # A strong symbol that a torch without CUDA lacks is found missing at import; a visible one of the CUDA runtime
    # would be replaced by that of the runtime that torch has loaded, of perhaps another version.
    library = check_abi.built_library()
    listing = subprocess.run(["nm", "-D", str(library)], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in listing.splitlines()]
    assert [name for kind, name in symbols if kind != "w" and name.startswith("aoti_torch_get_current_cuda")] == []
    assert [name for _, name in symbols if re.match(r"_*cuda|cu[A-Z]", name)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_process_has_one_openmp_runtime() -> None:
    program = (
        "import torch, fused_rnn; fused_rnn.LSTM(4, 8)(torch.zeros(2, 1, 4)); print(open('/proc/self/maps').read())"
    )
    # A process of its own, since packages of other tests bring runtimes of theirs.
    maps = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(set(re.findall(r"\S*lib[gi]?omp\S*\.so\S*", maps))) <= 1


# --- What the build requires ---

LOOK = (
    "from build_support import toolchain; toolchain.find_ninja(); import ninja; "
    "print(toolchain.find_torch(), toolchain.find_pybind11(), ninja)"
)


def build_requirements() -> list[str]:
    found = re.search(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    requirements: list[str] = ast.literal_eval(found[1])
    return requirements


def isolated(folder: Path, requirements: list[str]) -> str:
    """A folder for sys.path that has the requirements and what they require alone, as pip's build environment."""
    folder.mkdir(exist_ok=True)
    left, found = [Requirement(each) for each in requirements], set[str]()
    while left:
        requirement = left.pop()
        if requirement.name in found or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(requirement.name)
        distribution = importlib.metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True)
        left += [Requirement(each) for each in distribution.requires or ()]
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(distribution.locate_file(name))  # type: ignore[arg-type]
    return str(folder)


def look_in(path: str) -> subprocess.CompletedProcess[str]:
    """What the build finds of packages where `path` has all there are."""
    code = f"import sys; sys.path += [{path!r}, {str(ROOT)!r}]; {LOOK}"
    return subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True, check=False)


def test_cpu_kernels_need_no_torch_and_are_compiled_as_the_build_does(tmp_path: Path) -> None:
    path = isolated(tmp_path / "packages", ["ninja"])
    written = f"ninja.write_cpu_file(Path({str(tmp_path)!r}), toolchain.find_toolchain())"
    code = f"import sys; sys.path += [{path!r}, {str(ROOT)!r}]; from build_support import ninja, toolchain; {written}"
    subprocess.run([sys.executable, "-ISc", f"from pathlib import Path; {code}"], check=True)
    found = toolchain.find_toolchain()
    whole = ninja.write_ninja_file(tmp_path / "module.so", found, "no kernels", toolchain.find_torch(), "0.0")
    alone = (tmp_path / "cpu.ninja").read_text().splitlines()
    assert set(alone) <= set(whole.read_text().splitlines())
    units = {
        line.split("csrc/cpu/isa/")[1].split("/")[0] for line in alone if "description" in line and "/isa/" in line
    }
    assert units == set(found.instruction_sets)


def test_the_build_finds_all_it_looks_for_in_an_isolated_environment(tmp_path: Path) -> None:
    path = isolated(tmp_path, build_requirements())
    result = look_in(path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(path) == 3


@pytest.mark.parametrize("name", ["torch", "pybind11"])
def test_the_isolated_environment_has_nothing_else(name: str, tmp_path: Path) -> None:
    others = [each for each in build_requirements() if not each.startswith(name)]
    check_one_sentence(look_in(isolated(tmp_path, others)), f"{name}", "is needed to build")


def test_everybody_names_the_same_requirements() -> None:
    required = build_requirements()
    oldest = ".".join(map(str, MIN_TORCH))
    assert f"torch>={oldest}" in required
    assert f'dependencies = ["torch>={oldest}"]' in (ROOT / "pyproject.toml").read_text()
    makefile = re.search(r"^BUILD_REQUIREMENTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    page = re.search(r'^pip install ("torch.*)$', (ROOT / "docs/install.md").read_text(), re.MULTILINE)
    assert makefile is not None
    assert page is not None
    assert {*shlex.split(makefile[1]), f"torch>={oldest}"} == set(shlex.split(page[1])) == set(required)


# tests/test_check_release.py has the changelog and the citation.
def test_every_version_is_the_one_of_the_package() -> None:
    assert 'version = { attr = "fused_rnn.__version__" }' in (ROOT / "pyproject.toml").read_text()
    assert fused_rnn.build_info()["version"] == fused_rnn.__version__


def test_make_and_cibuildwheel_leave_the_same_libraries_outside() -> None:
    makefile = re.search(r"^TORCH_LIBRARIES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile is not None
    excluded = re.findall(r"--exclude (\S+)", (ROOT / "pyproject.toml").read_text())
    assert makefile[1].split() == excluded


def test_workflows_wheels_and_metadata_name_the_same_pythons() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    workflow = (ROOT / ".github/workflows/wheels.yml").read_text()
    matrix = re.search(r"python: \[(.*)\]", workflow)
    assert matrix is not None
    pythons = re.findall(r'"cp3(\d+)-manylinux', pyproject)
    assert pythons == re.findall(r"Python :: 3\.(\d+)", pyproject) == re.findall(r"cp3(\d+)", matrix[1])


def test_workflows_call_targets_that_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    texts = [path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")]
    called = {name for text in texts for name in re.findall(r"run: make ([\w-]+)", text)}
    assert called
    assert called <= set(targets)


def check_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("fused_rnn: ")]
    for word in words:
        assert word in line


def test_a_missing_compiler_is_one_sentence() -> None:
    check_one_sentence(run_setup(*BUILD, CXX="no-such-compiler"), "no-such-compiler", "install g++")


def test_a_compiler_without_cxx20_is_one_sentence() -> None:
    check_one_sentence(run_setup(*BUILD, CXX="false"), "C++20")


def test_a_missing_torch_is_one_sentence() -> None:
    hidden = "sys.modules['torch'] = None"
    check_one_sentence(run_setup(*BUILD, before=hidden), "torch>=2.11", "--no-build-isolation")


def test_an_old_torch_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch-2.10.1.dist-info").mkdir()
    (tmp_path / "torch-2.10.1.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.10.1\n")
    check_one_sentence(run_setup(*BUILD, before=f"sys.path.insert(0, {str(tmp_path)!r})"), "torch>=2.11", "2.10.1")


def test_a_missing_pybind11_is_one_sentence() -> None:
    check_one_sentence(run_setup(*BUILD, before="sys.modules['pybind11'] = None"), "pip install pybind11")


def test_a_wrong_cuda_setting_is_one_sentence() -> None:
    check_one_sentence(run_setup(*BUILD, FUSED_RNN_CUDA="yes"), "FUSED_RNN_CUDA", "auto, visible, 0 or 1", '"yes"')


def test_wanted_kernels_without_nvcc_are_one_sentence() -> None:
    hidden = "import build_support.cuda as cuda; cuda.find_nvcc = lambda environment: None"
    check_one_sentence(run_setup(*BUILD, before=hidden, FUSED_RNN_CUDA="1"), "nvcc not found", "set CUDA_HOME")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc in PATH")
def test_an_unknown_gpu_is_one_sentence() -> None:
    environment = {"FUSED_RNN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0;9.9"}
    check_one_sentence(run_setup(*BUILD, **environment), "TORCH_CUDA_ARCH_LIST", '"9.9"')


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what is built."""
    folder = tmp_path_factory.mktemp("wheel")
    base = str(folder / "build")
    egg_info = ["egg_info", "--egg-base", str(folder)]
    # For the same GPUs as the module at hand: the objects are shared.
    cuda = fused_rnn.build_info()["cuda"]
    targets = {} if cuda.startswith("not built") else {"TORCH_CUDA_ARCH_LIST": cuda.partition(" for ")[2]}
    bdist = ["bdist_wheel", "--dist-dir", str(folder)]
    result = run_setup("--quiet", *egg_info, "build", "--build-base", base, *bdist, **targets)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_holds_package_module_types_and_benchmark(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"fused_rnn/__init__.py", "fused_rnn/py.typed", "fused_rnn_bench/workloads/char_lm.py"} <= names
    sources = ("CMakeLists.txt", "include/fused_rnn.h", "csrc/stream/chain.cpp", "csrc/cuda/cell_module.cuh")
    assert {f"fused_rnn/{name}" for name in sources} <= names
    assert {f"fused_rnn/{built.name}" for built in (check_abi.built_module(), check_abi.built_library())} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fused_rnn", "fused_rnn_bench"}


def test_an_installed_wheel_is_found_in_the_checkout_or_named(wheel: Path, tmp_path: Path) -> None:
    checkout, site = copied(tmp_path / "checkout", built=False), tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", str(site), str(wheel)], check=True)
    ended, text = imported(checkout, before=NO_EDITABLE, path=site)
    assert ended != 0
    check_that_it_names_the_installed_one(text, checkout, site, fused_rnn.__version__)
    assert "run Python in another folder, or (from 3.11 on) as `python -P`" in text
    # What it says works.
    way = (checkout, "-P") if sys.version_info >= (3, 11) else (tmp_path,)
    assert imported(*way, path=site) == (0, str(site / "fused_rnn" / "__init__.py"))


def check_package_page(text: str, url: str) -> None:
    """Every link of the package index' page is absolute, and those into the repository lead to what is there."""
    assert f"\nProject-URL: Source, {url}\n" in text
    links = re.findall(r"\]\((?!#)([^)\s]+)|src(?:set)?=\"([^\"]+)\"", text)
    assert len(links) > 40
    inside = rf"{url}/(?:blob|raw)/v{fused_rnn.__version__}/(.*)"
    found = [re.fullmatch(inside, "".join(link)) for link in links]
    assert [match for match in found if match is None or not (ROOT / match[1].partition("#")[0]).exists()] == []


def test_source_distribution_holds_everything_to_build_and_test(tmp_path: Path) -> None:
    base, url = str(tmp_path), "https://example.org/somebody/fused_rnn"
    result = run_setup("--quiet", "egg_info", "--egg-base", base, "sdist", "--dist-dir", base, FUSED_RNN_URL=url)
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as contents:
        names = {name.partition("/")[2] for name in contents.getnames()}
        page = next(
            each for each in contents.getmembers() if each.name.count("/") == 1 and each.name.endswith("PKG-INFO")
        )
        check_package_page(contents.extractfile(page).read().decode(), url)  # type: ignore[union-attr]
    tree = ["csrc", "fused_rnn", "bench", "build_support", "cmake", "examples", "include", "tests", "tools"]
    suffixes = {".py", ".h", ".hpp", ".c", ".cpp", ".cu", ".cuh", ".in", ".map", ".frnn"}
    files = [path for folder in tree for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert (
        expected | {"setup.py", "pyproject.toml", "Makefile", "CMakeLists.txt", "LICENSE", "fused_rnn/py.typed"}
        <= names
    )
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]
