"""The shell's prompt: user, server, directory, and the last line's exit status.

Lives here: its text, and shortening a long directory. Lives elsewhere: showing it (shell.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpclient.connection.addresses import DEFAULT_PORT
from ftpwire import paths
from ftpwire.cells import CUT, cells
from ftpwire.cells import shortened as cut_in_the_middle

if TYPE_CHECKING:
    from ftpclient.cli.app import App
    from ftpclient.client import Client

_LEAST = 12
"""Columns of the directory at least."""
_LEAST_HOST = 14
"""Columns of user and server at least."""


def parts(app: App, status: int, columns: int) -> list[tuple[str, str]]:
    """Return the prompt as a list of styles and texts.

    Args:
        status: The exit status of the last line; 0 isn't shown.
        columns: The width of the terminal.
    """
    red = "ansired" if app.shell.settings["color"] != "never" else ""
    ended = [(red, f"[{status}] ")] if status else []
    client = app.known_client
    if client is None:
        return [*ended, ("bold", "(not connected)> ")]
    short = app.shell.settings["prompt"] == "short"
    return [*ended, ("bold", text(client, max(_LEAST, columns // 3) if short else None))]


def text(client: Client, most: int | None = None) -> str:
    """Return ``alice@host:/docs> ``, with the port if it isn't the default.

    Args:
        most: Columns of the directory at most, and of user and server; None for no limit.
    """
    address = client.address
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.path is not None:
        host = "local"
    port = "" if address.port in (DEFAULT_PORT, 0) else f":{address.port}"
    directory = paths.show(client.cwd)
    place = f"{client.user}@{paths.show(host)}{port}"
    if most is not None:
        directory = shortened(directory, most)
        place = cut_in_the_middle(place, max(most, _LEAST_HOST))
    return f"{place}:{directory}> "


def shortened(path: str, most: int) -> str:
    """Shorten a path to ``most`` columns by leaving out directories in the middle."""
    if cells(path) <= most:
        return path
    _, first, *others = path.split("/")
    tail = others.pop() if others else ""
    head = f"/{first}/{CUT}/"
    if not tail or cells(head + tail) > most:
        return cut_in_the_middle(path, most, (most - 1) // 3)
    while others and cells(f"{head}{others[-1]}/{tail}") <= most:
        tail = f"{others.pop()}/{tail}"
    return head + tail
