"""Commands that change the attributes of files: chmod, touch."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from datetime import datetime

import click

from ftpclient.cli import moments, obstacles, records
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.changes import Changes
from ftpclient.cli.chmod_modes import ModeChange
from ftpclient.cli.commands.browsing import complain_about, for_each, matches_or_name
from ftpclient.cli.group import RemoteArgument, RemoteOption, remote_command
from ftpclient.transfer import spool
from ftpclient.transfer.attributes import set_each
from ftpclient.transfer.report import Summary
from ftpwire import paths
from ftpwire.errors import CommandError, NotADirectory, NotFound
from ftpwire.messages import Entry, SetAttributes
from ftpwire.paths import RemotePath


@remote_command("chmod")
@click.argument("mode")
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@click.option("-R", "recursive", is_flag=True, help="Recurse into directories.")
def chmod_command(app: App, mode: str, patterns: tuple[str, ...], recursive: bool) -> None:
    """Change the modes of files and directories.

    Symbolic links are followed, but not below a directory with -R.
    """
    try:
        change = ModeChange.parse(mode)
    except ValueError as error:
        raise UsageError(str(error)) from None
    changing = _ChangingModes(app, change)
    change_one = changing.tree if recursive else changing.one
    status = for_each(app, patterns, change_one, changes=changing.changes)
    changing.changes.finish(status or changing.failures.exit_code)


class _ChangingModes:
    """The state of one `chmod` command."""

    def __init__(self, app: App, change: ModeChange) -> None:
        self._app = app
        self._change = change
        self.failures = Summary()
        self.changes = Changes(app, "chmod")

    def one(self, path: RemotePath) -> None:
        """Set the mode of one path. The old one is only read if the new one depends on it."""
        change, client = self._change, self._app.client
        if change.octal is not None:
            mode = change.octal
            client.set_attributes(path, mode=mode & 0o777, setgid=change.setgid)
        else:
            entry = client.stat(path, follow=True)
            if change.sets_setgid and entry.type != "dir":
                raise NotADirectory(f"{paths.show(path)}: only a directory can have setgid (g+s)")
            mode = change.apply(entry.mode, is_dir=entry.type == "dir")
            client.set_attributes(path, mode=mode & 0o777, setgid=_setgid(mode, entry))
        self._report(path, mode)

    def tree(self, path: RemotePath) -> None:
        """Set the modes of a tree: contents first, as the directory may become unreadable."""
        top = self._app.client.stat(path)
        if top.type != "dir":
            self.one(path)
            return
        opened = self._change.apply(top.mode, is_dir=True)
        if opened & ~top.mode & 0o500:  # else the contents cannot be listed
            self._app.client.set_attributes(path, mode=opened & 0o777)
        set_each(self._app.client.connection, self._requests(path), self._on_done)
        self.one(path)

    def _requests(self, top: RemotePath) -> Iterator[SetAttributes]:
        entries = self._app.client.list_dir(
            top, recursive=True, on_problem=complain_about(self._app, top, self.failures)
        )
        # in reverse order of the paths, so that a directory comes after its contents
        for entry in spool.sort(entries, _path_of, reverse=True):
            if entry.type in ("file", "dir"):
                mode = self._change.apply(entry.mode, is_dir=entry.type == "dir")
                if mode != entry.mode:
                    setgid = _setgid(mode, entry)
                    below = paths.child(top, entry.path)
                    yield SetAttributes(below, mode & 0o777, exact=True, setgid=setgid)

    def _on_done(self, request: SetAttributes, error: CommandError | None) -> None:
        path = RemotePath(request.path)
        if error is not None:
            self.changes.failed(path, error, exit_code=1)
            self.failures.exit_code = 1
        elif request.mode is not None:
            self._app.flush()
            self._report(path, request.mode)

    def _report(self, path: RemotePath, mode: int) -> None:
        self.changes.done(path, more={"mode": f"{mode:04o}"})
        if self._app.verbose and not self._app.as_json:
            self._app.print(f"{mode:04o} {paths.show(path)}")


def _setgid(mode: int, entry: Entry) -> bool | None:
    """Return the setgid bit to request; None if it doesn't change, for older servers."""
    if entry.type != "dir" or not (mode ^ entry.mode) & stat.S_ISGID:
        return None
    return bool(mode & stat.S_ISGID)


def _path_of(entry: Entry) -> bytes:
    return entry.path


@remote_command("touch")
@click.argument("names", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@click.option("-c", "--no-create", is_flag=True, help="Do not create missing files.")
@click.option(
    "-d", "--date", metavar="TIME", help="Set this time: 2030-12-31, 2030-12-31T18:00Z or @SECONDS."
)
@click.option(
    "-t", "stamp", metavar="[[CC]YY]MMDDhhmm[.ss]", help="Set this time, in the format of touch."
)
@click.option(
    "-r",
    "--reference",
    cls=RemoteOption,
    metavar="PATH",
    help="Use the time of another remote path.",
)
@click.option(
    "-m", "only_mtime", is_flag=True, hidden=True, help="Do nothing: there is only one time to set."
)
def touch_command(
    app: App,
    names: tuple[str, ...],
    no_create: bool,
    date: str | None,
    stamp: str | None,
    reference: str | None,
    only_mtime: bool,
) -> None:
    """Update times (default: now); create missing files."""
    if sum(one is not None for one in (date, stamp, reference)) > 1:
        raise UsageError("-d, -t and -r cannot be used together")
    given: int | None = None
    try:
        if date is not None:
            given = moments.past(date)
        elif stamp is not None:
            given = _stamp(stamp)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if reference is not None:
        given = app.client.stat(reference, follow=True).mtime_ns

    changes = Changes(app, "touch")
    directories = {app.client.resolve(name) for name in names if name.endswith("/")}

    def touch(path: RemotePath) -> None:
        with obstacles.named(app, path):
            set_or_make(path)

    def set_or_make(path: RemotePath) -> None:
        mtime_ns = time.time_ns() if given is None else given
        try:
            app.client.set_attributes(path, mtime_ns=mtime_ns)
        except NotFound as error:
            if no_create:
                changes.skipped(path, None, error)
                return
            if path in directories:
                raise
            made = _make_empty(app, path)
            if given is not None or not made:
                app.client.set_attributes(path, mtime_ns=mtime_ns)
        if app.as_json:
            entry = app.client.stat(path, follow=True)
            changes.done(path, more=records.entry_record(entry, path))

    changes.finish(for_each(app, names, touch, matches_or_name, changes))


def _make_empty(app: App, path: RemotePath) -> bool:
    """Create an empty file. Returns False if something exists there, or a broken link.

    Raises CommandError.
    """
    fd = os.open(os.devnull, os.O_RDONLY)
    try:
        summary = app.client.put_stream(fd, path, overwrite="never")
    finally:
        os.close(fd)
    if summary.first_error is not None:
        raise summary.first_error
    return not summary.skipped


_STAMP = re.compile(r"((?:[0-9]{2}){0,2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})(?:\.([0-9]{2}))?")


def _stamp(text: str) -> int:
    """Parse ``[[CC]YY]MMDDhhmm[.ss]`` in local time to nanoseconds since 1970.

    Raises ValueError.
    """
    match = _STAMP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time: write [[CC]YY]MMDDhhmm[.ss]")
    given, *rest = match.groups(default="0")
    if not given:
        year = datetime.now().year
    elif len(given) == 4:
        year = int(given)
    else:  # as POSIX has it
        year = int(given) + (1900 if int(given) >= 69 else 2000)
    month, day, hour, minute, second = map(int, rest)
    try:
        return moments.nanoseconds(datetime(year, month, day, hour, minute, second))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time: {error}") from None
