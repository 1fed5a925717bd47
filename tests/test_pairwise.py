"""Pairwise rows have each pair, few rows, and come to tests as their arguments."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pairwise import pairwise, rows


def pairs_of(found: list[tuple[int, ...]]) -> set:
    return {pair for row in found for pair in itertools.combinations(enumerate(row), 2)}


@given(st.lists(st.integers(1, 6), max_size=5))
def test_each_pair_is_in_some_row(sizes):
    found = rows(*sizes)
    assert pairs_of(found) == pairs_of(list(itertools.product(*map(range, sizes))))
    assert {(at, value) for row in found for at, value in enumerate(row)} == {
        (at, value) for at, size in enumerate(sizes) for value in range(size)
    }
    assert len(found) == len(set(found)) <= math.prod(sizes) or not sizes
    assert found == rows(*sizes), "the same in each run, and in each process of one"


@pytest.mark.parametrize(
    ("sizes", "most"), [((2, 2, 2), 4), ((3, 3, 3, 3), 12), ((2,) * 7, 10), ((2, 2, 23), 46)]
)
def test_they_are_few(sizes, most):
    assert len(rows(*sizes)) <= most


def test_two_factors_are_a_full_product():
    assert sorted(rows(3, 4)) == list(itertools.product(range(3), range(4)))


def test_a_factor_without_values_is_a_mistake():
    with pytest.raises(ValueError, match="without values"):
        rows(2, 0)


@pairwise(
    {
        "letter": ["a", "b"],
        "number, word": [(1, "one"), pytest.param(2, "two", id="second")],
        "fixed": [True, False],
    },
    indirect=["fixed"],
)
def test_a_test_gets_them(letter, number, word, fixed, request):
    assert (number, word) in ((1, "one"), (2, "two"))
    assert fixed in ("fixture of True", "fixture of False")
    first, second, third = request.node.callspec.id.split("-", 1)[0], word, fixed.split()[-1]
    assert first == letter and ("second" in request.node.callspec.id) == (second == "two")
    assert request.node.callspec.id.endswith(third)


@pytest.fixture
def fixed(request) -> str:
    return f"fixture of {request.param}"


def test_marks_and_names_are_kept():
    mark = pairwise({"one": [1, pytest.param(2, marks=pytest.mark.long)], "other": ["x", "y"]})
    names, found = mark.args
    assert names == ["one", "other"]
    assert {one.id for one in found} == {"1-x", "1-y", "2-x", "2-y"}
    assert {one.id for one in found if one.marks} == {"2-x", "2-y"}
