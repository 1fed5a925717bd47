"""Remote paths: bytes internally, text in user interfaces.

Lives here: the only parser of paths, safe display, and conversion between text and bytes.
Lives elsewhere: opening what a path names (beneath.py), local paths (pathlib).

POSIX names are bytes, and every file must be transferable: a name may contain spaces, newlines,
escape sequences and bytes that are no UTF-8. The parsed form that was checked is also the one that
is used later.
"""

from __future__ import annotations

import os
from typing import NewType

from ftpwire.errors import InvalidPath

RemotePath = NewType("RemotePath", bytes)
"""A path as the client sees it, relative to its home: ``b"/docs/a.txt"``."""

Parts = tuple[bytes, ...]
"""The names of a path; none of them is empty, ``.`` or ``..``."""
ROOT = RemotePath(b"/")
MAX_PATH = 4096
"""Longest path, in bytes (Linux's PATH_MAX)."""
MAX_NAME = 255
MAX_DEPTH = 255
"""Most components of a path."""

STAGING = b".ftpd-staging"
"""A reserved name: uploads are staged in a directory of this name."""
TRASH = b".ftpd-trash"
"""The other reserved name: what was removed or replaced is kept there for some time."""
RESERVED = frozenset({STAGING, TRASH})
"""Names that no request can use, at any depth."""

_NO_NAMES = frozenset({b".", b".."}) | RESERVED

PARTIAL_PREFIX = b".ftp-"
PARTIAL_SUFFIX = b".part"


def split(path: bytes) -> tuple[bytes, ...]:
    """Return the components of an absolute remote path, with ``.`` and ``..`` resolved lexically.

    ``..`` at the top stays at the top. The root is the empty tuple.

    Raises:
        InvalidPath: It is not absolute, too long, or has a NUL byte or a reserved name.
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
    """Return ``name`` if it is valid as one component of a path.

    Raises:
        InvalidPath: It is empty, ``.``, ``..``, too long, reserved, or has a slash or NUL byte.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidPath(f"{show(name)}: not a file name")
    if len(name) > MAX_NAME:
        raise InvalidPath(f"{show(name[:40])}…: a name longer than {MAX_NAME} bytes")
    if name in RESERVED:
        raise InvalidPath(f"{show(name)}: this name is reserved for the server")
    return name


def is_name(name: bytes) -> bool:
    """Return True if `check_name` accepts ``name``. This is faster, for long listings."""
    return (
        0 < len(name) <= MAX_NAME
        and b"/" not in name
        and b"\0" not in name
        and name not in _NO_NAMES
    )


def is_prefix(begin: bytes) -> bool:
    """Return True if bytes can be the beginning of a name. Of every name, if they are empty."""
    return len(begin) <= MAX_NAME and b"/" not in begin and b"\0" not in begin


def are_names(names: list[bytes], longest: int = MAX_NAME) -> bool:
    """Return True if `is_name` is true of all names, and none is longer than ``longest``. All of
    them are tested at once."""
    together = b"/".join(names)
    return (
        together.count(b"/") == max(0, len(names) - 1)
        and b"\0" not in together
        and all(names)
        and max(map(len, names), default=0) <= min(longest, MAX_NAME)
        and _NO_NAMES.isdisjoint(names)
    )


def join(*parts: bytes) -> RemotePath:
    """Return an absolute path made of components."""
    return RemotePath(b"/" + b"/".join(parts))


def resolve(current: RemotePath, typed: bytes) -> RemotePath:
    """Return the absolute path for what a user typed while in ``current``."""
    absolute = typed if typed.startswith(b"/") else current + b"/" + typed
    return join(*split(absolute))


def child(directory: bytes, name: bytes) -> RemotePath:
    """Return the path of ``name`` in ``directory``."""
    return RemotePath(directory.rstrip(b"/") + b"/" + name)


def name_of(path: bytes) -> bytes:
    """Return the last component; empty for the root."""
    return path.rstrip(b"/").rsplit(b"/", 1)[-1]


def parent_of(path: bytes) -> RemotePath:
    """Return the parent directory of ``path``; for the root, the root."""
    return RemotePath(path.rstrip(b"/").rsplit(b"/", 1)[0] or b"/")


def from_text(text: str) -> bytes:
    """Return text from a user or a local API as bytes (PEP 383 for what is no UTF-8)."""
    return os.fsencode(text)


def to_text(name: bytes) -> str:
    """Return a name in Python's own text form, which ``from_text`` turns back exactly."""
    return os.fsdecode(name)


def plain_text(name: bytes) -> str:
    """Return a name for JSON: bytes that are no UTF-8 become U+FFFD."""
    return name.decode("utf-8", "replace")


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def show(name: bytes | str) -> str:
    """Return a name made safe to print: control characters and stray bytes become visible escapes.

    Terminal escapes have no effect, a name stays on one line, and different names stay different.
    """
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(text, at) for at in range(len(text)))


def printable(text: str) -> str:
    """Return a sentence from the peer made safe to print. Names in it may be escaped already."""
    if text.isprintable():
        return text
    return "".join(c if c == "\\" else _shown(text, at) for at, c in enumerate(text))


def printable_lines(text: str) -> str:
    """Return lines from the peer made safe to print. Control characters are escaped, and all lines
    but the first are indented, so that none looks like output of this program."""
    return "\n    ".join(printable(line) for line in text.split("\n"))


def _shown(text: str, at: int) -> str:
    """Return a character of a text, made safe to print."""
    return text[at] if _joins_emoji(text, at) else _show_character(text[at])


_JOINER = "\u200d"


def _joins_emoji(text: str, at: int) -> bool:
    """Return True if a character joins two emoji into one, as in a family or a flag. It is not
    printable, but harmless there. Between letters it would make two names look the same."""
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
    if number < 0x80:  # \x with a larger number would look like a stray byte
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
