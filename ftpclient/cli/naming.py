"""How remote paths are named that came of a word: as it was typed.

Lives here: names for people, relative where the word was. Lives elsewhere: what a word matches
(Client.glob).
"""

from __future__ import annotations

from itertools import takewhile

from ftpclient.cli.app import App
from ftpwire import paths
from ftpwire.paths import RemotePath


def as_typed(app: App, word: str, path: RemotePath) -> bytes:
    """A path that a word means or matches, named as a POSIX shell would pass it on.

    What a pattern with ``..`` behind a name matches has its absolute path.
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
    """The name of something below a directory that has this name; ``path`` is relative to it."""
    if not path:
        return top
    return top + path if top.endswith(b"/") else top + b"/" + path
