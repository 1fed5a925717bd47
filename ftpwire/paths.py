"""Remote paths: bytes inside, text at the edges.

Lives here: the one parser for paths, safe display, and text to bytes and back.
Lives elsewhere: opening what a path names (beneath.py), the local side's paths (pathlib).

POSIX names are bytes, and every file must be movable: a name may hold spaces, newlines,
escape sequences and bytes that are no UTF-8. What was checked here is what is used later.
"""

from __future__ import annotations

import os
from typing import NewType

from ftpwire.errors import InvalidPath

RemotePath = NewType("RemotePath", bytes)
"""A path as the client sees it, from its home: ``b"/docs/a.txt"``."""

Parts = tuple[bytes, ...]
"""The names along a path; none of them is empty, ``.`` or ``..``."""
ROOT = RemotePath(b"/")
MAX_PATH = 4096
"""Longest path, in bytes (Linux's PATH_MAX)."""
MAX_NAME = 255
MAX_DEPTH = 255
"""Most components of a path."""

STAGING = b".ftpd-staging"
"""A reserved name: uploads are staged below it."""
TRASH = b".ftpd-trash"
"""The other one: what was removed or replaced is kept below it for a while."""
RESERVED = frozenset({STAGING, TRASH})
"""No request can name these, at any depth."""

_NO_NAMES = frozenset({b".", b".."}) | RESERVED

PARTIAL_PREFIX = b".ftp-"
PARTIAL_SUFFIX = b".part"


def split(path: bytes) -> tuple[bytes, ...]:
    """The components of an absolute remote path, ``.`` and ``..`` resolved by their text.

    ``..`` at the top stays at the top. The root is the empty tuple.

    Raises:
        InvalidPath: Not absolute, a NUL byte, too long, or a reserved name.
    """
    if not path.startswith(b"/"):
        raise InvalidPath(f"{show(path)}: not an absolute path")
    if len(path) > MAX_PATH:
        raise InvalidPath(f"{show(path[:40])}…: longer than {MAX_PATH} bytes")
    if b"\0" in path:
        raise InvalidPath(f"{show(path)}: has a NUL byte")
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if parts:
                parts.pop()
            continue
        check_name(part)
        parts.append(part)
    if len(parts) > MAX_DEPTH:
        raise InvalidPath(f"{show(path[:40])}…: more than {MAX_DEPTH} directories deep")
    return tuple(parts)


def check_name(name: bytes) -> bytes:
    """Return ``name`` if it can be one component of a path.

    Raises:
        InvalidPath: Empty, ``.``, ``..``, a slash or NUL byte, too long, or a reserved name.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidPath(f"{show(name)}: not a file name")
    if len(name) > MAX_NAME:
        raise InvalidPath(f"{show(name[:40])}…: a name longer than {MAX_NAME} bytes")
    if name in RESERVED:
        raise InvalidPath(f"{show(name)}: this name is reserved for the server")
    return name


def is_name(name: bytes) -> bool:
    """Whether `check_name` would take it: the quick way, for long listings."""
    return (
        0 < len(name) <= MAX_NAME
        and b"/" not in name
        and b"\0" not in name
        and name not in _NO_NAMES
    )


def are_names(names: list[bytes], longest: int = MAX_NAME) -> bool:
    """Whether all of these are as `is_name` says, and not longer: in one look at all of them."""
    together = b"/".join(names)
    return (
        together.count(b"/") == max(0, len(names) - 1)
        and b"\0" not in together
        and all(names)
        and max(map(len, names), default=0) <= min(longest, MAX_NAME)
        and _NO_NAMES.isdisjoint(names)
    )


def join(*parts: bytes) -> RemotePath:
    """An absolute path from components."""
    return RemotePath(b"/" + b"/".join(parts))


def resolve(current: RemotePath, typed: bytes) -> RemotePath:
    """The absolute path for what a user typed while in ``current``."""
    absolute = typed if typed.startswith(b"/") else current + b"/" + typed
    return join(*split(absolute))


def child(directory: bytes, name: bytes) -> RemotePath:
    """The path of ``name`` in ``directory``."""
    return RemotePath(directory.rstrip(b"/") + b"/" + name)


def name_of(path: bytes) -> bytes:
    """The last component; empty for the root."""
    return path.rstrip(b"/").rsplit(b"/", 1)[-1]


def parent_of(path: bytes) -> RemotePath:
    """The directory that ``path`` is in; the root for itself."""
    return RemotePath(path.rstrip(b"/").rsplit(b"/", 1)[0] or b"/")


def from_text(text: str) -> bytes:
    """What a user typed or a local API gave, as bytes (PEP 383 for what is no UTF-8)."""
    return os.fsencode(text)


def to_text(name: bytes) -> str:
    """A name as Python's own text form, which ``from_text`` turns back exactly."""
    return os.fsdecode(name)


def plain_text(name: bytes) -> str:
    """A name for JSON: bytes that are no UTF-8 become U+FFFD."""
    return name.decode("utf-8", "replace")


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def show(name: bytes | str) -> str:
    """A name made safe to print: control characters and stray bytes become visible escapes.

    Terminal escapes can't act, one name stays on one line, and different names stay
    different.
    """
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(text, at) for at in range(len(text)))


def printable(text: str) -> str:
    """A sentence from the other side made safe to print; names in it may be shown already."""
    if text.isprintable():
        return text
    return "".join(c if c == "\\" else _shown(text, at) for at, c in enumerate(text))


def printable_lines(text: str) -> str:
    """Lines from the other side made safe to print: control characters are escaped, and lines after
    the first are indented, so that none of them looks like a line of this program's."""
    return "\n    ".join(printable(line) for line in text.split("\n"))


def _shown(text: str, at: int) -> str:
    """A character of a text, made safe to print."""
    return text[at] if _joins_emoji(text, at) else _show_character(text[at])


_JOINER = "\u200d"


def _joins_emoji(text: str, at: int) -> bool:
    """Whether a character joins two pictures to one, as in a family or a flag: it isn't printable,
    but harmless there. Between letters it would make two names look the same."""
    if text[at] != _JOINER or at + 1 == len(text):
        return False
    import unicodedata

    before = text[:at].rstrip("\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")[-1:]
    pictures = (before, text[at + 1])
    return all(one and unicodedata.category(one) == "So" for one in pictures)


def _show_character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a stray byte, by surrogateescape
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:  # above, it would look like a stray byte
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
