"""Quoting names for the shell.

Lives here: the kinds of quotes, and which characters need them. Lives elsewhere: parsing quotes
(shell/lexer.py).
"""

from __future__ import annotations

from enum import StrEnum

BLANKS = " \t\r"
MAGIC = "*?["
OPERATORS = ";&|<>()`"
ESCAPED_IN_DOUBLE = '"\\$`'
_PLAIN_LOCALLY = "%+,-./:@_"
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


class Quote(StrEnum):
    """The kind of quotes that are open."""

    NONE = ""
    SINGLE = "'"
    DOUBLE = '"'
    CODED = "$'"


def quote(
    text: str,
    style: Quote = Quote.NONE,
    *,
    close: bool = True,
    first: bool = False,
    local: bool = False,
) -> str:
    """Quote ``text`` so that the shell reads it as typed, after the quotes ``style`` were opened.

    Args:
        close: True to close the quotes at the end; False to let the user type on inside them.
        first: True if the text begins a word, where a tilde has a meaning.
        local: True if the local shell reads it, which expands more than this one.
    """
    if not text.isprintable():
        return _coded(text, style, close)
    if style is Quote.NONE and local:
        return "".join(c if c.isalnum() or c in _PLAIN_LOCALLY else "\\" + c for c in text)
    if style is Quote.NONE:
        return _escaped(text, first)
    if style is Quote.SINGLE:
        inside = text.replace("'", "'\\''")
    elif style is Quote.DOUBLE:
        inside = "".join("\\" + c if c in ESCAPED_IN_DOUBLE else c for c in text)
    else:
        inside = "".join(_code(c) for c in text)
    return inside + (style[-1] if close else "")


def _escaped(text: str, first: bool) -> str:
    special = BLANKS + MAGIC + OPERATORS + "'\"\\"
    result = "".join(
        "\\" + c
        if c in special or (c == "$" and text[at + 1 : at + 2] == "'") or (c == "#" and not at)
        else c
        for at, c in enumerate(text)
    )
    return "\\" + result if first and text.startswith("~") else result


def _coded(text: str, style: Quote, close: bool) -> str:
    """Quote text as ``$'…'``. Other open quotes are closed first and not opened again."""
    inside = "".join(_code(c) for c in text)
    if style is Quote.CODED:
        return inside + ("'" if close else "")
    return f"{style}$'{inside}'"


def _code(character: str) -> str:
    if character in _NAMES:
        return _NAMES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\{number - 0xDC00:03o}"
    return f"\\{number:03o}" if number < 0x80 else f"\\U{number:08x}"
