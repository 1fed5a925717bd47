"""The shell's prompt: who, where, and how the last line ended.

Lives here: its text, and cutting a long directory. Lives elsewhere: when it is shown (shell.py).
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
"""Columns that a directory has in any case."""
_LEAST_PLACE = 14
"""The same of user and server."""


def parts(app: App, status: int, columns: int) -> list[tuple[str, str]]:
    """The prompt, as pieces with their styles.

    Args:
        status: Of the last line; 0 isn't shown.
    """
    red = "ansired" if app.shell.settings["color"] != "never" else ""
    ended = [(red, f"[{status}] ")] if status else []
    client = app.known_client
    if client is None:
        return [*ended, ("bold", "(not connected)> ")]
    short = app.shell.settings["prompt"] == "short"
    return [*ended, ("bold", text(client, max(_LEAST, columns // 3) if short else None))]


def text(client: Client, most: int | None = None) -> str:
    """``alice@host:/docs> ``, with the port where it is not the usual one.

    Args:
        most: Columns that the directory may take, and the user and the server.
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
        place = cut_in_the_middle(place, max(most, _LEAST_PLACE))
    return f"{place}:{directory}> "


def shortened(path: str, most: int) -> str:
    """A path of at most so many columns: of its directories, those in the middle are left out."""
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
