"""The list of affected paths above a question, such as whether to remove them.

Lives here: the first paths in order, cut to the terminal's width; the number of further ones.
Lives elsewhere: the questions (the commands, restored.py), asking (app.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from heapq import nsmallest
from itertools import islice

from ftpclient.cli import trashed
from ftpclient.cli.app import App
from ftpclient.transfer.listing import list_pages
from ftpwire import paths
from ftpwire.cells import columns_of, shortened
from ftpwire.errors import CommandError
from ftpwire.messages import List
from ftpwire.paths import RemotePath
from ftpwire.units import human

SHOWN = 20
"""Paths that are listed above a question."""
_COUNTED = 100_000
"""Entries of a tree that are counted at most, as the user waits for the question."""


def show(app: App, rows: Iterable[tuple[bytes, str, str]], total: int) -> None:
    """Print the first rows on stderr, sorted by path, and the number of further ones.

    Args:
        rows: For each its path, its displayed name, and a note, which may be empty.
        total: The number of all; ``rows`` may have only the first ones.
    """
    app.flush()
    first = nsmallest(SHOWN, rows, key=lambda row: row[0])
    show_all(first)
    if total > len(first):
        print(f"  … and {total - len(first):,} more", file=sys.stderr)


def show_all(rows: Iterable[tuple[bytes, str, str]]) -> None:
    """Print all rows on stderr, in the given order."""
    width = columns_of(sys.stderr) - 1
    for _, name, note in rows:
        end = f"  ({note})" if note else ""
        print(f"  {shortened(name, max(8, width - 2 - len(end)))}{end}", file=sys.stderr)


def remote_row(app: App, path: RemotePath) -> tuple[bytes, str, str]:
    """Return a remote path with its size as a row for `show`."""
    try:
        entry = app.client.stat(path)
        if entry.type != "dir":
            return path, paths.show(path), human(entry.size) if entry.type == "file" else ""
        files = size = 0
        pages = list_pages(app.client.connection, List(path, recursive=True))
        entries = (entry for page in pages for entry in page.entries)
        for one in islice(entries, _COUNTED):
            files += one.type != "dir"
            size += one.size if one.type == "file" else 0
        more = "more than " if next(entries, None) is not None else ""
        name = paths.show(path.rstrip(b"/") + b"/")
        return path, name, more + trashed.amount(files, size)
    except CommandError:
        return path, paths.show(path), ""  # removing it will report the error
