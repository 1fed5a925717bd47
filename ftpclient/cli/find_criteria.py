"""The tests of find: names, types, sizes, ages.

Lives here: parsing the tests in find's notation, and applying them to an entry.
Lives elsewhere: the walk and the output (cli/commands/finding.py).
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from ftpwire import paths
from ftpwire.messages import Entry
from ftpwire.units import parse_size

Criterion = Callable[[bytes, Entry], bool]
"""A test of an entry and its absolute path."""

_TYPES = {"f": "file", "d": "dir", "l": "link"}
_COUNT = re.compile(r"([-+]?)([0-9]{1,15})")
_AMOUNT = re.compile(r"([-+]?)([0-9.]{1,20})\s*([A-Za-z]*)")
_NS = 10**9
_UNITS = {"": 1, "c": 1, "w": 2, "b": 512}
"""Units of find that `parse_size` doesn't have."""


def name_like(pattern: str, *, any_case: bool = False) -> Criterion:
    """Match the last part of the path, e.g. ``*.txt``. As in find, ``*`` matches a leading dot."""
    matches = _matcher(pattern, any_case)
    return lambda path, _: matches(paths.name_of(path) or b"/")


def path_like(pattern: str) -> Criterion:
    """Match the whole absolute path; ``*`` matches slashes, too."""
    matches = _matcher(pattern, False)
    return lambda path, _: matches(path)


def _matcher(pattern: str, any_case: bool) -> Callable[[bytes], bool]:
    found = re.compile(fnmatch.translate(pattern), re.IGNORECASE if any_case else 0)
    return lambda name: found.match(paths.to_text(name)) is not None


def of_type(text: str) -> Criterion:
    """Match the types ``f``, ``d`` or ``l``, or a comma-separated list. Raises ValueError."""
    letters = text.split(",")
    if not all(letter in _TYPES for letter in letters):
        raise ValueError(f"{text!r} is not a type: use f (file), d (directory) or l (link)")
    types = {_TYPES[letter] for letter in letters}
    return lambda _, entry: entry.type in types


@dataclass(frozen=True)
class _Amount:
    """A limit: ``+N`` more than N, ``-N`` less, ``N`` exactly N units, rounded up."""

    sign: str
    number: int
    unit: int

    def meets(self, size: int) -> bool:
        limit = self.number * self.unit
        if self.sign == "+":
            return size > limit
        if self.sign == "-":
            return size < limit
        return -(-size // self.unit) == self.number


def of_size(text: str) -> Criterion:
    """Match files by size: ``+10M``, ``-4k``, ``+1.5GiB``, ``100`` (bytes). Raises ValueError."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size: write +10M for more, -10M for less")
    sign, number, unit = match.groups()
    if unit in _UNITS and number.isdigit():
        amount = _Amount(sign, int(number), _UNITS[unit])
    elif number.isdigit():
        amount = _Amount(sign, int(number), parse_size(f"1{unit}"))
    else:
        amount = _Amount(sign, parse_size(number + unit), 1)
    return lambda _, entry: entry.type == "file" and amount.meets(entry.size)


def of_age(text: str, unit_seconds: int, now_ns: int | None = None) -> Criterion:
    """Match the age: ``-7`` for less than 7 units, ``+7`` for more, ``7`` for exactly 7.

    Args:
        unit_seconds: The length of a unit in seconds: 86,400 for days, 60 for minutes.
        now_ns: The current time in nanoseconds since 1970; None to ask the clock.

    Raises:
        ValueError: It is not a number.
    """
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number: write -7 for less than 7, +7 for more")
    sign, number = match[1], int(match[2])
    now = time.time_ns() if now_ns is None else now_ns

    def meets(_: bytes, entry: Entry) -> bool:
        age_ns = now - entry.mtime_ns
        if sign == "-":
            return age_ns < number * unit_seconds * _NS
        units = age_ns // (unit_seconds * _NS)
        return units > number if sign == "+" else units == number

    return meets


def newer_than(mtime_ns: int) -> Criterion:
    """Match what was changed after a time, in nanoseconds since 1970."""
    return lambda _, entry: entry.mtime_ns > mtime_ns
