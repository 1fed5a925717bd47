"""Screens that are kept as text in docs/screens/, and compared with what the programs print.

A screen is one file: the lines that a terminal of a given width shows, without colours, and
without blanks at their ends. Each test module that has screens keeps them in a folder of its own.

    screens.check("help/ftp-put", text, columns=80)

With the variable UPDATE_SCREENS set, the file is written instead of compared; look at what
`git diff docs/screens` shows then.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ftpwire.cells import cells

DIRECTORY = Path(__file__).parents[1] / "docs" / "screens"
UPDATE = "UPDATE_SCREENS"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


def plain(text: str) -> str:
    """A text as it is kept: without colours and blanks at the ends of lines."""
    lines = [line.rstrip() for line in _ESCAPES.sub("", text).splitlines()]
    return "\n".join(lines).rstrip("\n") + "\n"


def width(line: str) -> int:
    """How many columns of a terminal a line takes."""
    return cells(line)


def check(name: str, text: str, *, columns: int) -> None:
    """Compare a text with the kept screen ``name``, and look that it fits.

    Args:
        name: FOLDER/NAME, without the ending.
        columns: The width of the terminal that the text is for.
    """
    shown, path = plain(text), DIRECTORY / f"{name}.txt"
    for line in shown.splitlines():
        assert width(line) <= columns, f"{name}: wider than {columns} columns: {line!r}"
    if os.environ.get(UPDATE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shown, encoding="utf-8")
        return
    assert path.is_file(), f"{path} is missing: run with {UPDATE}=1 to write it"
    kept = path.read_text(encoding="utf-8")
    assert shown == kept, f"{name} has changed: run with {UPDATE}=1, and look at the difference"


def kept(folder: str) -> set[str]:
    """The names of the screens of a folder: none may be there that no test compares."""
    return {f"{folder}/{path.stem}" for path in (DIRECTORY / folder).glob("*.txt")}
