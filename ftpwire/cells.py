"""Widths of texts in terminal columns, cutting and padding to them, and whether colours are wanted.

Lives here: the only code of both programs that counts columns. The counting itself is done by
wcwidth: Chinese, Japanese and Korean letters and emoji take two columns; combining accents and what
is joined to another character take none.
Lives elsewhere: making a name safe to print (paths.py).
"""

from __future__ import annotations

import os
from typing import TextIO

CUT = "…"
"""Replaces the part of a text that is cut off."""
DEFAULT_COLUMNS = 80
_JOINER = "\u200d"


def cells(text: str) -> int:
    """Return the number of columns that a text takes. Control characters take none; callers escape
    them before they show a text."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth, wcwidth  # here, because most names are ASCII

    width: int = wcswidth(text)
    return width if width >= 0 else sum(max(0, wcwidth(one)) for one in text)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return a text padded with blanks to a width in columns.

    Args:
        right: True to put the blanks before the text, which aligns it to the right.
    """
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def begun(text: str, width: int) -> str:
    """Return the beginning of a text that fits into a width in columns, with ``…`` for the rest."""
    return text if cells(text) <= width else _head(text, width - 1) + CUT[: max(0, width)]


def shortened(text: str, width: int, before: int | None = None) -> str:
    """Return a name shortened in its middle to a width in columns. The end of a name says more than
    its middle. A file extension is kept, unless it is most of the name.

    Args:
        before: Most columns to keep of the name's beginning; None for half of the width.
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
    """Return the longest beginning of at most WIDTH columns that does not separate a character from
    what is joined to it."""
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
    """Return the longest end of at most WIDTH columns, cut in the same way."""
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
    """Return True if the character at ``at`` is not joined to the one before it."""
    if at in (0, len(text)):
        return True
    if text[at - 1] == _JOINER:
        return False
    from wcwidth import wcwidth

    # a character that adds nothing to the width of the one before is joined to it
    return wcwidth(text[at]) > 0 and cells(text[at - 1 : at + 1]) > cells(text[at - 1])


def may_color() -> bool:
    """Return whether the environment allows colours: NO_COLOR is unset or empty
    (https://no-color.org), and the terminal is not a dumb one."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns_of(stream: TextIO, *, now: bool = False) -> int:
    """Return the number of columns of the terminal that a stream writes to.

    The environment variable COLUMNS takes precedence, as in other programs; then the terminal is
    asked; otherwise it is 80.

    Args:
        now: True to ask the terminal first: COLUMNS does not follow a resize.
    """
    typed = os.environ.get("COLUMNS", "")
    said = int(typed) if typed.isdecimal() and len(typed) < 6 else 0
    try:
        real = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal; no descriptor at all
        real = 0
    first, second = (real, said) if now else (said, real)
    return first or second or DEFAULT_COLUMNS
