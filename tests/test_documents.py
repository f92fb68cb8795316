"""Documents wrap, fit their pages, lead where they say, and state the dependencies that test_architecture.py checks."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import pytest

import fused_rnn
from bench.problems import CELLS
from tests.test_architecture import CPU_RULES, CSRC_RULES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_LINE = 100
LONGEST_PAGE = {"docs/design.md": 250, "README.md": 150}  # in lines
# Characters of a line in a block of Python, by the beginning of the page's name; elsewhere code wraps as prose does.
WIDEST_CODE = {"README.md": 80, "docs/guides/": 84, "docs/getting-started.md": 84}


def documents(root: Path) -> list[Path]:
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def violations(root: Path) -> Iterator[str]:
    """Prose and code wrap. Tables, images, and words that no space divides are as long as they must be."""
    for path in documents(root):
        name = path.relative_to(root).as_posix()
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            text = line.strip()
            free = text.startswith(("|", "![", "<img")) or " " not in text
            if len(line) > LONGEST_LINE and not free:
                yield f"{name}:{number}: over {LONGEST_LINE} characters"
        if len(lines) > LONGEST_PAGE.get(name, len(lines)):
            yield f"{name}: over {LONGEST_PAGE[name]} lines"
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            widest = next((most for begin, most in WIDEST_CODE.items() if name.startswith(begin)), LONGEST_LINE)
            wide = [line for line in block.splitlines() if LONGEST_LINE >= len(line) > widest]
            yield from (f"{name}: over {widest} characters of code: {line}" for line in wide)


def anchors(path: Path) -> set[str]:
    """What `#...` may follow the name of a document: its headings, as GitHub and the site write them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {each.strip().replace(" ", "-") for each in words}


def broken_links(root: Path) -> Iterator[str]:
    """Links to a file or a heading that is not there."""
    for path in documents(root):
        text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
            link = "".join(target)
            name, _, anchor = link.partition("#")
            if name.startswith("https:"):
                continue
            file = (path.parent / name) if name else path
            if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
                yield f"{path.relative_to(root).as_posix()}: no {link}"


def lists_of(path: Path) -> Iterator[set[Any]]:
    """The constants of each list, tuple or set, of the keys and of the values of each dict that a file writes out."""
    for node in ast.walk(ast.parse(path.read_text())):
        found: list[list[Any]] = [node.elts] if isinstance(node, ast.Tuple | ast.List | ast.Set) else []
        found += [node.keys, node.values] if isinstance(node, ast.Dict) else []
        yield from ({one.value for one in some if isinstance(one, ast.Constant)} for some in found)


def test_every_list_of_the_cells_is_named_where_a_cell_is_added() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding a cell\n")[1].split("\n## ")[0]
    paths = [path for folder in ("fused_rnn", "bench", "tools", "tests") for path in (ROOT / folder).rglob("*.py")]
    may_have = [path for path in paths if all(f'"{cell}"' in path.read_text() for cell in CELLS)]
    with_all = [path.name for path in may_have if any(names.issuperset(CELLS) for names in lists_of(path))]
    assert len(with_all) > 10
    assert [name for name in with_all if name not in section] == []


def test_documents_wrap_and_fit_their_pages() -> None:
    assert list(violations(ROOT)) == []


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    assert list(broken_links(ROOT)) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("# A heading: `with` signs\n\n[there](#a-heading-with-signs)\n", []),
        ("[away](b.md#c)\n", ["README.md: no b.md#c"]),
        ("# C\n\n[here](#d), `[code](no.md)`\n", ["README.md: no #d"]),
        ('<img src="no.svg">\n', ["README.md: no no.svg"]),
    ],
)
def test_a_broken_link_is_reported(text: str, broken: list[str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert list(broken_links(tmp_path)) == broken


LONG = "word " * 20 + "word"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("README.md", f"# R\n\n{LONG}\n", "README.md:3: over 100 characters"),
        ("docs/notes/h.md", f"# H\n\n- {LONG}\n", "docs/notes/h.md:3: over 100 characters"),
        ("docs/design.md", "line\n" * 251, "docs/design.md: over 250 lines"),
        ("README.md", "line\n" * 151, "README.md: over 150 lines"),
        ("README.md", f"```python\n{LONG[5:]}\n```\n", f"README.md: over 80 characters of code: {LONG[5:]}"),
        ("docs/a.md", f"```\n{LONG}\n```\n", "docs/a.md:2: over 100 characters"),
    ],
)
def test_a_violation_is_reported(name: str, text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert list(violations(tmp_path)) == [found]


@pytest.mark.parametrize("text", [f"| {LONG} |", f"![{LONG}](x.png)", "x" * 101])
def test_what_cannot_wrap_is_as_long_as_it_must_be(text: str, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(f"{text}\n")
    assert list(violations(tmp_path)) == []


def test_readme_names_the_options_of_the_layers() -> None:
    layer, text = fused_rnn.LSTM(2, 3), (ROOT / "README.md").read_text()
    for name in ("layer_norm", "zoneout", "recurrent_dropout", "weight_dropout", "peephole", "cell_clip", "recompute"):
        assert f"`{name}`" in text
        assert hasattr(layer, name)


def test_the_page_on_the_design_has_the_table_of_dependencies() -> None:
    rows = re.findall(
        r"^\| `([a-z/]+)` \| [^|]+ \| ([a-z, ]+) \|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE
    )
    rules = {folder: inside for folder, (inside, _) in CSRC_RULES.items()}
    rules |= {f"cpu/{folder}": inside for folder, inside in CPU_RULES.items()}
    assert {folder: set(inside.split(", ")) for folder, inside in rows} == rules
