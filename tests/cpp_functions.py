"""Finds C++ functions of csrc with too many parameters or lines, where clang-tidy does not look."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_FUNCTION, MOST_PARAMETERS = 80, 8  # as in .clang-tidy


def blanked(text: str) -> str:
    """C++ text with spaces for what is a comment or a literal, line by line as before."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\''
    return re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.DOTALL)


def closing(text: str, start: int) -> int:
    """The place of the bracket that closes the one at `start`; -1: none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place
    return -1


def split_by_commas(text: str) -> list[str]:
    """The parts between commas that stand in no brackets, those of templates included."""
    parts, depth = [""], 0
    for character in text.replace("->", "  "):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def violations(root: Path) -> Iterator[str]:
    """Functions, templates and lambdas with a long list of parameters or a long body.

    As clang-tidy's readability-function-size, which does not see the files that need torch or nvcc.
    """
    declared = re.compile(r"\s*(const\s+)?[\w:]+(<.*>)?(\s*[&*]+\s*|\s+)(const\s+)?\w+\s*(=.*)?", re.DOTALL)
    body = re.compile(r"\s*((const|noexcept|override|mutable)\s+|->[^{;]*)*\{")
    statement = re.compile(r"\b(if|for|while|switch|catch|constexpr)\s*$")
    for path in sorted(path for path in (root / "csrc").rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"}):
        text = path.read_text()
        code, lines = blanked(text), text.splitlines()
        for start in (found.start() for found in re.finditer(r"\(", code)):
            end = closing(code, start)
            parameters = split_by_commas(code[start + 1 : end])
            named = sum(declared.fullmatch(parameter) is not None for parameter in parameters)
            opened = None if statement.search(code, max(start - 12, 0), start) else body.match(code, end + 1)
            length = code.count("\n", opened.end(), closing(code, opened.end() - 1)) if opened else 0
            many = len(parameters) > MOST_PARAMETERS and (opened or 2 * named > len(parameters))
            number = code.count("\n", 0, start) if many or length > LONGEST_FUNCTION else 0
            if number == 0 or "NOLINTNEXTLINE(readability-function-size)" in lines[number - 1]:
                continue
            what = f"{len(parameters)} parameters" if many else f"a function of {length} lines"
            most = MOST_PARAMETERS if many else LONGEST_FUNCTION
            yield f"{path.relative_to(root).as_posix()}:{number + 1}: {what}, at most {most}"
