"""The names under which remote paths are displayed: as the user typed them.

Lives here: displayed names, which are relative if the typed word was. Lives elsewhere: the paths
that a word matches (Client.glob).
"""

from __future__ import annotations

from itertools import takewhile

from ftpclient.cli.app import App
from ftpwire import paths
from ftpwire.paths import RemotePath


def as_typed(app: App, word: str, path: RemotePath) -> bytes:
    """Return the name of a path that a word matches, as a POSIX shell would expand it.

    If the word has ``..`` after a name, the absolute path is returned.
    """
    typed = paths.from_text(word)
    if app.client.resolve(word) == path:
        return typed
    parts = typed.split(b"/")
    names = [part for part in parts if part not in (b"", b".", b"..")]
    lead = [*takewhile(lambda part: part in (b".", b".."), parts)]
    if typed.startswith(b"/") or b".." in parts[len(lead) :] or not names:
        return path
    return b"/".join([*lead, *paths.split(path)[-len(names) :]])


def below(top: bytes, path: bytes) -> bytes:
    """Return the name of ``path``, which is relative to a directory displayed as ``top``."""
    if not path:
        return top
    return top + path if top.endswith(b"/") else top + b"/" + path
