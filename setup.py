"""Builds the operators' library and the module fused_rnn._C with ninja; everything else is in pyproject.toml.

What is compiled how, and which variables of the environment change it, is in build_support/.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # pip runs this file without its folder on the path

from build_support.commands import MODULE, OPS_EXTENSION, BuildWithLibrary, NinjaBuildExt
from build_support.ninja import glob
from build_support.page import package_page
from build_support.toolchain import fail

MIN_SETUPTOOLS = 77  # the first that knows pyproject.toml's licence expression
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
