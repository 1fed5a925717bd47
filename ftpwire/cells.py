"""How many columns of a terminal a text takes, and texts cut and padded by that.

Lives here: the only place of both programs that counts columns. The counting itself is wcwidth's:
Chinese, Japanese and Korean letters and emoji take two, what is joined to them and accents that
are written apart take none. Lives elsewhere: making a name safe to print (paths.py).
"""

from __future__ import annotations

import os
from typing import TextIO

CUT = "…"
"""Stands for what is left out."""
DEFAULT_COLUMNS = 80
_JOINER = "\u200d"


def cells(text: str) -> int:
    """The columns that a text takes. Control characters, which nothing shown has, take none."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth, wcwidth  # most names are ASCII

    width: int = wcswidth(text)
    return width if width >= 0 else sum(max(0, wcwidth(one)) for one in text)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """A text with blanks after it, up to so many columns.

    Args:
        right: With blanks before it.
    """
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def begun(text: str, width: int) -> str:
    """As much of the beginning of a text as so many columns hold; ``…`` stands for the rest."""
    return text if cells(text) <= width else _head(text, width - 1) + CUT[: max(0, width)]


def shortened(text: str, width: int, before: int | None = None) -> str:
    """A name cut in its middle, to so many columns: the end tells more than the middle, and what
    stands behind the last dot is kept if it is not most of it.

    Args:
        before: So many columns at most are of the name's beginning; None for half of them.
    """
    if cells(text) <= width:
        return text
    if width < 3:
        return begun(text, width)
    after = (width - 1) // 2 if before is None else width - 1 - before
    dot = text.rfind(".", 1)
    ending = cells(text[dot:]) if dot > 0 else 0
    if after < ending <= (width - 1) * 2 // 3:
        after = ending
    tail = _tail(text, after)
    return _head(text, width - 1 - cells(tail)) + CUT + tail


def _head(text: str, width: int) -> str:
    """The longest beginning of at most so many columns that tears no character from what is
    joined to it."""
    if text.isascii():
        return text[: max(0, width)]
    found = ""
    for at in range(1, len(text) + 1):
        if _may_cut(text, at):
            if cells(text[:at]) > width:
                break
            found = text[:at]
    return found


def _tail(text: str, width: int) -> str:
    """The longest end of the same kind."""
    if text.isascii():
        return text[max(0, len(text) - width) :]
    found = ""
    for at in range(len(text) - 1, -1, -1):
        if _may_cut(text, at):
            if cells(text[at:]) > width:
                break
            found = text[at:]
    return found


def _may_cut(text: str, at: int) -> bool:
    """Whether what stands before a place belongs to nothing behind it."""
    if at in (0, len(text)):
        return True
    if text[at - 1] == _JOINER:
        return False
    from wcwidth import wcwidth

    # what adds nothing to the width of what is before it belongs to that
    return wcwidth(text[at]) > 0 and cells(text[at - 1 : at + 1]) > cells(text[at - 1])


def columns_of(stream: TextIO, *, now: bool = False) -> int:
    """The columns of the terminal that a stream writes to.

    COLUMNS says it, as to other programs; else the terminal; else it is 80.

    Args:
        now: What the terminal has at this moment comes first: COLUMNS doesn't follow its changes.
    """
    typed = os.environ.get("COLUMNS", "")
    said = int(typed) if typed.isdecimal() and len(typed) < 6 else 0
    try:
        real = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal; no descriptor at all
        real = 0
    first, second = (real, said) if now else (said, real)
    return first or second or DEFAULT_COLUMNS
