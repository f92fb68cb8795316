"""Holds functions of csrc to the sizes of .clang-tidy, which does not see the files that need torch or nvcc."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from build_support import native

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = native.ROOT
LONGEST, MOST_PARAMETERS = 80, 8


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


def violations(name: str, text: str) -> Iterator[str]:
    """Functions, templates and lambdas with a long list of parameters or a long body."""
    declared = re.compile(r"\s*(const\s+)?[\w:]+(<.*>)?(\s*[&*]+\s*|\s+)(const\s+)?\w+\s*(=.*)?", re.DOTALL)
    body = re.compile(r"\s*((const|noexcept|override|mutable)\s+|->[^{;]*)*\{")
    statement = re.compile(r"\b(if|for|while|switch|catch|constexpr)\s*$")
    code, lines = blanked(text), text.splitlines()
    for start in (found.start() for found in re.finditer(r"\(", code)):
        end = closing(code, start)
        parameters = split_by_commas(code[start + 1 : end])
        named = sum(declared.fullmatch(parameter) is not None for parameter in parameters)
        opened = None if statement.search(code, max(start - 12, 0), start) else body.match(code, end + 1)
        length = code.count("\n", opened.end(), closing(code, opened.end() - 1)) if opened else 0
        many = len(parameters) > MOST_PARAMETERS and (opened or 2 * named > len(parameters))
        number = code.count("\n", 0, start) if many or length > LONGEST else 0
        if number == 0 or "NOLINTNEXTLINE(readability-function-size)" in lines[number - 1]:
            continue
        what = f"{len(parameters)} parameters" if many else f"a function of {length} lines"
        most = MOST_PARAMETERS if many else LONGEST
        yield f"{name}:{number + 1}: {what}, at most {most}"


def test_functions_are_short_and_take_few_parameters() -> None:
    paths = [path for path in (ROOT / "csrc").rglob("*.*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    assert [one for path in paths for one in violations(path.name, path.read_text())] == []


def test_the_limits_are_those_of_clang_tidy() -> None:
    text = (ROOT / ".clang-tidy").read_text()
    assert f"function-size.LineThreshold: {LONGEST}\n" in text
    assert f"function-size.ParameterThreshold: {MOST_PARAMETERS}\n" in text


MANY = ", ".join(f"const A<int, {n}>& a{n}" for n in range(9))
LONG = "  ++a;  // }\n" * 79


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"\nvoid f({MANY});", ["a.h:2: 9 parameters, at most 8"]),
        (f"\ntemplate <class A>\nint f({MANY}) {{}}", ["a.h:3: 9 parameters, at most 8"]),
        (f"\nauto f = []({', '.join(['int'] * 9)}) {{}};", ["a.h:2: 9 parameters, at most 8"]),
        (f"\nint f(A a) const {{\n{LONG}  return a;\n  }}", ["a.h:2: a function of 81 lines, at most 80"]),
        (f"\nint f(A a) const {{\n{LONG}  }}", []),
        (f"\nint x = f({'1, ' * 8}9);", []),
        (f"// NOLINTNEXTLINE(readability-function-size): a reason\nvoid f({MANY});", []),
    ],
)
def test_a_violation_is_reported(text: str, found: list[str]) -> None:
    assert list(violations("a.h", text)) == found
