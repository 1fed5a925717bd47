"""Commands that walk through trees: find, tree."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import click
import msgspec

from ftpclient.cli import find_criteria, records, render
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.commands.browsing import complain_about, for_each, going_on
from ftpclient.cli.filter_options import Patterns, SelectingCommand, filter_options, walking
from ftpclient.cli.find_criteria import Criterion
from ftpclient.cli.group import RemoteArgument, RemoteOption, raise_for, remote_command
from ftpclient.cli.naming import as_typed, below
from ftpclient.cli.removal import Removal
from ftpclient.transfer import spool
from ftpclient.transfer.report import Summary
from ftpwire import paths, units
from ftpwire.command_help import Option
from ftpwire.messages import Entry, Problem
from ftpwire.paths import RemotePath

_DAY, _MINUTE = 86_400, 60


@remote_command("find", SelectingCommand)
@click.argument("tops", cls=RemoteArgument, metavar="[PATH]...", nargs=-1)
@click.option("-name", metavar="PATTERN", help="Match the name, e.g. '*.txt' (quoted).")
@click.option("-iname", metavar="PATTERN", help="Match like -name, ignoring case.")
@click.option("-path", "whole", metavar="PATTERN", help="Match the whole path, e.g. '/www/*.txt'.")
@click.option(
    "-type", "kind", metavar="f|d|l", help="Match files (f), directories (d) or symbolic links (l)."
)
@click.option("-empty", "empty", is_flag=True, help="Match empty files and directories.")
@click.option(
    "-size",
    metavar="[+-]N",
    help="Match files larger (+10M) or smaller (-10M); N is in bytes, unless with K, M or G.",
)
@click.option(
    "-mtime", "days", metavar="[+-]N", help="Match what changed N days ago; -7: in the last 7 days."
)
@click.option("-mmin", "minutes", metavar="[+-]N", help="Match like -mtime, in minutes.")
@click.option(
    "-newer",
    cls=RemoteOption,
    metavar="PATH",
    help="Match what changed later than the remote file PATH.",
)
@click.option(
    "-maxdepth",
    type=click.IntRange(0),
    metavar="N",
    help="Go down at most N levels (0: only PATH itself).",
)
@click.option("-mindepth", type=click.IntRange(0), metavar="N", help="Skip entries above level N.")
@click.option(
    "-ls",
    "long",
    cls=Option,
    also=("-l",),
    is_flag=True,
    help="Use the long format: mode, size, time.",
)
@click.option(
    "-0", "-print0", "zero", is_flag=True, help="Print raw paths, each followed by a NUL byte."
)
@click.option("-print", "printed", is_flag=True, help="Print what -delete removed.")
@click.option("-delete", "delete", is_flag=True, help="Delete what was found, but never / itself.")
@click.option(
    "-xdev",
    "-mount",
    "always_so",
    is_flag=True,
    hidden=True,
    help="Do nothing: a search does not leave your home.",
)
@filter_options
def find_command(
    app: App,
    tops: tuple[str, ...],
    name: str | None,
    iname: str | None,
    whole: str | None,
    kind: str | None,
    size: str | None,
    days: str | None,
    minutes: str | None,
    newer: str | None,
    maxdepth: int | None,
    mindepth: int | None,
    long: bool,
    zero: bool,
    empty: bool,
    printed: bool,
    delete: bool,
    always_so: bool,
    patterns: Patterns,
) -> None:
    """Find files and directories.

    All tests must match. Results are sorted by name, each directory before its contents, and begin
    with PATH as given. -delete removes what was found after the search, contents before their
    directory, and keeps directories that are not empty.
    """
    shown = _Shown(app, long=long, zero=zero, at_the_end=delete)
    wanted: list[Criterion] = []  # patterns even if they were quoted
    try:
        if name is not None:
            wanted.append(find_criteria.name_like(name))
        if iname is not None:
            wanted.append(find_criteria.name_like(iname, any_case=True))
        if whole is not None:
            wanted.append(shown.path_like(whole))
        if kind is not None:
            wanted.append(find_criteria.of_type(kind))
        if size is not None:
            wanted.append(find_criteria.of_size(size))
        if days is not None:
            wanted.append(find_criteria.of_age(days, _DAY))
        if minutes is not None:
            wanted.append(find_criteria.of_age(minutes, _MINUTE))
    except ValueError as error:
        raise UsageError(f"find: {error}") from None
    if newer is not None:
        wanted.append(find_criteria.newer_than(app.client.stat(newer, follow=True).mtime_ns))
    search = partial(
        _Finding,
        *(app, wanted),
        depths=(mindepth or 0, maxdepth),
        empty=empty,
        left_out=patterns,
        in_order=not delete,  # a removal has an order of its own
    )
    if not delete:
        finding = search(shown.show)
        status = for_each(app, tops or (".",), finding.look, shown.tops_of)
        raise_for(status or finding.failures.exit_code)
        return
    with closing(Removal(app)) as removal:
        finding = search(removal.add)
        status = for_each(app, tops or (".",), finding.look, shown.tops_of)
        shows = (printed or long or zero or app.verbose) and not app.as_json
        removal.run(shown.show if shows else None)
        removal.finish(status or finding.failures.exit_code or removal.exit_code)


class _Shown:
    """The output of `find`. Paths begin with PATH as it was typed, as in find(1).

    Args:
        at_the_end: True if results are printed after the search, not as they come.
    """

    def __init__(self, app: App, *, long: bool, zero: bool, at_the_end: bool) -> None:
        self._app = app
        self._at_the_end = at_the_end
        self._tops: dict[RemotePath, bytes] = {}
        """The displayed names of the starting points: of the last word, or of all words."""
        self._long = long
        self._zero = zero

    def tops_of(self, app: App, word: str) -> list[RemotePath]:
        """Return the starting points that a word matches."""
        found = app.client.glob(app.pattern(word))
        names = {path: as_typed(app, word, path) for path in found}
        self._tops = self._tops | names if self._at_the_end else names
        return found

    def name(self, path: RemotePath) -> bytes:
        """Return the displayed name of a result."""
        top = path
        while top not in self._tops:
            if top == paths.ROOT:
                return path
            top = paths.parent_of(top)
        return below(self._tops[top], path[len(top) :].lstrip(b"/"))

    def path_like(self, pattern: str) -> Criterion:
        """Match the absolute path or the displayed one."""
        like = find_criteria.path_like(pattern)
        return lambda path, entry: like(path, entry) or like(self.name(RemotePath(path)), entry)

    def show(self, path: RemotePath, entry: Entry) -> None:
        app = self._app
        if app.as_json:
            app.print_json(records.entry_record(entry, path))
            return
        name = self.name(path)
        if self._zero:
            sys.stdout.buffer.write(name + b"\0")
        elif self._long:
            app.print(render.long_line(entry, paths.show(name), human_sizes=False, digest=False))
        else:
            app.print(paths.show(name))


class _Finding:
    """The search of `find`.

    Args:
        found: A function to call for each path that passes all tests.
        in_order: True to sort the paths of each starting point by name, a directory before its
            contents; many are sorted on disk. False to pass them on as the server lists them.
        empty: True for empty files and empty directories only.
        left_out: Patterns of entries that are skipped, with their contents.
    """

    def __init__(
        self,
        app: App,
        wanted: list[Criterion],
        found: Callable[[RemotePath, Entry], None],
        *,
        depths: tuple[int, int | None],
        empty: bool,
        left_out: Patterns,
        in_order: bool,
    ) -> None:
        self._in_order = in_order
        self._left_out = left_out
        self._app = app
        self._wanted = wanted
        self._found = found
        self._empty = empty
        self._least, self._most = depths
        self.failures = Summary()

    def look(self, top: RemotePath) -> None:
        """Search a path and everything below it."""
        entry = self._app.client.stat(top, digest=self._app.as_json)
        if not self._empty:
            found = self._all(top, entry)
        elif entry.type == "dir" and self._most == 0:
            found = self._empty_itself(top, entry)
        elif entry.type == "dir":
            found = self._empty_below(top, entry)
        else:
            found = iter([(top, entry, 0)] if entry.type == "file" and not entry.size else [])
        meeting = self._meeting(found)
        if self._in_order:
            # as 0 is in no name, a directory is followed by its contents
            meeting = spool.sort(meeting, lambda one: one.path.replace(b"/", b"\0"))
        for one in meeting:
            self._found(RemotePath(one.path), one)

    def _meeting(self, found: Iterator[tuple[RemotePath, Entry, int]]) -> Iterator[Entry]:
        """Yield what passes all tests, with absolute paths."""
        for path, entry, depth in found:
            if depth < self._least or (self._most is not None and depth > self._most):
                continue
            if all(meets(path, entry) for meets in self._wanted):
                yield msgspec.structs.replace(entry, path=path)

    def _all(self, top: RemotePath, entry: Entry) -> Iterator[tuple[RemotePath, Entry, int]]:
        yield top, entry, 0
        if entry.type == "dir" and self._most != 0:
            yield from self._below(top)

    def _empty_itself(
        self, top: RemotePath, entry: Entry
    ) -> Iterator[tuple[RemotePath, Entry, int]]:
        """Search a directory alone with -empty: the beginning of its listing is enough."""
        unread: list[Problem] = []
        listing = self._app.client.list_dir(top, on_problem=unread.append)
        first: Entry | None = entry
        with closing(listing), going_on(self._app, self.failures):
            first = next(listing, None)
        if first is None and not unread:
            yield top, entry, 0

    def _empty_below(
        self, top: RemotePath, entry: Entry
    ) -> Iterator[tuple[RemotePath, Entry, int]]:
        """Search with -empty, which needs a directory's contents before it can be tested."""
        walk = walking(self._left_out)
        complain = complain_about(self._app, top, self.failures, walk)
        digest = self._app.as_json
        with closing(spool.Table(Entry)) as waiting:  # directories not listed yet

            def not_read(problem: Problem) -> None:
                # neither an unread directory nor one with an unread entry is empty
                waiting.pop(problem.path)
                waiting.pop(problem.path.rpartition(b"/")[0])
                if not self._is_deeper(problem):
                    complain(problem)

            waiting[b""] = entry
            client = self._app.client
            blocks = client.walk(top, digest=digest, on_problem=not_read)
            for directory, entries in blocks:
                mine = waiting.pop(directory)  # None: not its first part
                here = paths.child(top, directory) if directory else top
                depth = directory.count(b"/") + 1 if directory else 0
                if mine is not None and not entries:
                    yield here, mine, depth
                for one in walk.selected(directory, entries):
                    if one.type == "dir":
                        waiting[directory + b"/" + one.path if directory else one.path] = one
                    elif one.type == "file" and not one.size:
                        yield paths.child(here, one.path), one, depth + 1

    def _is_deeper(self, problem: Problem) -> bool:
        """Return whether a problem is about something deeper than -maxdepth."""
        return self._most is not None and problem.path.count(b"/") >= self._most

    def _below(self, top: RemotePath) -> Iterator[tuple[RemotePath, Entry, int]]:
        client, digest = self._app.client, self._app.as_json
        walk = walking(self._left_out)
        complain = complain_about(self._app, top, self.failures, walk)
        if self._most == 1:  # a single listing is enough
            listing = client.list_dir(top, digest=digest, on_problem=complain)
            for entry in walk.selected(b"", listing):
                yield paths.child(top, entry.path), entry, 1
            return
        # a tree of any depth comes in one request: one for each directory would take longer
        not_entered: set[bytes] = set()
        """The directories at the greatest depth in one directory. What is below comes next."""

        def complain_unless_below(problem: Problem) -> None:
            if not self._is_deeper(problem) and problem.path not in not_entered:
                complain(problem)

        blocks = client.walk(top, digest=digest, on_problem=complain_unless_below)
        last: bytes | None = None
        for directory, entries in walk.through(blocks):
            above = paths.child(top, directory) if directory else top
            depth = directory.count(b"/") + 2 if directory else 1
            if depth == self._most and directory != last:
                last = directory
                not_entered.clear()
            for entry in entries:
                if depth == self._most and entry.type == "dir":
                    not_entered.add(directory + b"/" + entry.path)
                yield paths.child(above, entry.path), entry, depth


# tree ---------------------------------------------------------------------------------------

_DRAWN = ("├── ", "└── ", "│   ", "    ")
_PLAIN = ("|-- ", "`-- ", "|   ", "    ")


@remote_command("tree")
@click.argument("patterns", cls=RemoteArgument, metavar="[PATH]...", nargs=-1)
@click.option("-L", "levels", type=click.IntRange(1), metavar="N", help="Go down at most N levels.")
@click.option("-a", "everything", is_flag=True, help="Include hidden files.")
@click.option("-d", "only_directories", is_flag=True, help="List directories only.")
@click.option("-s", "sizes", is_flag=True, hidden=True, help="Print sizes in bytes.")
@click.option("-h", "human", is_flag=True, help="Print human-readable sizes.")
def tree_command(
    app: App,
    patterns: tuple[str, ...],
    levels: int | None,
    everything: bool,
    only_directories: bool,
    sizes: bool,
    human: bool,
) -> None:
    """Draw directories as a tree."""
    drawing = _Drawing(app, levels=levels, everything=everything, only_directories=only_directories)
    drawing.sizes = "human" if human else "bytes" if sizes else None
    status = for_each(app, patterns or (".",), drawing.draw)
    drawing.conclude()
    raise_for(status or drawing.failures.exit_code)


class _Drawing:
    """The output of `tree`. Directories are listed as they are drawn, up to the level of -L.

    Attributes:
        sizes: ``bytes``, ``human``, or None to show no sizes.
    """

    def __init__(
        self, app: App, *, levels: int | None, everything: bool, only_directories: bool
    ) -> None:
        self._app = app
        self._levels = levels
        self._everything = everything
        self._only_directories = only_directories
        self._directories = self._others = 0
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        self._lines = _DRAWN if encoding.startswith("utf") else _PLAIN
        self.sizes: str | None = None
        self.failures = Summary()

    def draw(self, top: RemotePath) -> None:
        """Draw one tree."""
        entry = self._app.client.stat(top, follow=True)
        self._show(entry, top, paths.show(top), "", 0)
        if entry.type == "dir":
            self._below(top, "", 1)

    def conclude(self) -> None:
        """Print the number of directories and files."""
        if not self._app.as_json:
            files = "" if self._only_directories else f", {_counted(self._others, 'file')}"
            counted = _counted(self._directories, "director", "y", "ies")
            self._app.print(f"\n{counted}{files}")

    def _below(self, directory: RemotePath, indent: str, depth: int) -> None:
        entries = self._app.client.list_dir(
            directory, on_problem=complain_about(self._app, directory, self.failures)
        )
        shown = (entry for entry in entries if self._is_shown(entry))
        ordered = spool.sort(shown, lambda entry: entry.path)
        entry = next(ordered, None)
        while entry is not None:
            following = next(ordered, None)
            self._draw_entry(directory, entry, indent, depth, last=following is None)
            entry = following

    def _draw_entry(
        self, directory: RemotePath, entry: Entry, indent: str, depth: int, *, last: bool
    ) -> None:
        branch, corner, line, blank = self._lines
        path = paths.child(directory, entry.path)
        name = paths.show(entry.path) + ("/" if entry.type == "dir" else "")
        if entry.target is not None:
            name += f" -> {paths.show(entry.target)}"
        self._show(entry, path, name, indent + (corner if last else branch), depth)
        if entry.type != "dir":
            self._others += 1
            return
        self._directories += 1
        if self._levels is None or depth < self._levels:
            with going_on(self._app, self.failures):
                self._below(path, indent + (blank if last else line), depth + 1)

    def _is_shown(self, entry: Entry) -> bool:
        if entry.path.startswith(b".") and not self._everything:
            return False
        return entry.type == "dir" or not self._only_directories

    def _show(self, entry: Entry, path: RemotePath, name: str, branch: str, depth: int) -> None:
        if self._app.as_json:
            self._app.print_json(records.entry_record(entry, path) | {"depth": depth})
            return
        size = ""
        if self.sizes is not None and entry.type == "file":
            size = f"[{units.human(entry.size) if self.sizes == 'human' else entry.size}] "
        self._app.print(f"{branch}{size}{name}")


def _counted(count: int, word: str, one: str = "", more: str = "s") -> str:
    return f"{count} {word}{one if count == 1 else more}"
