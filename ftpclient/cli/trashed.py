"""Operations and entries of the trash, as users name and see them.

Lives here: finding an operation by its ID and an entry by its path; lines of text.
Lives elsewhere: the commands (commands/trash.py), the version that ``--at`` selects (at.py), short
IDs (ftpwire/trash_names.py), asking the server (transfer/trash.py), objects (records.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import structs

from ftpclient.cli import moments, render
from ftpclient.cli.app import UsageError
from ftpclient.transfer.report import Forwarding, Listener, Result
from ftpclient.transfer.trash import Trashed, Version, is_undo
from ftpwire import paths, trash_names
from ftpwire.cells import begun, cells, padded
from ftpwire.errors import NotFound
from ftpwire.messages import InTrash, TrashedOperation, TrashItem
from ftpwire.paths import RemotePath
from ftpwire.units import human

_CANDIDATES = 5
"""Operations that the message about an ambiguous ID lists."""
_NAMED = 3
"""Paths that are listed in one line."""
_WIDEST = 40
"""Columns of the commands' column in a pipe; longer commands exceed it."""
_NARROWEST = 12
"""Columns of the commands' column at least, however narrow the terminal is."""
_AGO = 10
_GAP = "  "


# IDs of operations --------------------------------------------------------------------------


def short_ids(operations: Iterable[TrashedOperation]) -> dict[str, str]:
    """Return the shortest unambiguous ID of each operation, by its name."""
    return trash_names.short_ids(one.name for one in operations)


def named_operation(
    word: str, operations: Sequence[TrashedOperation], lister: str = "trash"
) -> tuple[TrashedOperation, str]:
    """Return the operation whose ID a word is, and its short ID.

    Args:
        lister: The command that lists IDs, as the user would type it.

    Raises:
        UsageError: The word is not an ID, or is ambiguous.
        NotFound: No operation has this ID.
    """
    typed = word.lower()
    if not trash_names.is_id(typed):
        raise UsageError(
            f"{paths.show(word)}: not an ID, which has at least {trash_names.SHORTEST} hexadecimal "
            f"digits ({lister} lists them)"
        )
    names = set(trash_names.meant(typed, [one.name for one in operations]))
    found = [one for one in operations if one.name in names]
    short = short_ids(operations)
    if not found:
        raise NotFound(f"{typed}: no operation in the trash has this ID ({lister} lists them)")
    if len(found) > 1:
        several = "; ".join(f"{short[one.name]} {words_of(one)}" for one in found[:_CANDIDATES])
        more = f"; and {len(found) - _CANDIDATES} more" if len(found) > _CANDIDATES else ""
        raise UsageError(f"{typed} is ambiguous: {several}{more}")
    return found[0], short[found[0].name]


# entries of operations ----------------------------------------------------------------------


def locate(items: Sequence[Trashed], path: RemotePath) -> tuple[InTrash, RemotePath]:
    """Return the trash entry that holds what was at a path, and the path inside that entry.

    Args:
        items: The entries of one operation, the newest first.

    Raises NotFound.
    """
    for one in items:
        if is_kept(one.item) and is_at_or_below(path, one.item):
            below = path[len(one.item.path.rstrip(b"/")) :]
            return one.in_trash, RemotePath(below or b"/")
    raise NotFound(f"{paths.show(path)}: this operation has nothing of this path in the trash")


class Renamed(Forwarding):
    """A listener for a download from the trash that reports original paths.

    Args:
        inner_path: The downloaded path, inside the trash entry.
        path: The original path.
    """

    def __init__(self, listener: Listener, inner_path: RemotePath, path: bytes) -> None:
        super().__init__(listener)
        self._length = len(inner_path.rstrip(b"/"))
        self._path = path

    def started(self, name: bytes, size: int | None) -> None:
        super().started(name or paths.name_of(self._path), size)

    def finished(self, result: Result) -> None:
        below = result.source[self._length :].rstrip(b"/")
        super().finished(structs.replace(result, source=self._path.rstrip(b"/") + below))


def is_kept(item: TrashItem) -> bool:
    """Return whether an entry is in the trash and can be read there."""
    return item.state == "kept" and bool(item.name)


def is_at_or_below(path: bytes, item: TrashItem) -> bool:
    """Return whether a path is the entry's original path, or below it if it is a directory."""
    return path == item.path or (
        item.type == "dir" and path.startswith(item.path.rstrip(b"/") + b"/")
    )


# text ---------------------------------------------------------------------------------------


def words_of(one: TrashedOperation) -> str:
    """Return the command line, or the paths if it is unknown."""
    if one.words or not one.first:
        return paths.printable(one.words) or "(unknown)"
    more = f" and {one.items - 1} more" if one.items > 1 else ""
    return paths.show(one.first) + more


class Operations:
    """The operations in the trash, for display: an undo is named by what it has undone.

    Attributes:
        short: The shortest unambiguous ID by the operation's name.
    """

    def __init__(self, operations: Sequence[TrashedOperation]) -> None:
        self.short = short_ids(operations)
        self._by_name = {one.name: one for one in operations}

    def is_redo(self, one: TrashedOperation) -> bool:
        """Return whether undoing an operation redoes a command."""
        return self._undone_by(one)[1] % 2 == 1

    def _undone_by(self, one: TrashedOperation) -> tuple[TrashedOperation, int]:
        """Return the original command, and the number of undos between it and this operation."""
        depth, met = 0, {one.name}
        while one.undoes in self._by_name and one.undoes not in met and is_undo(one):
            one, depth = self._by_name[one.undoes], depth + 1
            met.add(one.name)
        return one, depth + is_undo(one)

    def words(self, one: TrashedOperation) -> str:
        """Return the command line, or ``undo of …`` or ``redo of …``."""
        first, depth = self._undone_by(one)
        if not depth or first is one:
            return words_of(one)
        return f"{'undo' if depth % 2 else 'redo'} of {words_of(first)}"

    def lines(self, shown: Sequence[TrashedOperation], columns: int | None = None) -> Iterator[str]:
        """Yield a line for each of some operations.

        Args:
            columns: The width to which commands and lines are cut; None to cut nothing.
        """
        words = [self.words(one) for one in shown]
        contents = [_contents(one) for one in shown]
        ends = [moments.until(one.expires) if one.kept and not one.undone else "" for one in shown]
        ids = max((len(self.short[one.name]) for one in shown), default=0)
        widest, last = _WIDEST, 0
        if columns is not None:
            last = max(map(cells, contents), default=0)
            until = max(map(len, ends), default=0)
            left = columns - ids - _AGO - last - 3 * len(_GAP)
            if until and left - until - len(_GAP) < _NARROWEST:
                ends = [""] * len(ends)
            elif until:
                left -= until + len(_GAP)
            widest = max(_NARROWEST, left)
            words = [begun(text, widest) for text in words]
        width = max((each for each in map(cells, words) if each <= widest), default=0)
        for one, text, content, end in zip(shown, words, contents, ends, strict=True):
            begin = f"{self.short[one.name]:<{ids}}  {moments.ago(one.time_ns):>{_AGO}}"
            fields = (begin, padded(text, width), padded(content, last) if end else content, end)
            line = _GAP.join(filter(None, fields))
            yield line if columns is None else begun(line, columns)

    def describe(self, one: TrashedOperation) -> str:
        """Return the command line and how long ago it ran."""
        return f"{self.words(one)} ({moments.ago(one.time_ns)})"

    def describe_undo(self, one: TrashedOperation) -> str:
        """Return what undoing an operation does: ``undo: …``, or ``redo: …`` of the command that an
        undo has undone.
        """
        first, depth = self._undone_by(one)
        if depth % 2 and first is not one:
            return f"redo: {words_of(first)} (undone {moments.ago(one.time_ns)})"
        return "undo: " + self.describe(one)


def _contents(one: TrashedOperation) -> str:
    if one.given_up is not None:
        return "purged for space" + (f" ({human(one.given_up)})" if one.given_up else "")
    if one.undone:
        return "undone"
    if not one.kept:
        return count(one.items, "change")
    if not one.counted:
        return f"{count(one.kept, 'entry')}, being counted"
    return amount(one.files, one.size)


def amount(files: int, size: int) -> str:
    """Format a number of files and their size."""
    return f"{count(files, 'file')}, {human(size)}"


def count(number: int, what: str) -> str:
    """Format a number and a noun: ``1 file``, ``2 files``, ``3 entries``."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


_WHAT = {"tree": "removed"}
"""Displayed words for the server's codes, where they differ."""


def item_line(item: TrashItem) -> str:
    """Return the line of an entry that an operation changed."""
    name, notes = item_texts(item)
    return f"{_WHAT.get(item.what, item.what):<10} {name}" + (f"  ({notes})" if notes else "")


def item_texts(item: TrashItem) -> tuple[str, str]:
    """Return an entry's displayed name, and a note on it."""
    name = paths.show(item.path) + ("/" if item.type == "dir" else "")
    if item.target is not None:
        name += f" -> {paths.show(item.target)}"
    notes = []
    if item.name:
        if item.type == "dir" and item.files is not None and item.size is not None:
            notes.append(amount(item.files, item.size))
        elif item.type == "file" and item.size is not None:
            notes.append(human(item.size))
        if item.state != "kept":
            notes.append(item.state)
    return name, ", ".join(notes)


def version_line(number: int, version: Version) -> str:
    """Return the line of a version of a file."""
    item = version.item
    digest = "-" if item.digest is None else item.digest.hex()[:12]
    how = "replaced" if item.what == "replaced" else "removed"
    return "  ".join(
        (
            f"#{number}",
            f"{moments.ago(item.time_ns):>10}",
            f"{human(item.size or 0):>10}",
            render.short_time(item.mtime_ns),
            f"{digest:<12}",
            f"{how} by {words_of(version.operation)}",
        )
    )


def named_paths(found: Sequence[bytes], total: int) -> str:
    """Format paths: ``/a``; ``2 entries (/a, /b)``; ``9 entries (/a, /b, /c and 6 more)``.

    Args:
        total: The number of all paths; ``found`` may have only the first ones.
    """
    shown = [paths.show(path) for path in found[:_NAMED]]
    if total == 1 and shown:
        return shown[0]
    if not shown:
        return count(total, "entry")
    text = ", ".join(shown)
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    return f"{count(total, 'entry')} ({text}{more})"
