"""Sizes as people write and read them.

Lives here: text to bytes and back, the same in both programs.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*(?:([KMGT])(?:iB)?|B)?", re.IGNORECASE)
_MAX_DIGITS = 20
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Bytes for what people write: ``10MiB``, ``1.5G``, ``4096``.

    Raises:
        ValueError: It is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: use bytes, or KiB, MiB, GiB, TiB")
    whole, part, letter = match[1], match[2] or "", match[3] or ""
    unit = _UNITS[letter.upper()]
    digits = part[:_MAX_DIGITS]  # in whole numbers, because a float forgets bytes beyond 8 PiB
    scale: int = 10 ** len(digits)
    size = int(whole[-_MAX_DIGITS:]) * unit + int(digits or "0") * unit // scale
    if len(whole.lstrip("0")) > _MAX_DIGITS or size >= 2**63:
        raise ValueError(f"{text[:40]!r} is more than any disk has")
    return size


def human(size: int) -> str:
    """Bytes for people: ``1.5 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
