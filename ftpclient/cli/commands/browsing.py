"""Commands that only read: ls, stat, cat, hash, df, pwd, whoami."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from ftpclient.cli import colors, records, render
from ftpclient.cli.app import App
from ftpclient.cli.at import at_option, version_at
from ftpclient.cli.changes import Changes
from ftpclient.cli.colors import Colors
from ftpclient.cli.group import HintingCommand, RemoteArgument, raise_for, remote_command
from ftpclient.cli.naming import as_typed
from ftpclient.cli.quoting import quote
from ftpclient.connection.protocol import UnaryCall
from ftpclient.transfer import spool
from ftpclient.transfer.report import Summary
from ftpwire import paths
from ftpwire.cells import columns_of
from ftpwire.command_help import Option
from ftpwire.errors import CommandError, NotFound
from ftpwire.messages import Entry, Failed, Problem, Stat
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from ftpclient.transfer.selection import Walk


def complain_about(
    app: App, directory: RemotePath, failures: Summary, walk: Walk | None = None
) -> Callable[[Problem], None]:
    """Return a function that reports entries that the server could not read.

    Args:
        walk: Selects the entries; problems of those left out are ignored.
    """

    def complain(problem: Problem) -> None:
        if walk is not None and walk.leaves_out(problem.path):
            return
        path = paths.show(paths.child(directory, problem.path))
        error = Failed(problem.code, f"{path}: {problem.message}").to_error()
        app.complain(error)
        failures.exit_code = 1

    return complain


@contextmanager
def going_on(app: App, failures: Summary) -> Iterator[None]:
    """Report an error inside the context, and go on after it."""
    try:
        yield
    except CommandError as error:
        app.complain(error)
        failures.exit_code = 1


def matches_or_name(app: App, word: str) -> list[RemotePath]:
    """Return the paths that a word matches; if there are none, the word as a name.

    For commands that create missing files.
    """
    try:
        return app.client.glob(app.pattern(word))
    except NotFound:
        return [app.client.resolve(word)]


def _matches(app: App, word: str) -> list[RemotePath]:
    return app.client.glob(app.pattern(word))


def for_each(
    app: App,
    patterns: Iterable[str],
    action: Callable[[RemotePath], None],
    find: Callable[[App, str], list[RemotePath]] = _matches,
    changes: Changes | None = None,
) -> int:
    """Run an action for all paths that the patterns match, and return the exit status.

    Failures are reported, and the other paths still processed. See `status_of`.

    Args:
        find: A function that returns the paths of a word.
        changes: The object to report failures to, if the action changes something.
    """
    failures: list[int] = []
    total = 0
    app.client.connect()  # so that a refused log-in isn't tried again for each pattern
    for pattern in patterns:
        try:
            found = find(app, pattern)
        except CommandError as error:
            total += 1
            if changes is not None:
                changes.failed(None, error)
            else:
                app.complain(error)
            failures.append(error.exit_code)
            continue
        total += len(found)
        _each(app, found, action, failures, changes)
    return status_of(failures, total)


def _each(
    app: App,
    found: Iterable[RemotePath],
    action: Callable[[RemotePath], None],
    failures: list[int],
    changes: Changes | None = None,
) -> None:
    """Run an action for all paths, and add the statuses of failures to ``failures``."""
    for path in found:
        try:
            action(path)
        except CommandError as error:
            if changes is not None:
                changes.failed(path, error)
            else:
                app.complain(error)
            failures.append(error.exit_code)
        else:
            app.flush()


def status_of(failures: list[int], total: int) -> int:
    """Return the exit status of several actions.

    It is 0 if none failed, the common status if all failed with the same one, else 1.
    """
    if not failures:
        return 0
    return failures[0] if len(failures) == total and len(set(failures)) == 1 else 1


_SORTS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.path,
    "time": lambda entry: (-entry.mtime_ns, entry.path),
    "size": lambda entry: (-entry.size if entry.type == "file" else 0, entry.path),
    "ext": lambda entry: (_extension(entry.path), entry.path),
}
_UNSORTED = "none"


def _extension(name: bytes) -> bytes:
    """Return the part of a name after its last dot, ignoring a leading dot."""
    return name[1:].rpartition(b".")[2] if b"." in name[1:] else b""


_IN_COLUMNS = 10_000
"""Names that are arranged in columns together."""
_NAMES_IN_MEMORY = 64 * 1024
"""Bytes of names of subdirectories that are kept in memory, for each level of a recursive ls."""


class _Listing:
    """The state and options of one `ls` command."""

    def __init__(
        self,
        app: App,
        *,
        long: bool,
        everything: bool,
        human: bool,
        order: str,
        reverse: bool,
        recursive: bool,
        single: bool,
        marks: bool,
        zero: bool,
        digest: bool,
        colors: Colors | None,
        quoted: bool,
        itself: bool,
    ) -> None:
        self._app = app
        self._marks_directories = marks or not itself
        self._written = _quoted if quoted else paths.show
        self._long = long
        self._everything = everything
        self._human = human
        self._key = _SORTS.get(order)
        self._reverse = reverse
        self._recursive = recursive
        self._single = single
        self._marks = marks
        self._zero = zero
        self._digest = digest
        self._colors = colors
        self._dangling: set[bytes] = set()
        self._itself: bytes | None = None
        """The displayed name of the listed path, if it isn't a directory."""
        self._has_shown = False
        self.failures = Summary()

    def show(self, path: RemotePath, *, heading: bool, name: bytes | None = None) -> None:
        """List one path.

        Args:
            heading: True to print the path above its contents.
            name: The displayed name if it isn't a directory; None for the last part of its path.
        """
        with closing(spool.Spool(bytes, in_memory=_NAMES_IN_MEMORY)) as directories:
            entries = self._sorted(path, directories)
            self._itself = name
            first = next(entries, None)  # before the heading, as it raises errors
            if heading and not self._app.as_json and not self._zero:
                self._head(path)
            if first is not None:
                looked_at = self._looked_at(
                    lambda name: paths.child(path, name) if name else path, chain([first], entries)
                )
                self._print(path, looked_at)
            for name in directories:
                with going_on(self._app, self.failures):
                    self.show(paths.child(path, name), heading=True)

    def show_files(self, files: list[tuple[RemotePath, Entry]]) -> None:
        """List paths that aren't directories, under the names in their entries."""
        path_of = {entry.path: path for path, entry in files}
        entries = self._in_order(entry for _, entry in files)
        if self._app.as_json:
            for entry in entries:
                self._app.print_json(records.entry_record(entry, path_of[entry.path]))
            return
        self._print(paths.ROOT, self._looked_at(path_of.__getitem__, entries))
        self._has_shown |= bool(files)

    def _head(self, path: RemotePath) -> None:
        self._app.print(f"{chr(10) if self._has_shown else ''}{paths.show(path)}:")
        self._has_shown = True

    def _sorted(self, path: RemotePath, directories: spool.Spool[bytes]) -> Iterator[Entry]:
        entries = self._app.client.list_dir(
            path,
            digest=self._digest or self._app.as_json,
            on_problem=complain_about(self._app, path, self.failures),
        )
        shown = (entry for entry in entries if self._everything or not entry.path.startswith(b"."))
        for entry in self._in_order(shown):
            if self._recursive and entry.type == "dir":
                directories.add(entry.path)
            yield entry

    def _in_order(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        if self._key is None:
            return entries
        return spool.sort(entries, self._key, reverse=self._reverse)

    def _print(self, directory: RemotePath, entries: Iterator[Entry]) -> None:
        app = self._app
        if app.as_json:
            for entry in entries:
                path = paths.child(directory, entry.path) if entry.path else directory
                app.print_json(records.entry_record(entry, path))
        elif self._zero:
            for entry in entries:
                sys.stdout.buffer.write(self._raw_name(directory, entry) + b"\0")
        elif self._long or self._digest:
            for entry in entries:
                app.print(
                    render.long_line(
                        entry,
                        self._name(directory, entry),
                        human_sizes=self._human,
                        digest=self._digest,
                    )
                )
        elif self._single:
            for entry in entries:
                app.print(self._name(directory, entry))
        else:
            names = (self._name(directory, entry) for entry in entries)
            while some := list(islice(names, _IN_COLUMNS)):
                for line in render.columns(some, columns_of(sys.stdout)):
                    app.print(line)

    def _looked_at(
        self, path_of: Callable[[bytes], RemotePath], entries: Iterator[Entry]
    ) -> Iterator[Entry]:
        """Yield the entries; if names are coloured, find out which links are broken."""
        if self._colors is None or self._app.as_json or self._zero:
            yield from entries
            return
        while some := list(islice(entries, _IN_COLUMNS)):
            self._dangling = _dangling(self._app, path_of, some)
            yield from some

    def _name(self, directory: RemotePath, entry: Entry) -> str:
        name = self._written(self._raw_name(directory, entry))
        if self._colors is not None:
            name = self._colors.paint(name, entry, dangling=entry.path in self._dangling)
        return name + self._mark(entry)

    def _raw_name(self, directory: RemotePath, entry: Entry) -> bytes:
        return entry.path or self._itself or paths.name_of(directory)

    def _mark(self, entry: Entry) -> str:
        if entry.type == "dir":
            return "/" if self._marks_directories else ""
        if not self._marks or (self._long and entry.type == "link"):
            return ""
        return "@" if entry.type == "link" else "*" if entry.mode & 0o111 else ""


def _quoted(name: bytes) -> str:
    """Quote a name so that it can be pasted into a line of the shell."""
    text = paths.to_text(name)
    if text.startswith("-"):
        text = f"./{text}"  # else it would be an option
    return quote(text, first=True)


def _dangling(app: App, path_of: Callable[[bytes], RemotePath], entries: list[Entry]) -> set[bytes]:
    """Return the names of broken links."""
    connection, calls = app.client.connection, []
    for entry in entries:
        if entry.type == "link":
            call: UnaryCall[Entry] = UnaryCall()
            connection.submit(call, Stat(path_of(entry.path), follow=True))
            calls.append((entry.path, call))
    for _, call in calls:
        connection.wait_for(call)
    return {name for name, call in calls if isinstance(call.error, NotFound)}


class _LsCommand(HintingCommand):
    """A command that takes ``--color`` without a value as ``--color=always``, as GNU ls does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        words = ["--color=always" if word in _COLOR else word for word in args[:end]]
        return super().parse_args(ctx, words + args[end:])


_COLOR = ("--color", "--colour")


@remote_command("ls", _LsCommand)
@click.argument("patterns", cls=RemoteArgument, metavar="[PATH]...", nargs=-1)
@click.option("-l", "long", is_flag=True, help="Use the long format: mode, size, time.")
@click.option(
    "-a",
    "--all",
    "everything",
    cls=Option,
    also=("-A",),
    is_flag=True,
    help="Include hidden files.",
)
@click.option("-h", "--human-readable", "human", is_flag=True, help="Print human-readable sizes.")
@click.option("-t", "order", flag_value="time", help="Sort by time, newest first.")
@click.option("-S", "order", flag_value="size", help="Sort by size, largest first.")
@click.option(
    "--sort",
    "chosen",
    type=click.Choice([*_SORTS, _UNSORTED]),
    help="Sort by name, time, size or extension, or not at all.",
)
@click.option("-X", "order", flag_value="ext", hidden=True, help="Sort by extension.")
@click.option("-U", "order", flag_value=_UNSORTED, help="Do not sort.")
@click.option("-r", "--reverse", "reverse", is_flag=True, help="Reverse the order.")
@click.option("-R", "--recursive", is_flag=True, help="Recurse into directories.")
@click.option("-1", "single", is_flag=True, help="Print one name per line.")
@click.option(
    "-F", "--classify", "marks", is_flag=True, help="Mark links with @ and programs with *."
)
@click.option("-C", "across", is_flag=True, hidden=True, help="Print columns even into a pipe.")
@click.option("-0", "zero", is_flag=True, help="Print raw names, each followed by a NUL byte.")
@click.option(
    *("-Q", "--quote-name", "quoted"),
    cls=Option,
    also=("-b", "--escape"),
    is_flag=True,
    help="Quote names so that they can be pasted into the shell.",
)
@click.option(
    "-d",
    "--directory",
    "itself",
    is_flag=True,
    help="List directories themselves, not their contents.",
)
@click.option("--digest", is_flag=True, help="Show stored BLAKE3 digests (never computes one).")
@click.option(
    "--color",
    "color",
    cls=Option,
    also=("--colour",),
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="Color names by LS_COLORS: always, never or auto (default: auto).",
)
def ls_command(
    app: App,
    patterns: tuple[str, ...],
    chosen: str | None,
    color: colors.When,
    long: bool,
    everything: bool,
    human: bool,
    order: str | None,
    reverse: bool,
    recursive: bool,
    single: bool,
    marks: bool,
    across: bool,
    zero: bool,
    itself: bool,
    digest: bool,
    quoted: bool,
) -> None:
    """List directories and files."""
    listing = _Listing(
        app,
        long=long,
        everything=everything,
        human=human,
        order=chosen or order or "name",
        reverse=reverse,
        recursive=recursive,
        single=single or not (across or sys.stdout.isatty()),
        marks=marks,
        zero=zero,
        digest=digest,
        colors=None if app.as_json else colors.wanted(color),
        quoted=quoted,
        itself=itself,
    )
    names: dict[RemotePath, bytes] = {}
    files: list[tuple[RemotePath, Entry]] = []
    directories: list[RemotePath] = []

    def matches(app: App, word: str) -> list[RemotePath]:
        found = _matches(app, word)
        names.update((path, as_typed(app, word, path)) for path in found)
        return found

    def look(path: RemotePath) -> None:
        entry = app.client.stat(path, digest=digest or app.as_json)
        is_directory = entry.type == "dir"
        if entry.type == "link" and not itself:
            is_directory = app.client.is_dir(path)
        if is_directory and not itself:
            directories.append(path)
        else:
            files.append((path, structs.replace(entry, path=names[path])))

    operands: list[RemotePath] = []
    status = for_each(app, patterns or (".",), operands.append, matches)
    failures = [status] if status else []
    several = len(operands) + len(failures) > 1

    def show(path: RemotePath) -> None:
        listing.show(path, heading=recursive or several, name=names[path])

    if several or itself:
        _each(app, operands, look, failures)
        listing.show_files(files)
        _each(app, directories, show, failures)
    else:
        _each(app, operands, show, failures)
    total = len(operands) + bool(status)
    raise_for(status_of(failures, total) or listing.failures.exit_code)


@remote_command("stat")
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@click.option("-L", "follow", is_flag=True, help="Follow symbolic links.")
def stat_command(app: App, patterns: tuple[str, ...], follow: bool) -> None:
    """Show the details of files and directories."""

    def show(path: RemotePath) -> None:
        entry = app.client.stat(path, follow=follow, digest=True)
        if app.as_json:
            app.print_json(records.entry_record(entry, path))
        else:
            for line in render.stat_lines(entry, path):
                app.print(line)

    raise_for(for_each(app, patterns, show))


@remote_command("cat")
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@at_option
def cat_command(app: App, patterns: tuple[str, ...], at: str | None) -> None:
    """Print files to standard output."""
    sys.stdout.flush()
    if at is None:
        raise_for(for_each(app, patterns, app.cat))
        return

    def cat(path: RemotePath) -> None:
        version = version_at(app, path, at)
        if version is None:
            app.cat(path)
        else:
            app.cat(version.inner_path, version.in_trash)

    raise_for(for_each(app, patterns, cat, matches_or_name))  # the file may have been removed


@remote_command("hash")
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
def hash_command(app: App, patterns: tuple[str, ...]) -> None:
    """Print the BLAKE3 digests of files."""

    def show(path: RemotePath) -> None:
        hashed = app.client.hash(path)
        if app.as_json:
            app.print_json(records.hash_record(hashed, path))
        else:
            app.print(f"{hashed.digest.hex()}  {paths.show(path)}")

    raise_for(for_each(app, patterns, show))


@remote_command("df")
@click.option("-h", "human", is_flag=True, hidden=True, help="Print human-readable sizes.")
def df_command(app: App, human: bool) -> None:
    """Show total, used and free space."""
    space = app.client.space()
    if app.as_json:
        app.print_json(records.space_record(space))
    else:
        for line in render.space_lines(space, app.command):
            app.print(line)


@remote_command("pwd")
def pwd_command(app: App) -> None:
    """Print the remote directory."""
    cwd = app.client.cwd
    if app.as_json:
        app.print_json(records.path_record("path", cwd))
    else:
        app.print(paths.show(cwd))


@remote_command("whoami")
def whoami_command(app: App) -> None:
    """Print the name of the account that you are logged in as."""
    name = app.client.whoami()
    if app.as_json:
        app.print_json(records.user_record(name, app.client.address.endpoint))
    else:
        app.print(name)
