"""What find looks for: names, types, sizes, ages.

Lives here: reading the criteria as find takes them, and whether an entry meets them.
Lives elsewhere: the walk, and what is printed (cli/commands/finding.py).
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
"""Whether an entry at an absolute path is meant."""

_TYPES = {"f": "file", "d": "dir", "l": "link"}
_COUNT = re.compile(r"([-+]?)([0-9]{1,15})")
_AMOUNT = re.compile(r"([-+]?)([0-9.]{1,20})\s*([A-Za-z]*)")
_NS = 10**9
_UNITS = {"": 1, "c": 1, "w": 2, "b": 512}
"""Letters of find that are no unit of ours."""


def name_like(pattern: str, *, any_case: bool = False) -> Criterion:
    """The last part of the path is like ``*.txt``. A leading dot is no matter, as in find."""
    matches = _matcher(pattern, any_case)
    return lambda path, _: matches(paths.name_of(path) or b"/")


def path_like(pattern: str) -> Criterion:
    """The whole absolute path is like the pattern; ``*`` stands for slashes, too."""
    matches = _matcher(pattern, False)
    return lambda path, _: matches(path)


def _matcher(pattern: str, any_case: bool) -> Callable[[bytes], bool]:
    found = re.compile(fnmatch.translate(pattern), re.IGNORECASE if any_case else 0)
    return lambda name: found.match(paths.to_text(name)) is not None


def of_type(text: str) -> Criterion:
    """``f``, ``d`` or ``l``, or several of them with commas between. Raises ValueError."""
    letters = text.split(",")
    if not all(letter in _TYPES for letter in letters):
        raise ValueError(f"{text!r}: a type is f (files), d (directories) or l (links)")
    types = {_TYPES[letter] for letter in letters}
    return lambda _, entry: entry.type in types


@dataclass(frozen=True)
class _Amount:
    """``+N``: more than that; ``-N``: less; ``N``: as much, in whole units rounded up."""

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
    """Files of ``+10M``, ``-4k``, ``+1.5GiB``, ``100`` (bytes). Raises ValueError."""
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
    """Changed ``-7``: less than so many units ago; ``+7``: more; ``7``: in just that one.

    Args:
        unit_seconds: 86,400 for days, 60 for minutes.
        now_ns: Nanoseconds since 1970; None for the moment.

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
    """Changed after that moment, in nanoseconds since 1970."""
    return lambda _, entry: entry.mtime_ns > mtime_ns
