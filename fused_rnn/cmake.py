"""`python -m fused_rnn.cmake` prints the folder of the C library's sources, for CMake's add_subdirectory.

execute_process(COMMAND python -m fused_rnn.cmake OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE)
add_subdirectory(${folder} fused_rnn)
target_link_libraries(program PRIVATE fused_rnn::static)
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder() -> Path:
    """The folder with CMakeLists.txt: in the installed package, or the checkout."""
    return _PACKAGE if (_PACKAGE / "CMakeLists.txt").exists() else _PACKAGE.parent


if __name__ == "__main__":
    print(folder())
