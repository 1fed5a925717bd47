"""Every sentence of docs/protocol.md with a number or a code in it is shown by a test.

Lives here: the walk over the document. Lives beside: which test shows which sentence
(checked_sentences.txt).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.protocol_document import claims, numbers, titles

ROOT = Path(__file__).parents[2]
CHECKED = Path(__file__).with_name("checked_sentences.txt")


Entry = tuple[str, str, str]
"""A test, words of what it shows, and the numbers in that sentence."""


def checked() -> dict[str, tuple[int, list[Entry]]]:
    """For each section: how many of its sentences have no test yet; what is shown of the others."""
    found: dict[str, tuple[int, list[Entry]]] = {}
    for line in CHECKED.read_text().splitlines():
        if line.startswith("## "):
            title, _, count = line.removeprefix("## ").rpartition(": ")
            assert title not in found, line
            entries: list[Entry] = []
            found[title] = (int(count), entries)
        elif line and not line.startswith("# "):
            test, _, words = line.partition(" | ")
            words, _, said = words.partition(" => ")
            entries.append((test, words, said))
    return found


SECTIONS = checked()


def test_the_sections_are_those_of_the_document():
    assert list(SECTIONS) == [title for title in titles() if claims(title)]


@pytest.mark.parametrize("title", SECTIONS)
def test_the_sentences_of_a_section_are_shown(title):
    """A new sentence needs a test; one that was changed, a look at it."""
    left, entries = SECTIONS[title]
    found = claims(title)
    for test, words, said in entries:
        meant = [claim for claim in found if words in claim]
        assert meant, f"{test}: nothing says {words!r} any more"
        for claim in meant:
            assert claim.startswith("|") or numbers(claim) == said, f"{test}: {claim}"
    bare = [claim for claim in found if not any(words in claim for _, words, _ in entries)]
    assert len(bare) == left, bare


def test_the_tests_exist():
    text = "\n".join(path.read_text() for path in (ROOT).rglob("test_*.py"))
    tests = set(re.findall(r"^def (test_\w+)", text, re.M))
    named = {test for _, entries in SECTIONS.values() for test, _, _ in entries}
    assert named and named <= tests, named - tests
