"""`python -m fused_rnn.cmake` prints the folder of the C library's sources, for CMake's add_subdirectory.

execute_process(COMMAND python -m fused_rnn.cmake OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE)
add_subdirectory(${folder} fused_rnn)
target_link_libraries(program PRIVATE fused_rnn::static)

`python -m fused_rnn.cmake --operators` prints the path of the operators' library, which a C++ program with libtorch
loads (docs/guides/deployment.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder() -> Path:
    """The folder with CMakeLists.txt: in the installed package, or the checkout."""
    return _PACKAGE if (_PACKAGE / "CMakeLists.txt").exists() else _PACKAGE.parent


def operators() -> Path:
    """The library that registers the operators of torch.ops.fused_rnn, for programs without Python."""
    return next(_PACKAGE.glob("libfused_rnn_ops.*"))


if __name__ == "__main__":
    print(operators() if "--operators" in sys.argv[1:] else folder())
