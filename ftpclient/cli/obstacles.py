"""The obstacle to creating a path: a missing parent, a parent that is no directory, or something
that exists there already.

Lives here: finding it after a refusal, in which the server names only the new path. Lives
elsewhere: the commands (commands/changing.py, commands/attributes.py, commands/inside.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftpclient.cli.app import App
from ftpwire import paths
from ftpwire.errors import AlreadyExists, CommandError, NotADirectory, NotFound
from ftpwire.paths import RemotePath

_KINDS = {"file": "a file", "dir": "a directory", "link": "a symbolic link"}


@contextmanager
def named(
    app: App, path: RemotePath, hint: str = "", existing: str | None = None
) -> Iterator[None]:
    """Make the error of a failed creation name the obstacle.

    Args:
        path: The path to be created. Errors about another path are raised unchanged.
        hint: Advice about a missing parent.
        existing: Advice about something that exists there; None to leave such errors unchanged.
    """
    try:
        yield
    except AlreadyExists as error:
        if existing is None or error.path not in (None, path):
            raise
        raise error.with_text(_existing(app, path, existing) or str(error)) from None
    except (NotFound, NotADirectory) as error:
        if error.path not in (None, path):
            raise
        raise error.with_text(_parent(app, path, hint) or str(error)) from None


def _existing(app: App, path: RemotePath, advice: str) -> str | None:
    """Return the message about what exists at a path; None if that cannot be found out."""
    try:
        there = app.client.find(path)
    except CommandError:
        return None  # the account may not look at it
    if there is None:
        return None
    what = "your home" if path == paths.ROOT else _KINDS.get(there.type, "not a file or directory")
    return f"{paths.show(path)}: already exists ({what}{'; ' if advice else ''}{advice})"


def _parent(app: App, path: RemotePath, hint: str) -> str | None:
    """Return the message about a parent that is missing, or no directory; None if there is none."""
    client = app.client
    try:
        missing: RemotePath | None = None
        above = path
        while above != paths.ROOT:
            above = paths.parent_of(above)
            entry = client.find(above, follow=True)
            if entry is not None:
                if entry.type != "dir":
                    return f"{paths.show(above)}: not a directory"
                break
            missing = above
    except CommandError:
        return None  # the account may not look at it
    return None if missing is None else no_directory(paths.show(missing), hint)


def no_directory(shown: str, hint: str) -> str:
    """Return the message that a directory is missing."""
    return f"{shown}: no such directory{f' ({hint})' if hint else ''}"
