"""Operations: what `undo` undoes as a whole, and the remark about what went to the trash.

Lives here: one operation for each command or line of the shell, with its command line; the remark
after it. Lives elsewhere: sending it to a server (connection/driver.py), undoing one
(commands/trash.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftpclient.connection.client_id import Operation, in_force, under
from ftpwire.errors import CommandError
from ftpwire.messages import WhoAmI

if TYPE_CHECKING:
    from ftpclient.cli.app import App
    from ftpwire.messages import Removed


@contextmanager
def running(
    app: App, words: Callable[[], str], *, keep: bool = True, apart: bool = False
) -> Iterator[None]:
    """Make all changes inside the context one operation.

    In the shell, all commands of a line are one operation; elsewhere, each command is.

    Args:
        words: A function that returns the command line.
        keep: False if what it removes and replaces bypasses the trash, even if other commands of
            the line use it.
        apart: True to start an operation of its own, even inside a line.
    """
    if keep and not apart and in_force(app) is not None:
        yield
        return
    operation = Operation(lambda: _without_password(app, words()), keep=keep)
    app.shell.operations.add(operation.id)
    with under(operation):
        yield


def command_line(name: str, arguments: Sequence[str]) -> str:
    """Return a command line as it could be typed."""
    from ftpclient.cli.quoting import quote

    return " ".join([name, *(quote(word, first=True) or "''" for word in arguments)])


def _without_password(app: App, words: str) -> str:
    """Return the words; only the command's name if they contain a password."""
    return f"{words.split(maxsplit=1)[0]} …" if app.holds_password(words) else words


def are_final(app: App) -> bool:
    """Return whether removing is final: the server has no trash, or none for this account.

    It may cost a round trip.
    """
    connection = app.client.connection
    return not connection.keeps_trash or connection.ask(WhoAmI()).final


class TrashRemark:
    """The remark at the end of a command that something is in the trash.

    Attributes:
        is_shown: True if it is shown: on a terminal, and not in a script.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._is_known = False
        quiet = app.quiet or app.as_json or app.shell.batch
        self.is_shown = not quiet and sys.stderr.isatty()

    def removed(self, answer: Removed | None) -> None:
        """Note that something was removed. If it cannot be kept, the server sends a notice."""
        self._is_known |= answer is not None and answer.trashed

    def finish(self, *, replaced: bool = False) -> None:
        """Print until when the command can be undone, if it can. It costs a round trip.

        Args:
            replaced: True if files may have been replaced, which no reply reports.
        """
        if not self.is_shown or not (self._is_known or replaced):
            return
        until = self._until()
        if until is None and not self._is_known:
            return
        undo = self._app.command("undo")
        self._app.say(f"in the trash{until or ''}: {undo} brings it back")

    def _until(self) -> str | None:
        """Return until when, as text; None if the server has nothing of this operation."""
        from ftpclient.cli import moments
        from ftpclient.transfer import trash

        operation, connection = in_force(self._app), self._app.client.connection
        if operation is None or not connection.keeps_trash:
            return None
        try:
            found = trash.operations(connection, limit=1)
        except CommandError:
            return None  # the account may not list its trash: rely on the replies
        mine = [one for one in found if one.key == operation.id and one.kept]
        if not mine:
            return None
        return "" if mine[0].expires is None else f" {moments.until(mine[0].expires)}"
