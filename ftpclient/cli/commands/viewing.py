"""Remote files in local programs: less (more), edit."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from ftpclient.cli import records
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.commands.browsing import for_each, matches_or_name
from ftpclient.cli.group import RemoteArgument, raise_for, remote_command
from ftpclient.cli.progress import listening
from ftpclient.cli.subprocesses import run_program
from ftpclient.transfer.report import Listener, Summary
from ftpwire import digests, paths
from ftpwire.errors import AlreadyExists, CommandError, Interrupted, NotRegular, SourceChanged
from ftpwire.messages import Entry
from ftpwire.paths import RemotePath, printable
from ftpwire.units import human

_AT_ONCE_SECONDS = 2.0
"""An editor that ends sooner, with nothing changed, has opened a window and left, most likely."""


@remote_command("less")
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
def less_command(app: App, patterns: tuple[str, ...]) -> None:
    """Show files in a pager, $PAGER or less."""
    if app.as_json:
        raise UsageError("less shows pages, and no JSON: cat writes the file to standard output")
    _need_terminal(app, "less", "cat writes it to standard output")
    pager = app.shell.settings["pager"] or _program(("PAGER",), ("less", "more"))

    def show(path: RemotePath) -> None:
        with _private_directory() as directory:
            copy = _fetch(app, path, directory)
            _run(pager, copy)

    raise_for(for_each(app, patterns, show))


@remote_command("edit")
@click.argument("name", cls=RemoteArgument, metavar="PATH")
def edit_command(app: App, name: str) -> None:
    """Edit a remote file in $VISUAL or $EDITOR.

    The file is stored only if you changed it. If someone else changed it meanwhile, or it can't be
    stored, your version is kept locally and its path is shown. A missing file is created.
    """
    _need_terminal(app, "edit", "get and put do it in two steps")
    editor = _program(("VISUAL", "EDITOR"), ("vi", "nano"))
    found = matches_or_name(app, name)
    if len(found) > 1:
        raise UsageError(f"edit: {paths.show(name)} matches {len(found)} paths")
    _Editing(app, found[0]).run(editor)


class _Editing:
    """One `edit`."""

    def __init__(self, app: App, path: RemotePath) -> None:
        self._app = app
        self._path = path

    def run(self, editor: str) -> None:
        """Fetch, have it edited, and store it. Raises CommandError."""
        before = self._there()
        target = self._target(before)
        with ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="ftp-edit-"))
            stack.callback(shutil.rmtree, directory)
            copy = self._copy(directory, before)
            original = _digest(copy)
            try:
                self._have_edited(editor, copy, original)
                if _is_as_before(copy, original):
                    self._tell("same", f"ftp: {paths.show(self._path)}: not changed")
                    return
                self._app.client.look_up()  # that took long, perhaps: the server may have left
                self._store(copy, target, before)
            except BaseException as error:
                if isinstance(error, _MayStillBeOpen) or not _is_as_before(copy, original):
                    stack.pop_all()  # where it is: a program may still have it open
                    self._say_kept(copy, target)
                raise

    def _copy(self, directory: Path, before: Entry | None) -> Path:
        if before is not None:
            return _fetch(self._app, self._path, directory)
        copy = directory / _local_name(self._path)
        copy.touch()
        copy.chmod(0o644)  # whatever the umask: the mode that the new file is going to have
        return copy

    def _have_edited(self, editor: str, copy: Path, original: bytes) -> None:
        """Run the editor until the user has finished. Raises CommandError."""
        began = time.monotonic()
        _run(editor, copy)
        quick = time.monotonic() - began < _AT_ONCE_SECONDS
        if quick and self._app.can_ask and copy.exists() and _is_as_before(copy, original):
            self._wait_for_user(editor)

    def _wait_for_user(self, editor: str) -> None:
        """Wait for Enter: the editor has opened a window, most likely, and goes on there.

        Raises _MayStillBeOpen at Ctrl-C.
        """
        print(
            f"ftp: {printable(editor)} ended at once. If it opens a window, set an EDITOR that"
            ' waits for it, as EDITOR="code --wait"',
            file=sys.stderr,
        )
        print("Press Enter when you have finished editing ", end="", file=sys.stderr, flush=True)
        try:
            with self._app.interrupt.at_once():
                sys.stdin.readline()
        except KeyboardInterrupt:
            raise _MayStillBeOpen("interrupted") from None

    def _say_kept(self, copy: Path, target: RemotePath) -> None:
        """Also with --quiet: it is the only way back to the user's work."""
        shell = self._app.interactive
        server = self._app.server
        words = ["put"] if shell else ["ftp", *(("-s", server) if server else ()), "put"]
        command = shlex.join([*words, paths.show(str(copy)), paths.show(target)])
        text = f"your copy is kept, and this stores it: {command}"
        if self._app.as_json:
            self._app.remark(text)
        else:
            print(f"ftp: {text}", file=sys.stderr)

    def _there(self) -> Entry | None:
        entry = self._app.client.find(self._path, follow=True)
        if entry is not None and entry.type != "file":
            raise NotRegular(f"{paths.show(self._path)}: no file that can be edited")
        return entry

    def _store(self, copy: Path, target: RemotePath, before: Entry | None) -> None:
        client, path = self._app.client, self._path
        if self._there() != before:  # its size, its times, its mode, or whether it is there
            raise SourceChanged(f"{paths.show(path)}: changed on the server meanwhile, not stored")
        with _listening(self._app) as listener:
            summary = client.put(
                [copy],
                target,
                overwrite="never" if before is None else "always",
                listener=listener,
            )
        if summary.skipped:
            raise AlreadyExists(f"{paths.show(path)}: somebody made it meanwhile, not stored")
        _raise_for(self._app, summary)
        self._tell("done", f"stored {paths.show(path)} ({human(summary.size)})")

    def _tell(self, status: str, text: str) -> None:
        if self._app.as_json:
            self._app.print_json(records.action_record("edit", self._path, status=status))
        else:
            self._app.say(text)

    def _target(self, before: Entry | None) -> RemotePath:
        """Where to store: not in the place of a link, but where it leads."""
        client, path = self._app.client, self._path
        for _ in range(40):
            entry = client.find(path) if before is not None else None
            if entry is None or entry.target is None:
                return path
            path = paths.resolve(paths.parent_of(path), entry.target)
        raise CommandError(f"{paths.show(self._path)}: too many symbolic links")


class _MayStillBeOpen(Interrupted):
    """The user stopped `edit` while an editor may still have the copy in a window."""


def _is_as_before(copy: Path, original: bytes) -> bool:
    """Whether there is nothing in the copy to store."""
    return not copy.exists() or _digest(copy) == original


def _need_terminal(app: App, command: str, instead: str) -> None:
    if app.shell.on_stdin or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(f"{command} needs a terminal: {instead}")


def _program(variables: tuple[str, ...], usual: tuple[str, ...]) -> str:
    """The command line of the user's own program. Raises CommandError when there is none."""
    for variable in variables:
        if chosen := os.environ.get(variable, "").strip():
            return chosen
    for name in usual:
        if shutil.which(name):
            return name
    raise CommandError(f"there is no {usual[0]} here: set {variables[-1]}")


def _run(command_line: str, file: Path) -> None:
    """Run a program on a file; its command line may have options. Raises CommandError."""
    sys.stdout.flush()
    status = run_program(
        ["/bin/sh", "-c", f'{command_line} "$1"', "ftp", str(file)], with_stdin=True
    )
    if status:
        raise CommandError(f"{command_line}: exit status {status}")


@contextmanager
def _private_directory() -> Iterator[Path]:
    """A directory that nobody else can look into; removed with what is in it."""
    with tempfile.TemporaryDirectory(prefix="ftp-") as directory:
        yield Path(directory)


def _local_name(path: RemotePath) -> str:
    """A name that no program takes for an option, with the ending that tells the language."""
    name = paths.name_of(path)
    return "file" if name.startswith(b"-") or not name else os.fsdecode(name)


def _fetch(app: App, path: RemotePath, directory: Path) -> Path:
    """Get a file into a directory; where it is. Raises CommandError, or Exit when it was told."""
    copy = directory / _local_name(path)
    with _listening(app) as listener:
        summary = app.client.get([_literally(path)], copy, copy_links=True, listener=listener)
    _raise_for(app, summary)
    if not copy.is_file():
        raise NotRegular(f"{paths.show(path)}: not a file")
    return copy


@contextmanager
def _listening(app: App) -> Iterator[Listener]:
    """What shows a transfer; its objects with --json would be about a file that nobody named."""
    if app.as_json:
        yield Listener()
        return
    with listening(app) as listener:
        yield listener


def _raise_for(app: App, summary: Summary) -> None:
    """End the command if a transfer has failed. Raises CommandError, or Exit when it was told."""
    if summary.first_error is not None and app.as_json:
        raise summary.first_error
    raise_for(summary.exit_code)


def _literally(path: RemotePath) -> bytes:
    """The pattern that means just this path."""
    return b"".join(b"[%c]" % c if c in b"*?[" else b"%c" % c for c in path)


def _digest(file: Path) -> bytes:
    hasher = digests.new()
    with file.open("rb") as opened:
        while piece := opened.read(1024 * 1024):
            hasher.update(piece)
    return hasher.digest()
