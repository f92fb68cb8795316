"""The commands of setuptools that build the package: ninja compiles, and sources go into it for who compiles later."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

from build_support.ninja import OPS_LIBRARY, SUFFIX, build_module, glob
from build_support.toolchain import ROOT

if TYPE_CHECKING:
    from setuptools import Extension

MODULE, OPS_EXTENSION = "fused_rnn._C", f"fused_rnn.{Path(OPS_LIBRARY).stem}"


class NinjaBuildExt(build_ext):
    """build_ext that leaves the compiling to ninja. The operators' library is an extension with a name of its own."""

    def get_ext_filename(self, fullname: str) -> str:
        """The file of an extension."""
        if fullname.endswith(Path(OPS_LIBRARY).stem):  # with its package or without, as setuptools asks
            return str(Path(*fullname.split("."))) + SUFFIX
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]

    def build_extension(self, ext: Extension) -> None:
        """Bring the built file to its place."""
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
        """Copy them behind the modules."""
        super().run()
        if not self.editable_mode:
            for name in glob("csrc/**/*.*") + glob("include/*") + glob("cmake/*") + ["CMakeLists.txt"]:
                if not name.startswith(("csrc/binding/", "csrc/cuda/instantiate/", "csrc/python/")):
                    target = Path(self.build_lib, "fused_rnn", name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.copy_file(str(ROOT / name), str(target))
