"""What people call an operation in the trash: the beginning of the random part of its name.

Lives here: the shortest such IDs, and which operation is meant by one. Lives elsewhere: making
names (ftpserver/storage/trash/directory.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

SHORTEST = 4
"""Digits that an ID has at least."""
_ID = re.compile(r"[0-9a-f]{4,8}")
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")


def is_id(word: str) -> bool:
    """Whether a text may mean an operation: a whole name, or an ID."""
    typed = word.lower()
    return bool(_ID.fullmatch(typed) or _NAME.fullmatch(typed))


def is_name(word: str) -> bool:
    """Whether a text is the whole name of an operation, as servers write it."""
    return bool(_NAME.fullmatch(word))


def short_ids(names: Iterable[str]) -> dict[str, str]:
    """For the name of each operation its shortest ID that means no other one; the name where there
    is none."""
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
    """How many letters two begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def meant(typed: str, names: Sequence[str]) -> list[str]:
    """The operations that a text can mean: a whole name, or an ID of at least four digits.

    Raises:
        ValueError: It is neither.
    """
    text = typed.lower()
    if _NAME.fullmatch(text):
        return [name for name in names if name == text]
    if not _ID.fullmatch(text):
        raise ValueError(f"{typed!r} is no ID of an operation: at least four of 0-9 a-f")
    return [name for name in names if _random(name).startswith(text)]


def _random(name: str) -> str:
    return name.rpartition("-")[2]
