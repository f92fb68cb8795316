"""No sentence of what a newcomer reads is over forty words; how words and sentences are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools import sentences

if TYPE_CHECKING:
    from pathlib import Path


def test_readme_and_guides_have_no_long_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(sentences.pages()) > 10
    status = sentences.main([])
    assert capsys.readouterr().out == ""
    assert status == 0


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("One two three. Four five.\n", [3, 2]),
        ("A line\nthat wraps. And ends.\n", [4, 2]),
        ("- one item\n- another\n  that wraps\n", [2, 3]),
        ("# A heading\n\nText.\n", [2, 1]),
        ("| a cell | another one here |\n|---|---|\n", [2, 3]),
        ("```\nnot counted at all\n```\nText.\n", [1]),
        ("Call `a(b, c, d)` of [the page](there.md) - now.\n", [6]),
        ("A colon: Then a sentence, e.g. in here.\n", [2, 6]),
        ("Torch 2.13. It is.\n", [2, 2]),
    ],
)
def test_words_of_sentences(text: str, counts: list[int]) -> None:
    assert [each.words for each in sentences.sentences(text)] == counts


def test_a_long_sentence_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("Short.\n\n" + "word " * 40 + "word.\n")
    assert sentences.main([str(page)]) == 1
    assert capsys.readouterr().out.startswith(f"{page}:3: 41 words: word")
    assert sentences.main(["--most", "41", str(page)]) == 0
