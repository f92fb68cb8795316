"""What a release wants of the tag, the version, the changelog and the citation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fused_rnn
from tools import check_release

if TYPE_CHECKING:
    from pathlib import Path


def test_this_checkout_wants_nothing_but_that_its_changes_get_a_version() -> None:
    found = list(check_release.missing(check_release.ROOT, f"v{fused_rnn.__version__}"))
    assert [each for each in found if "[Unreleased]" not in each] == []


@pytest.mark.parametrize(
    ("tag", "changelog", "found"),
    [
        ("v1.2.0", "## [Unreleased]\n\n## [1.2.0] - 2026-01-02\n\n- An entry.\n", ""),
        ("v1.2.0", "## [1.2.0] - 2026-01-02\n\n- An entry.\n\n## [1.1.0] - 2025-01-02\n", ""),
        ("1.2.0", "## [1.2.0] - 2026-01-02\n", "the tag is 1.2.0, and the version"),
        ("v1.2.1", "## [1.2.0] - 2026-01-02\n", "the tag is v1.2.1, and the version"),
        ("v1.2.0", "## [1.2.0]\n", "CHANGELOG.md has no section of 1.2.0 with a date"),
        ("v1.2.0", "## [1.3.0] - 2026-01-02\n\n## [1.2.0] - 2026-01-02\n", "CHANGELOG.md has no section of 1.2.0"),
        ("v1.2.0", "Nothing.\n", "CHANGELOG.md has no section of 1.2.0 with a date"),
        ("v1.2.0", "## [1.2.0] - 2026-01-03\n", "CITATION.cff is not of 1.2.0 and 2026-01-03"),
        ("v1.2.0", "## [Unreleased]\n- New.\n\n## [1.2.0] - 2026-01-02\n", "CHANGELOG.md has entries that are not in"),
    ],
)
def test_what_is_missing_is_named(tag: str, changelog: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "fused_rnn").mkdir()
    (tmp_path / "fused_rnn/__init__.py").write_text('"""A package."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("type: software\nversion: 1.2.0\ndate-released: 2026-01-02\nlicense: X\n")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}")
    lines = list(check_release.missing(tmp_path, tag))
    assert len(lines) == bool(found)
    assert all(line.startswith(found) for line in lines)
