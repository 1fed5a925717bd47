"""Short IDs of operations in the trash: the first digits of the random part of their names.

Lives here: finding the shortest IDs, and the operation that an ID stands for.
Lives elsewhere: making names (ftpserver/storage/trash/directory.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

SHORTEST = 4
"""Fewest digits of an ID."""
_ID = re.compile(r"[0-9a-f]{4,8}")
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")


def is_id(word: str) -> bool:
    """Return True if a text can be the whole name, or an ID, of an operation."""
    typed = word.lower()
    return bool(_ID.fullmatch(typed) or _NAME.fullmatch(typed))


def is_name(word: str) -> bool:
    """Return True if a text is the whole name of an operation, as servers write it."""
    return bool(_NAME.fullmatch(word))


def short_ids(names: Iterable[str]) -> dict[str, str]:
    """Return the shortest unique ID for each name; the name itself if there is none."""
    names = list(names)
    count = Counter(map(_random, names))
    parts = sorted(count)
    short: dict[str, str] = {}
    for index, part in enumerate(parts):
        beside = parts[max(0, index - 1) : index] + parts[index + 1 : index + 2]
        length = max([SHORTEST, *(_alike(part, other) + 1 for other in beside)])
        short[part] = part[:length]
    return {name: short[_random(name)] if count[_random(name)] == 1 else name for name in names}


def _alike(one: str, other: str) -> int:
    """Return the number of letters at the beginning that are the same in both."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def meant(typed: str, names: Sequence[str]) -> list[str]:
    """Return the operations that a text can stand for: a whole name, or an ID of at least four
    digits.

    Raises:
        ValueError: It is neither of these.
    """
    text = typed.lower()
    if _NAME.fullmatch(text):
        return [name for name in names if name == text]
    if not _ID.fullmatch(text):
        raise ValueError(f"{typed!r} is not an operation ID: it needs at least four of 0-9 a-f")
    return [name for name in names if _random(name).startswith(text)]


def _random(name: str) -> str:
    return name.rpartition("-")[2]
