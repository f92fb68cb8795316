"""`python -m fused_rnn.cmake` prints the folder of the C library's sources, for CMake's add_subdirectory.

execute_process(COMMAND python -m fused_rnn.cmake OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE)
add_subdirectory(${folder} fused_rnn)
target_link_libraries(program PRIVATE fused_rnn::static)

`python -m fused_rnn.cmake --build DIR` builds the library and installs it into DIR, once for each version of the
sources, and prints DIR: it has the headers, the static and the shared library, find_package(fused_rnn) and pkg-config.
What follows goes to CMake, such as -DCMAKE_TOOLCHAIN_FILE=FILE.

`python -m fused_rnn.cmake --operators` prints the path of the operators' library, which a C++ program with libtorch
loads (docs/guides/deployment.md).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGE = Path(__file__).resolve().parent
_USAGE = "usage: python -m fused_rnn.cmake [--operators | --build DIR [CMAKE_OPTION ...]]"


def folder() -> Path:
    """The folder with CMakeLists.txt: in the installed package, or the checkout."""
    return _PACKAGE if (_PACKAGE / "CMakeLists.txt").exists() else _PACKAGE.parent


def operators() -> Path:
    """The library that registers the operators of torch.ops.fused_rnn, for programs without Python."""
    return next(_PACKAGE.glob("libfused_rnn_ops.*"))


def build(place: Path, options: Sequence[str] = ()) -> Path:
    """Build the C library and install it into a folder, unless these sources were built there with these options.

    Environment: MAX_JOBS (parallel compilations), and what CMake reads: CC, CXX, CFLAGS, CXXFLAGS, LDFLAGS.

    Args:
        place: the folder, which is made.
        options: words for CMake.

    Returns:
        The folder as an absolute path, for CMAKE_PREFIX_PATH.

    Raises:
        RuntimeError: there is no CMake.
        NotADirectoryError: place is a file.
        subprocess.CalledProcessError: CMake failed, and said on stderr why.
    """
    place, stamp = place.resolve(), place.resolve() / "fused_rnn.stamp"
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(f"place must be a folder, got the file {place}")
    mark = _mark(options)
    if stamp.exists() and stamp.read_text() == mark and all((place / name).exists() for name in ("include", "lib")):
        return place
    command = shutil.which("cmake")
    if command is None:
        raise RuntimeError("no cmake was found: install CMake 3.21 or newer, such as by pip install cmake")
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as made:
        without = (f"-DFUSED_RNN_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES"))
        named = (f"-DCMAKE_INSTALL_PREFIX={place}", "-DCMAKE_INSTALL_LIBDIR=lib")
        for words in (
            ("-S", str(folder()), "-B", made, *without, *named, *options),
            ("--build", made, "--parallel", jobs),
            ("--install", made),
        ):
            subprocess.run([command, *words], stdout=sys.stderr, check=True)
    place.mkdir(parents=True, exist_ok=True)  # with DESTDIR the library is elsewhere
    stamp.write_text(mark)
    return place


def _mark(options: Sequence[str]) -> str:
    """A mark of all that the library is built from."""
    read_by_cmake = (os.environ.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS"))
    digest = hashlib.sha256("\n".join((*read_by_cmake, *options)).encode())
    root = folder()
    found = (path for name in ("cmake", "csrc", "include") for path in sorted((root / name).rglob("*.*")))
    for path in (root / "CMakeLists.txt", _PACKAGE / "__init__.py", *found):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main(arguments: Sequence[str]) -> Path:
    """The path that is printed."""
    if not arguments:
        return folder()
    if arguments[0] == "--operators" and len(arguments) == 1:
        return operators()
    if arguments[0] == "--build" and len(arguments) > 1:
        return build(Path(arguments[1]), arguments[2:])
    if arguments in (["-h"], ["--help"]):
        print(_USAGE, __doc__, sep="\n\n", end="")
        sys.exit()
    sys.exit(_USAGE)


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (RuntimeError, NotADirectoryError) as error:
        sys.exit(f"fused_rnn: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
