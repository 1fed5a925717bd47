"""Commands that open remote files in local programs: less, edit.

Lives elsewhere: the local copies (private_copies.py), running programs (ftpwire/foreground.py).
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click

from ftpclient.cli import records
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.commands.browsing import for_each, matches_or_name
from ftpclient.cli.group import RemoteArgument, raise_for, remote_command
from ftpclient.cli.private_copies import (
    fetch,
    listening_to_copy,
    local_digest,
    local_name,
    private_directory,
    raise_for_summary,
)
from ftpwire import paths
from ftpwire.errors import AlreadyExists, CommandError, Interrupted, NotRegular, SourceChanged
from ftpwire.foreground import PAGERS, find_program, run_program
from ftpwire.messages import Entry
from ftpwire.paths import RemotePath, printable
from ftpwire.units import human

_AT_ONCE_SECONDS = 2.0
"""If an editor ends sooner without a change, it has probably opened a window and still runs."""


@remote_command("less")
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
def less_command(app: App, patterns: tuple[str, ...]) -> None:
    """Show files in a pager, $PAGER or less."""
    if app.as_json:
        raise UsageError(f"less prints no JSON: use {app.command('cat')}")
    _need_terminal(app, "less", "cat")
    pager = app.shell.settings["pager"] or _program(*PAGERS)

    def show(path: RemotePath) -> None:
        with private_directory() as directory:
            copy = fetch(app, path, directory)
            _run(pager, copy)

    raise_for(for_each(app, patterns, show))


@remote_command("edit")
@click.argument("name", cls=RemoteArgument, metavar="PATH")
def edit_command(app: App, name: str) -> None:
    """Edit a remote file in $VISUAL or $EDITOR.

    The file is stored only if you changed it. If someone else changed it meanwhile, or it cannot be
    stored, your version is kept locally and its path is shown. A missing file is created.
    """
    _need_terminal(app, "edit", "get", "put")
    editor = _program(("VISUAL", "EDITOR"), ("vi", "nano"))
    found = matches_or_name(app, name)
    if len(found) > 1:
        raise UsageError(f"edit: {paths.show(name)} matches {len(found)} paths")
    _Editing(app, found[0]).run(editor)


class _Editing:
    """The state of one `edit` command."""

    def __init__(self, app: App, path: RemotePath) -> None:
        self._app = app
        self._path = path

    def run(self, editor: str) -> None:
        """Fetch the file, let the user edit it, and store it. Raises CommandError."""
        before = self._there()
        target = self._target(before)
        with ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="ftp-edit-"))
            stack.callback(shutil.rmtree, directory)
            copy = self._copy(directory, before)
            original = local_digest(copy)
            try:
                self._have_edited(editor, copy, original)
                if _is_as_before(copy, original):
                    self._report("same", f"ftp: {paths.show(self._path)}: not changed")
                    return
                self._app.client.look_up()  # editing may have taken long: check the connection
                self._store(copy, target, before)
            except BaseException as error:
                if isinstance(error, _MayStillBeOpen) or not _is_as_before(copy, original):
                    stack.pop_all()  # keep the copy: a program may still have it open
                    self._say_kept(copy, target)
                raise

    def _copy(self, directory: Path, before: Entry | None) -> Path:
        if before is not None:
            return fetch(self._app, self._path, directory)
        copy = directory / local_name(self._path)
        copy.touch()
        copy.chmod(0o644)  # the new remote file's mode, whatever the umask
        return copy

    def _have_edited(self, editor: str, copy: Path, original: bytes) -> None:
        """Run the editor until the user has finished. Raises CommandError."""
        began = time.monotonic()
        _run(editor, copy)
        quick = time.monotonic() - began < _AT_ONCE_SECONDS
        if quick and self._app.can_ask and copy.exists() and _is_as_before(copy, original):
            self._wait_for_user(editor)

    def _wait_for_user(self, editor: str) -> None:
        """Wait for Enter: the editor has probably opened a window and still runs.

        Raises _MayStillBeOpen at Ctrl-C.
        """
        print(
            f"ftp: {printable(editor)} ended at once. If it opens a window, set an EDITOR that"
            ' waits, e.g. EDITOR="code --wait"',
            file=sys.stderr,
        )
        print("Press Enter when you have finished editing ", end="", file=sys.stderr, flush=True)
        try:
            with self._app.interrupt.at_once():
                sys.stdin.readline()
        except KeyboardInterrupt:
            raise _MayStillBeOpen("interrupted") from None

    def _say_kept(self, copy: Path, target: RemotePath) -> None:
        """Print where the user's version is, even with --quiet, as it must not be lost."""
        shell = self._app.interactive
        server = self._app.server
        words = ["put"] if shell else ["ftp", *(("-s", server) if server else ()), "put"]
        command = shlex.join([*words, paths.show(str(copy)), paths.show(target)])
        text = f"your version is kept; to store it, run: {command}"
        if self._app.as_json:
            self._app.remark(text)
        else:
            print(f"ftp: {text}", file=sys.stderr)

    def _there(self) -> Entry | None:
        entry = self._app.client.find(self._path, follow=True)
        if entry is not None and entry.type != "file":
            raise NotRegular(f"{paths.show(self._path)}: not a regular file")
        return entry

    def _store(self, copy: Path, target: RemotePath, before: Entry | None) -> None:
        client, path = self._app.client, self._path
        if self._there() != before:  # size, time or mode changed, or it was created or removed
            raise SourceChanged(f"{paths.show(path)}: changed on the server meanwhile; not stored")
        with listening_to_copy(self._app) as listener:
            summary = client.put(
                [copy],
                target,
                overwrite="never" if before is None else "always",
                listener=listener,
            )
        if summary.skipped:
            raise AlreadyExists(f"{paths.show(path)}: created by someone else; not stored")
        raise_for_summary(self._app, summary)
        self._report("done", f"stored {paths.show(path)} ({human(summary.size)})")

    def _report(self, status: str, text: str) -> None:
        if self._app.as_json:
            self._app.print_json(records.action_record("edit", self._path, status=status))
        else:
            self._app.say(text)

    def _target(self, before: Entry | None) -> RemotePath:
        """Return the path to store to: a link's target, so that the link is not replaced."""
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
    """Return whether the copy is unchanged or gone, so that nothing is to be stored."""
    return not copy.exists() or local_digest(copy) == original


def _need_terminal(app: App, command: str, *instead: str) -> None:
    if app.shell.on_stdin or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            f"{command} needs a terminal: use {' and '.join(map(app.command, instead))}"
        )


def _program(variables: tuple[str, ...], usual: tuple[str, ...]) -> str:
    """Return the command line of the user's program. Raises CommandError if there is none."""
    if (found := find_program(variables, usual)) is None:
        raise CommandError(f"{usual[0]} not found: set {variables[-1]}")
    return found


def _run(command_line: str, file: Path) -> None:
    """Run a program on a file; its command line may have options. Raises CommandError."""
    sys.stdout.flush()
    status = run_program(
        ["/bin/sh", "-c", f'{command_line} "$1"', "ftp", str(file)], with_stdin=True
    )
    if status:
        raise CommandError(f"{command_line}: exit status {status}")
