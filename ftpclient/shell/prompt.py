"""The shell's prompt: who, where, and how the last line ended.

Lives here: its text, and cutting a long directory. Lives elsewhere: when it is shown (shell.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpclient.connection.addresses import DEFAULT_PORT
from ftpwire import paths

if TYPE_CHECKING:
    from ftpclient.cli.app import App
    from ftpclient.client import Client

_CUT = "…"
_LEAST = 12
"""Columns that a directory has in any case."""


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
    most = max(_LEAST, columns // 3) if app.shell.settings["prompt"] == "short" else None
    return [*ended, ("bold", text(client, most))]


def text(client: Client, most: int | None = None) -> str:
    """``alice@host:/docs> ``, with the port where it is not the usual one.

    Args:
        most: Columns that the directory may take.
    """
    address = client.address
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.path is not None:
        host = "local"
    port = "" if address.port in (DEFAULT_PORT, 0) else f":{address.port}"
    directory = paths.show(client.cwd)
    if most is not None:
        directory = shortened(directory, most)
    return f"{client.user}@{paths.show(host)}{port}:{directory}> "


def shortened(path: str, most: int) -> str:
    """A path of at most so many columns: of its directories, those in the middle are left out."""
    from prompt_toolkit.utils import get_cwidth

    if get_cwidth(path) <= most:
        return path
    _, first, *others = path.split("/")
    tail = others.pop() if others else ""
    head = f"/{first}/{_CUT}/"
    if not tail or get_cwidth(head + tail) > most:
        return _cut_in_the_middle(path, most)
    while others and get_cwidth(f"{head}{others[-1]}/{tail}") <= most:
        tail = f"{others.pop()}/{tail}"
    return head + tail


def _cut_in_the_middle(name: str, most: int) -> str:
    from prompt_toolkit.utils import get_cwidth

    left = most - get_cwidth(_CUT)
    begin = ""
    for character in name:
        if get_cwidth(begin + character) > left // 3:
            break
        begin += character
    end = ""
    for character in reversed(name):
        if get_cwidth(begin + character + end) > left:
            break
        end = character + end
    return begin + _CUT + end
