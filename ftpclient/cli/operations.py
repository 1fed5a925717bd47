"""Which of a user's commands are operations, and what is said when one has filled the trash.

Lives here: the words of a command, one operation for it or for a line of the shell, the line after
it. Lives elsewhere: saying it to a server (connection/driver.py), taking one back
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
    """Have what is done meanwhile be one operation: a line of the shell is one, with all of its
    commands, and elsewhere each command.

    Args:
        words: What its user wrote.
        keep: False: what it removes and replaces is not kept, unlike that of the rest of the line.
        apart: It is one by itself, also in a line.
    """
    if keep and not apart and in_force(app) is not None:
        yield
        return
    operation = Operation(lambda: _without_password(app, words()), keep=keep)
    app.shell.operations.add(operation.id)
    with under(operation):
        yield


def command_line(name: str, arguments: Sequence[str]) -> str:
    """A command as it could be typed."""
    from ftpclient.cli.quoting import quote

    return " ".join([name, *(quote(word, first=True) or "''" for word in arguments)])


def _without_password(app: App, words: str) -> str:
    """The words, or of a command with a password only its name."""
    return f"{words.split(maxsplit=1)[0]} …" if app.holds_password(words) else words


def are_final(app: App) -> bool:
    """Whether what is removed now is gone for good: the server keeps no trash, or none for this
    account. It costs a round trip."""
    connection = app.client.connection
    return not connection.keeps_trash or connection.ask(WhoAmI()).final


class Kept:
    """Finds out what a command has put into the trash, and says so at its end.

    Attributes:
        is_asked_for: Whether somebody sees it: at a terminal, where lines are typed.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._is_known = False
        quiet = app.quiet or app.as_json or app.shell.batch
        self.is_asked_for = not quiet and sys.stderr.isatty()

    def removed(self, answer: Removed | None) -> None:
        """Something was removed. Of what can't be kept the server says so itself."""
        self._is_known |= answer is not None and answer.trashed

    def finish(self, *, replaced: bool = False) -> None:
        """Say until when it can be taken back, if anything can. It costs a round trip.

        Args:
            replaced: Something may have been replaced, which no answer has told.
        """
        if not self.is_asked_for or not (self._is_known or replaced):
            return
        until = self._until()
        if until is None and not self._is_known:
            return
        undo = "undo" if self._app.interactive else "ftp undo"
        self._app.say(f"in the trash{until or ''}: {undo} brings it back")

    def _until(self) -> str | None:
        """Until when, as text; None when the server says nothing of this operation."""
        from ftpclient.cli import moments
        from ftpclient.transfer import trash

        operation, connection = in_force(self._app), self._app.client.connection
        if operation is None or not connection.keeps_trash:
            return None
        try:
            found = trash.operations(connection, limit=1)
        except CommandError:
            return None  # the account may not look there: what was told before has to do
        mine = [one for one in found if one.key == operation.id and one.kept]
        if not mine:
            return None
        return "" if mine[0].expires is None else f" {moments.until(mine[0].expires)}"
