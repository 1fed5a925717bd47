"""Guesses of what was meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire.likeness import distance, hint, probably_meant

KNOWN = ("ls", "rm", "rmdir", "chmod", "cat", "get", "put", "hash", "whoami", "--resume", "--port")
WORDS = st.text("abc-", max_size=8)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lss", "ls"),  # one letter too many
        ("chmd", "chmod"),  # one too few
        ("cet", None),  # cat, or get: two that are equally near
        ("tac", None),  # two mistakes in a short word
        ("hsah", "hash"),  # two neighbours swapped
        ("whomia", "whoami"),  # two mistakes in a long one
        ("whoa", "whoami"),  # its beginning
        ("l", None),
        ("rmm", None),  # never towards what removes
        ("rmdri", None),
        ("chdir", None),
        ("trash", None),
        ("echo", None),
        ("wait", None),
        ("--remove-source", None),
        ("--resmue", "--resume"),
        ("--prot", "--port"),
        ("--res", "--resume"),
        ("", None),
    ],
)
def test_a_misspelling_is_understood_and_a_likeness_is_not(word, meant):
    assert probably_meant(word, KNOWN) == meant
    assert hint(word, KNOWN) == ("" if meant is None else f": did you mean {meant}?")


def plain_distance(one: str, other: str) -> int:
    """By the definition of the optimal string alignment, without a table."""
    if not one or not other:
        return len(one) + len(other)
    cost = min(
        plain_distance(one[1:], other) + 1,
        plain_distance(one, other[1:]) + 1,
        plain_distance(one[1:], other[1:]) + (one[0] != other[0]),
    )
    if one[:2] == other[1::-1] and len(one) > 1 and len(other) > 1:
        cost = min(cost, plain_distance(one[2:], other[2:]) + 1)
    return cost


@given(one=st.text("ab", max_size=5), other=st.text("abc", max_size=5))
def test_the_distance_is_what_its_definition_says(one, other):
    assert distance(one, other) == plain_distance(one, other) == distance(other, one)


@given(word=WORDS, known=st.lists(WORDS))
def test_what_is_meant_is_known(word, known):
    assert probably_meant(word, known) in {None, *known}
