"""Rows of a test's factors that have each pair of values together at least once.

Most defects need one value, or two that meet; a full product of four factors shows the same ones in
many times the rows (https://csrc.nist.gov/acts). With two factors, it is the full product.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

Param = type(pytest.param())

Pair = tuple[tuple[int, int], tuple[int, int]]
"""Two factors, each with the number of a value of its."""


def rows(*sizes: int) -> list[tuple[int, ...]]:
    """Numbers of values, one of each factor a row, so that each pair of them is in some row.

    The same sizes always give the same rows: a test that failed has its name in the next run.

    Args:
        sizes: How many values each factor has.
    """
    if any(size < 1 for size in sizes):
        raise ValueError(f"a factor without values: {sizes}")
    if len(sizes) < 2:
        return [(number,) for number in range(sum(sizes))]
    missing = {
        ((one, value), (other, another))
        for one, other in itertools.combinations(range(len(sizes)), 2)
        for value in range(sizes[one])
        for another in range(sizes[other])
    }
    found = []
    while missing:
        found.append(_best(sizes, missing))
        missing -= set(_pairs(found[-1]))
    return found


def _pairs(row: Sequence[int]) -> list[Pair]:
    return list(itertools.combinations(enumerate(row), 2))


def _best(sizes: Sequence[int], missing: set[Pair]) -> tuple[int, ...]:
    """The row that has a missing pair, and as many others as can be had one factor at a time."""
    row = dict(min(missing))
    for factor in sorted(set(range(len(sizes))) - row.keys(), key=lambda one: -sizes[one]):

        def gain(value: int, factor: int = factor) -> int:
            new = (factor, value)
            return sum(tuple(sorted((new, other))) in missing for other in row.items())

        # of equal ones the one that has most to come, so that none is left to the end alone
        def to_come(value: int, factor: int = factor) -> int:
            return sum((factor, value) in pair for pair in missing)

        row[factor] = max(range(sizes[factor]), key=lambda value: (gain(value), to_come(value)))
    return tuple(row[factor] for factor in range(len(sizes)))


def pairwise(
    factors: Mapping[str, Sequence[Any]], *, indirect: bool | Collection[str] = False
) -> pytest.MarkDecorator:
    """Parametrize a test with `rows` of its factors.

    Args:
        factors: Values by the name of the argument that gets them; several names, with commas
            between them, get a tuple. Values may be of ``pytest.param``.
        indirect: Names that are fixtures' own, as for ``pytest.mark.parametrize``.
    """
    values = [
        [_param(value, several="," in names) for value in given] for names, given in factors.items()
    ]
    names = [name.strip() for several in factors for name in several.split(",")]
    found = []
    for row in rows(*map(len, values)):
        chosen = [given[number] for given, number in zip(values, row, strict=True)]
        found.append(
            pytest.param(
                *(value for one in chosen for value in one.values),
                marks=[mark for one in chosen for mark in one.marks],
                id="-".join(_id(one, number) for one, number in zip(chosen, row, strict=True)),
            )
        )
    chosen_indirect = indirect if isinstance(indirect, bool) else list(indirect)
    return pytest.mark.parametrize(names, found, indirect=chosen_indirect)


def _param(value: Any, *, several: bool) -> Any:
    if isinstance(value, Param):
        return value
    return pytest.param(*value) if several else pytest.param(value)


def _id(value: Any, number: int) -> str:
    if value.id is not None:
        return str(value.id)
    return "-".join(
        str(one)
        if isinstance(one, (str, int, float, type(None)))
        else getattr(one, "__name__", str(number))
        for one in value.values
    )
