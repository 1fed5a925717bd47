"""Tables of `ftpd`: aligned columns on a terminal, tabs and raw numbers in a pipe.

Lives here: how wide columns are, what is left out and cut where the terminal is narrow. Lives
elsewhere: counting columns of a terminal (ftpwire/cells.py), what is in a table (the commands).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import click

from ftpwire.cells import begun, cells, columns_of, padded, shortened
from ftpwire.paths import printable

NOTHING = "-"
"""A field without a value, in a pipe."""
RED = "31"
_GAP = "  "
_LEAST = 8
"""Columns that a cut field keeps at least."""


def _no_color(text: str) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        right: Its texts stand at the right, as numbers do.
        rank: Where the terminal is too narrow, columns with the highest rank are left out first;
            those of rank 0 never.
        is_cut: Long texts are cut in their middle before the column is left out; of rank 0, after
            all others were.
        color: The colour of a text, as the terminal's code; empty for none.
    """

    head: str
    right: bool = False
    rank: int = 0
    is_cut: bool = False
    color: Callable[[str], str] = _no_color


def on_terminal() -> bool:
    """Whether people see the output."""
    return sys.stdout.isatty()


def width() -> int:
    """Columns of the terminal."""
    return columns_of(sys.stdout)


def has_colors() -> bool:
    """Whether there are colours on the terminal: https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, code: str) -> str:
    """A text in a colour, if there are any."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and has_colors() else text


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], nothing: str) -> None:
    """Print rows on a terminal, with a head; a sentence where there are none."""
    kept = list(rows)
    if not kept:
        click.echo(nothing)
        return
    for line in lines(columns, kept, width()):
        click.echo(line)


def print_fields(*fields: object) -> None:
    """Print a row for programs, with tabs between the fields. None has the sign of `NOTHING`."""
    click.echo(
        "\t".join(NOTHING if one is None or one == "" else printable(str(one)) for one in fields)
    )


def lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A head, and a line for each row: at most so many columns of a terminal."""
    widths = [
        max(cells(column.head), *(cells(row[at]) for row in rows))
        for at, column in enumerate(columns)
    ]
    shown = _fitted(columns, widths, width)
    yield begun(_line(shown, [column.head for column in columns], columns, color=False), width)
    for row in rows:
        line = _line(shown, row, columns, color=False)
        if cells(line) > width:
            yield begun(line, width)
        else:
            yield _line(shown, row, columns, color=True)


def _fitted(columns: Sequence[Column], widths: Sequence[int], width: int) -> dict[int, int]:
    """The columns that are shown, by their numbers, and how wide they are."""
    shown = dict(enumerate(widths))
    while True:
        too_much = sum(shown.values()) + len(_GAP) * (len(shown) - 1) - width
        if too_much <= 0:
            return shown
        may_go = any(columns[at].rank for at in shown)
        spare = {
            at: wide - _LEAST
            for at, wide in shown.items()
            # names, by which things are called, only when nothing else is left to be cut
            if columns[at].is_cut and wide > _LEAST and (columns[at].rank or not may_go)
        }
        if sum(spare.values()) >= too_much:
            for at in sorted(spare, key=spare.__getitem__, reverse=True):
                less = min(too_much, spare[at])
                shown[at] -= less
                too_much -= less
            return shown
        last = max(shown, key=lambda at: (columns[at].rank, at))
        if not columns[last].rank:
            return {at: min(wide, _LEAST) if at in spare else wide for at, wide in shown.items()}
        del shown[last]


def _line(
    shown: dict[int, int], row: Sequence[str], columns: Sequence[Column], *, color: bool
) -> str:
    fields = []
    for at, wide in shown.items():
        text = shortened(row[at], wide)
        field = padded(text, wide, right=columns[at].right)
        if color and (code := columns[at].color(row[at])):
            field = field.replace(text, painted(text, code))
        fields.append(field)
    return _GAP.join(fields).rstrip()
