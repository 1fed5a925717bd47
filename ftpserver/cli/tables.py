"""Tables of `ftpd`: aligned columns on a terminal, tabs and raw numbers in a pipe.

Lives here: the widths of columns, and what is left out or cut on a narrow terminal. Lives
elsewhere: the width of text on a terminal (ftpwire/cells.py), the contents (the commands).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import click

from ftpwire.cells import begun, cells, columns_of, may_color, padded, shortened
from ftpwire.paths import printable

NOTHING = "-"
"""A field without a value, in a pipe."""
RED = "31"
_T = TypeVar("_T")
_GAP = "  "
_LEAST = 8
"""Terminal columns that a cut field keeps at least."""


def _no_color(text: str) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: The title.
        right: True to align texts at the right, as numbers are.
        rank: If the terminal is too narrow, columns with the highest rank are left out first;
            those of rank 0 never.
        is_cut: True to cut long texts in their middle before the column is left out; a column of
            rank 0 is cut after all others were left out.
        color: A function that returns the terminal's code of a text's colour; empty for none.
    """

    head: str
    right: bool = False
    rank: int = 0
    is_cut: bool = False
    color: Callable[[str], str] = _no_color


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def width() -> int:
    """Return the width of the terminal in columns."""
    return columns_of(sys.stdout)


def painted(text: str, code: str) -> str:
    """Return a text in a colour, if colours are used."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and may_color() else text


def print_list(
    found: Iterable[_T],
    as_json: bool,
    columns: Sequence[Column],
    nothing: str,
    *,
    row: Callable[[_T], Sequence[str]],
    fields: Callable[[_T], Iterable[object]],
    record: Callable[[_T], dict[str, object]],
) -> None:
    """Print a list: a table on a terminal, fields with tabs in a pipe, or a JSON record per line.

    Args:
        nothing: The sentence to print on a terminal if the list is empty.
        row, fields, record: Functions that return one of the list for each of the three.
    """
    if not as_json and on_terminal():
        print_table(columns, map(row, found), nothing)
        return
    for one in found:
        if as_json:
            click.echo(json.dumps(record(one)))
        else:
            print_fields(*fields(one))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], nothing: str) -> None:
    """Print a head and rows on a terminal; without rows, the sentence ``nothing``."""
    kept = list(rows)
    if not kept:
        click.echo(nothing)
        return
    for line in lines(columns, kept, width()):
        click.echo(line)


def print_fields(*fields: object) -> None:
    """Print a row with tabs between the fields, for a pipe. None is printed as `NOTHING`."""
    click.echo(
        "\t".join(NOTHING if one is None or one == "" else printable(str(one)) for one in fields)
    )


def lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Return a head and a line for each row, at most ``width`` columns wide."""
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
    """Return the widths of the columns to show, by their indexes."""
    shown = dict(enumerate(widths))
    while True:
        too_much = sum(shown.values()) + len(_GAP) * (len(shown) - 1) - width
        if too_much <= 0:
            return shown
        may_go = any(columns[at].rank for at in shown)
        spare = {
            at: wide - _LEAST
            for at, wide in shown.items()
            # columns of rank 0, which are names, only if no other column is left
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
