"""The command diff, which shows the differences between two text files.

Lives here: which files are compared as text, and which by their digests; the exit status. Lives
elsewhere: which paths are remote (commands/sync.py), the local copies (private_copies.py),
comparing directories (commands/checking.py).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from ftpclient.cli import locations
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.commands.sync import checked_roots, expanded
from ftpclient.cli.group import HintingCommand, offers, raise_for, remote_command
from ftpclient.cli.private_copies import fetch, local_digest, private_directory
from ftpwire import paths, standard
from ftpwire.errors import CommandError, Interrupted, NotRegular
from ftpwire.foreground import find_program, run_program

MAX_TEXT = 16 * 1024 * 1024
"""The size in bytes up to which files are compared as text."""
_USUAL = "diff -u"
_TAKE_LABELS = frozenset({"diff", "gdiff", "colordiff"})
"""Programs that take -L, and show that instead of a file's name."""
_PIECE = 1024 * 1024
_DIFFERENT = 1
_TROUBLE = 2
_NOT_FOUND = 127
"""The status of a shell that does not find a program."""


class DiffFailed(CommandError):
    """The files could not be compared. (The status 1 would mean that they differ.)"""

    code = "diff-failed"
    exit_code = _TROUBLE


@remote_command("diff", HintingCommand)
@click.argument("first", metavar="A", shell_complete=offers("roots_of_sync"))
@click.argument("second", metavar="B", shell_complete=offers("roots_of_sync"))
def diff_command(app: App, first: str, second: str) -> None:
    """Show the differences between two text files.

    Runs $DIFF, or diff -u. Binary files and files over 16 MiB are only compared by digest.
    """
    first, second = _checked(app, first, second)
    program = find_program(("DIFF",), (_USUAL,))
    if program is None:
        raise DiffFailed("diff not found: install it, or set DIFF to another program")
    with _one_means_different(app):
        status = _compare(app, program, _side(app, first), _side(app, second))
    raise_for(status)


def _checked(app: App, first: str, second: str) -> tuple[str, str]:
    """Return the two paths, remote ones with a leading colon. Raises UsageError."""
    both = (first, second)
    named = [locations.read(path) is not None for path in both]
    if all(named):
        first, second = (f":{path}" for path in locations.taken(app, both))
    elif all(path.startswith(":") and len(path) > 1 for path in both):
        pass
    else:
        first, second = checked_roots(app, first, second, "diff")
    return (expanded(first), expanded(second)) if app.interactive else (first, second)


@contextmanager
def _one_means_different(app: App) -> Iterator[None]:
    """Give errors whose status is 1 the status of `DiffFailed` instead."""
    try:
        yield
    except click.exceptions.Exit as printed:
        raise_for(_TROUBLE if printed.exit_code == _DIFFERENT else printed.exit_code)
    except CommandError as error:
        if error.exit_code != _DIFFERENT:
            raise
        app.complain(error, _TROUBLE)
        raise_for(_TROUBLE)


class _Side(ABC):
    """One of the two files.

    Attributes:
        label: The name to show.
        size: The size in bytes.
    """

    label: str
    size: int

    @property
    def stored_digest(self) -> bytes | None:
        """The digest, if it is known without reading the file."""
        return None

    @abstractmethod
    def digest(self) -> bytes:
        """Return the digest. Raises OSError, CommandError."""

    @property
    def is_binary_here(self) -> bool:
        """True if it is a local file, and binary. Raises OSError."""
        return False

    @abstractmethod
    def file(self, directory: Path) -> Path:
        """Return a local file with the contents. A copy is made in ``directory``.

        Raises CommandError, or Exit if the error was already printed.
        """


class _Local(_Side):
    """A local file. Raises OSError, UsageError, CommandError if there is none."""

    def __init__(self, app: App, path: str) -> None:
        self.label = paths.show(path)
        self._path = Path(path)
        self._check = app.interrupt.check
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise _is_a_directory(app, self.label)
        if not stat.S_ISREG(info.st_mode):
            raise NotRegular(f"{self.label}: not a regular file")
        self.size = info.st_size

    def digest(self) -> bytes:
        return local_digest(self._path, self._check)

    @property
    def is_binary_here(self) -> bool:
        return _is_binary(self._path)

    def file(self, directory: Path) -> Path:
        return self._path


class _Remote(_Side):
    """A remote file. Raises UsageError, CommandError if there is none."""

    def __init__(self, app: App, path: str) -> None:
        self._app = app
        self._path = app.client.resolve(os.fsencode(path[1:]))
        self.label = paths.show(path)
        entry = app.client.stat(self._path, follow=True, digest=True)
        if entry.type == "dir":
            raise _is_a_directory(app, self.label)
        if entry.type != "file":
            raise NotRegular(f"{self.label}: not a regular file")
        self.size = entry.size
        self._digest = entry.digest

    @property
    def stored_digest(self) -> bytes | None:
        return self._digest

    def digest(self) -> bytes:
        return self._digest or self._app.client.hash(self._path).digest

    def file(self, directory: Path) -> Path:
        copy = fetch(self._app, self._path, directory)
        copy.chmod(0o600)  # it has the mode of the remote file, which may forbid to read it
        return copy


def _side(app: App, path: str) -> _Side:
    return _Remote(app, path) if path.startswith(":") else _Local(app, path)


def _is_a_directory(app: App, shown: str) -> UsageError:
    return UsageError(f"{shown} is a directory: use {app.command('check')}")


def _compare(app: App, program: str, first: _Side, second: _Side) -> int:
    """Compare two files, print the differences, and return the exit status."""
    sides = (first, second)
    large = any(side.size > MAX_TEXT for side in sides)
    if large or any(side.is_binary_here for side in sides):
        same = first.size == second.size and first.digest() == second.digest()
        return _say(app, sides, same)
    if first.size == second.size and any(side.stored_digest for side in sides):
        if first.digest() == second.digest():
            return 0  # nothing has to be downloaded
    with private_directory() as directory:
        places = [directory / name for name in ("1", "2")]  # both may have the same name
        for place in places:
            place.mkdir(0o700)
        files = [side.file(place) for side, place in zip(sides, places, strict=True)]
        if any(map(_is_binary, files)):
            return _say(app, sides, len({local_digest(file) for file in files}) == 1)
        return _run(app, program, files, [side.label for side in sides])


def _is_binary(file: Path) -> bool:
    """Return whether a file contains a NUL byte: diff takes such files for binary ones."""
    with file.open("rb") as opened:
        return any(b"\0" in piece for piece in iter(lambda: opened.read(_PIECE), b""))


def _say(app: App, sides: Sequence[_Side], same: bool) -> int:
    """Print whether two files are the same, and return the exit status."""
    shown = " and ".join(side.label for side in sides)
    app.print(f"{shown} {'are the same' if same else 'differ'}")
    return 0 if same else _DIFFERENT


def _run(app: App, program: str, files: Sequence[Path], labels: Sequence[str]) -> int:
    """Run the program on two local files, and return its status.

    Raises:
        DiffFailed: It cannot be run, or failed with a status that diff doesn't have.
    """
    words = ["/bin/sh", "-c", f'{program} "$@"', "ftp"]
    if _takes_labels(program):
        words += [word for label in labels for word in ("-L", label)]
    # no program may take a name for an option or for standard input
    words += [f"./{file}" if str(file).startswith("-") else str(file) for file in files]
    sys.stdout.flush()
    status = run_program(words, with_stdin=not app.shell.on_stdin)
    if status in (0, _DIFFERENT, _TROUBLE):
        return status
    if status == standard.READER_LEFT:
        standard.fail(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
    if status == Interrupted.exit_code:
        raise Interrupted("interrupted")
    why = "not found" if status == _NOT_FOUND else f"exit status {status}"
    raise DiffFailed(f"{paths.printable(program)}: {why}")


def _takes_labels(program: str) -> bool:
    return os.path.basename(program.partition(" ")[0]) in _TAKE_LABELS
