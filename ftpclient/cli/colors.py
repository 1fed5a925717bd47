"""Colours of names in listings.

Lives here: reading LS_COLORS (dir_colors(5)), and colouring a name. Lives elsewhere: listings
(commands/browsing.py), bars (bars.py).

As in ls, nothing is coloured if NO_COLOR is set and not empty (https://no-color.org), if TERM
is dumb, or in a pipe.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Literal

from ftpwire import paths
from ftpwire.cells import may_color
from ftpwire.messages import Entry

When = Literal["auto", "always", "never"]
_DEFAULT = {"di": "01;34", "ln": "01;36", "ex": "01;32", "pi": "33", "or": "01;31"}
"""Colours of types that LS_COLORS doesn't set: those of GNU ls, and red for a broken link."""
_CODES = re.compile(r"[0-9;]{1,32}")
_TARGET = "target"
"""In LS_COLORS: a link has the colour of its target. A listing doesn't say what that is, so
the colour of links is used."""


def wanted(when: When) -> Colors | None:
    """Return the colours for standard output; None for no colours."""
    if when == "auto":
        when = "always" if sys.stdout.isatty() and may_color() else "never"
    return Colors(os.environ.get("LS_COLORS", "")) if when == "always" else None


class Colors:
    """The colours set in LS_COLORS; unknown or malformed parts are ignored."""

    def __init__(self, text: str) -> None:
        self._of_type = dict(_DEFAULT)
        self._of_ending: dict[str, str] = {}
        for part in text.split(":"):
            key, equals, codes = part.partition("=")
            if not equals or not (_CODES.fullmatch(codes) or codes == _TARGET):
                continue
            if key.startswith("*"):
                self._of_ending[key[1:].lower()] = codes
            elif codes != _TARGET:
                self._of_type[key] = codes

    def paint(self, name: str, entry: Entry, *, dangling: bool = False) -> str:
        """Return an entry's name in its colour.

        Args:
            name: The name as displayed.
            dangling: True for a link whose target doesn't exist.
        """
        codes = self._codes(entry, dangling)
        return f"\x1b[{codes}m{name}\x1b[0m" if codes and codes.strip("0;") else name

    def _codes(self, entry: Entry, dangling: bool) -> str | None:
        types: Mapping[str, str] = self._of_type
        if entry.type == "link":
            return types.get("or") if dangling else types.get("ln")
        if entry.type == "dir":
            return types.get("di")
        if entry.type == "other":
            return types.get("pi")
        if entry.mode & 0o111:
            return types.get("ex")
        return self._of_name(paths.to_text(entry.path)) or types.get("fi")

    def _of_name(self, name: str) -> str | None:
        """Return the codes of the longest ending in LS_COLORS that the name has."""
        lower, at = name.lower(), 0
        if not self._of_ending:
            return None
        while (at := lower.find(".", at)) >= 0:
            if (codes := self._of_ending.get(lower[at:])) is not None:
                return codes
            at += 1
        return None
