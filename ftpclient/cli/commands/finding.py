"""Looking through trees: find, tree."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from ftpclient.cli import find_criteria, render
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.commands.browsing import complain_about, for_each, going_on
from ftpclient.cli.find_criteria import Criterion
from ftpclient.cli.group import raise_for, remote_command
from ftpclient.transfer import spool
from ftpclient.transfer.report import Summary
from ftpwire import paths, units
from ftpwire.messages import Entry
from ftpwire.paths import RemotePath

_DAY, _MINUTE = 86_400, 60

_MEANT_IN_FIND = {
    "-delete": "find … -0 | xargs -0 ftp rm",
    "-exec": "find … -0 | xargs -0 …",
    "-execdir": "find … -0 | xargs -0 …",
    "-ok": "find … -0 | xargs -0 …",
    "-o": "one find for each",
    "-or": "one find for each",
    "-not": "find … | grep -v",
    "-empty": "-size 0",
    "-regex": "find … | grep -E",
    "-printf": "--json",
    "-perm": "--json, which has the modes",
    "-user": "nothing: all of it is yours",
    "-L": "nothing: links are not followed",
    "-follow": "nothing: links are not followed",
}


@remote_command("find", meant=_MEANT_IN_FIND)
@click.argument("patterns", metavar="[PATH]...", nargs=-1)
@click.option("-name", metavar="PATTERN", help="Names like *.txt; quote it.")
@click.option("-iname", metavar="PATTERN", help="The same, in capitals or not.")
@click.option("-path", "whole", metavar="PATTERN", help="Whole paths like /www/*.txt.")
@click.option("-type", "kind", metavar="f|d|l", help="Files, directories or links.")
@click.option("-size", metavar="[+-]N", help="Files larger (+10M) or smaller (-10M).")
@click.option("-mtime", "days", metavar="[+-]N", help="Changed N days ago; -7: in the last 7.")
@click.option("-mmin", "minutes", metavar="[+-]N", help="The same in minutes.")
@click.option("-newer", metavar="PATH", help="Changed after that remote file was.")
@click.option("-maxdepth", type=click.IntRange(0), metavar="N", help="No deeper; PATH itself is 0.")
@click.option("-mindepth", type=click.IntRange(0), metavar="N", help="At least so deep.")
@click.option("-l", "-ls", "long", is_flag=True, help="Modes, sizes and times.")
@click.option("-0", "-print0", "zero", is_flag=True, help="Raw paths, each ended by a NUL byte.")
@click.option("-print", "printed", is_flag=True, hidden=True)
def find_command(
    app: App,
    patterns: tuple[str, ...],
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
    printed: bool,
) -> None:
    """List all below PATH that meets every criterion."""
    wanted: list[Criterion] = []  # their patterns are patterns, in quotes or not
    try:
        if name is not None:
            wanted.append(find_criteria.name_like(name))
        if iname is not None:
            wanted.append(find_criteria.name_like(iname, any_case=True))
        if whole is not None:
            wanted.append(find_criteria.path_like(whole))
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
    finding = _Finding(app, wanted, long=long, zero=zero, depths=(mindepth or 0, maxdepth))
    status = for_each(app, patterns or (".",), finding.look)
    raise_for(status or finding.failures.exit_code)


class _Finding:
    """One `find`. What is found is printed as it comes: nothing is kept."""

    def __init__(
        self,
        app: App,
        wanted: list[Criterion],
        *,
        long: bool,
        zero: bool,
        depths: tuple[int, int | None],
    ) -> None:
        self._app = app
        self._wanted = wanted
        self._long = long
        self._zero = zero
        self._least, self._most = depths
        self.failures = Summary()

    def look(self, top: RemotePath) -> None:
        """Look at a path, and at all below it."""
        entry = self._app.client.stat(top)
        self._offer(top, entry, 0)
        if entry.type == "dir" and self._most != 0:
            for path, found, depth in self._below(top):
                self._offer(path, found, depth)

    def _below(self, top: RemotePath) -> Iterator[tuple[RemotePath, Entry, int]]:
        client = self._app.client
        complain = complain_about(self._app, top, self.failures)
        if self._most == 1:  # no need to walk on
            for entry in client.list_dir(top, on_problem=complain):
                yield paths.child(top, entry.path), entry, 1
            return
        for directory, entries in client.walk(top, on_problem=complain):
            above = paths.child(top, directory) if directory else top
            depth = directory.count(b"/") + 2 if directory else 1
            for entry in entries:
                yield paths.child(above, entry.path), entry, depth

    def _offer(self, path: RemotePath, entry: Entry, depth: int) -> None:
        if depth < self._least or (self._most is not None and depth > self._most):
            return
        if not all(meets(path, entry) for meets in self._wanted):
            return
        app = self._app
        if app.as_json:
            app.print_json(render.entry_record(entry, path))
        elif self._zero:
            sys.stdout.buffer.write(path + b"\0")
        elif self._long:
            app.print(render.long_line(entry, paths.show(path), human_sizes=False, digest=False))
        else:
            app.print(paths.show(path))


# tree ---------------------------------------------------------------------------------------

_DRAWN = ("├── ", "└── ", "│   ", "    ")
_PLAIN = ("|-- ", "`-- ", "|   ", "    ")


@remote_command("tree", meant={"-I": "find, and grep -v", "-f": "find", "--du": "du"})
@click.argument("patterns", metavar="[PATH]...", nargs=-1)
@click.option("-L", "levels", type=click.IntRange(1), metavar="N", help="No deeper than N.")
@click.option("-a", "everything", is_flag=True, help="Names that start with a dot, too.")
@click.option("-d", "only_directories", is_flag=True, help="Directories only.")
@click.option("-s", "sizes", is_flag=True, help="Sizes in bytes.")
@click.option("-h", "human", is_flag=True, help="Sizes for people.")
def tree_command(
    app: App,
    patterns: tuple[str, ...],
    levels: int | None,
    everything: bool,
    only_directories: bool,
    sizes: bool,
    human: bool,
) -> None:
    """Draw directories with their contents. --json has each entry's depth."""
    drawing = _Drawing(app, levels=levels, everything=everything, only_directories=only_directories)
    drawing.sizes = "human" if human else "bytes" if sizes else None
    status = for_each(app, patterns or (".",), drawing.draw)
    drawing.conclude()
    raise_for(status or drawing.failures.exit_code)


class _Drawing:
    """One `tree`. A directory is listed when it is drawn, so what -L leaves out costs nothing.

    Attributes:
        sizes: ``bytes``, ``human``, or None for none.
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
        """Say how much there was."""
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
            self._app.print_json(render.entry_record(entry, path) | {"depth": depth})
            return
        size = ""
        if self.sizes is not None and entry.type == "file":
            size = f"[{units.human(entry.size) if self.sizes == 'human' else entry.size}] "
        self._app.print(f"{branch}{size}{name}")


def _counted(count: int, word: str, one: str = "", more: str = "s") -> str:
    return f"{count} {word}{one if count == 1 else more}"
