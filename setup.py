"""Builds the operators' library and the module fused_rnn._C with ninja; everything else is in pyproject.toml.

What is compiled how, and which variables of the environment change it, is in build_support/. FUSED_RNN_URL, which the
workflow of releases sets, is the address of the repository for the page of the package index.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import setuptools
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # pip runs this file without its folder on the path

from build_support.ninja import OPS_LIBRARY, SUFFIX, build_module, glob
from build_support.toolchain import fail

MODULE, OPS_EXTENSION = "fused_rnn._C", f"fused_rnn.{Path(OPS_LIBRARY).stem}"
MIN_SETUPTOOLS = 77  # the first that knows pyproject.toml's licence expression


class NinjaBuildExt(build_ext):
    """build_ext that leaves the compiling to ninja. The operators' library is an extension with a name of its own."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith(Path(OPS_LIBRARY).stem):  # with its package or without, as setuptools asks
            return str(Path(*fullname.split("."))) + SUFFIX
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        name = Path(self.get_ext_filename(MODULE)).name
        module = build_module(name, self.distribution.get_version()).with_name(target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # replaced, not overwritten: a running Python keeps the old one mapped
        shutil.copy2(module, target)


class BuildWithLibrary(build_py):
    """build_py that puts sources into the package: those of the C library, and with them what cells are compiled with.

    fused_rnn/cmake.py and fused_rnn/_cell_compiler.py say where.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in glob("csrc/**/*.*") + glob("include/*") + glob("cmake/*") + ["CMakeLists.txt"]:
                if not name.startswith(("csrc/binding/", "csrc/cuda/instantiate/", "csrc/python/")):
                    target = Path(self.build_lib, "fused_rnn", name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.copy_file(str(ROOT / name), str(target))


def package_page() -> dict[str, Any]:
    """README, and where the repository is. Relative links lead into it where its address is known."""
    text, url = (ROOT / "README.md").read_text(encoding="utf-8"), os.environ.get("FUSED_RNN_URL", "").rstrip("/")
    page = {"long_description": text, "long_description_content_type": "text/markdown", "project_urls": {}}
    if not url:
        return page
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "fused_rnn/__init__.py").read_text(), re.MULTILINE)
    files = f"{url}/blob/v{version}"
    text = re.sub(r"\]\((?![a-z]+:|#)", f"]({files}/", text)
    text = re.sub(r'\b(src|srcset)="(?![a-z]+:)', rf'\1="{url}/raw/v{version}/', text)
    urls = {"Source": url, "Documentation": f"{files}/docs/index.md", "Changelog": f"{files}/CHANGELOG.md"}
    return page | {"long_description": text, "project_urls": urls | {"Issues": f"{url}/issues"}}


if int(setuptools.__version__.split(".")[0]) < MIN_SETUPTOOLS:
    raise fail(f"setuptools>={MIN_SETUPTOOLS} is needed to build, found {setuptools.__version__}.")
# bench/ is a plain folder in a checkout (`python -m bench`) and the package fused_rnn_bench once installed.
PACKAGES = find_packages(str(ROOT), include=["fused_rnn", "fused_rnn.*", "bench", "bench.*"])
setup(
    **package_page(),
    packages=[re.sub(r"^bench\b", "fused_rnn_bench", name) for name in PACKAGES],
    package_dir={"fused_rnn_bench": "bench"},
    ext_modules=[Extension(name, sources=glob("csrc/**/*.cpp"), language="c++") for name in (OPS_EXTENSION, MODULE)],
    cmdclass={"build_ext": NinjaBuildExt, "build_py": BuildWithLibrary},
)
