"""The client of a shell, where a tilde stands for the home.

Lives here: tildes in remote paths. Lives elsewhere: in local paths (os.path.expanduser), quoted
tildes, which are names (shell/lexer.py).
"""

from __future__ import annotations

from ftpclient.arguments import AnyPath, as_typed
from ftpclient.client import Client
from ftpwire.paths import RemotePath


class ShellClient(Client):
    """A client for paths typed into a shell."""

    def _resolve(self, path: AnyPath) -> RemotePath:
        return super()._resolve(from_home(as_typed(path)))


def from_home(typed: bytes) -> bytes:
    """Return a remote path with a leading tilde replaced by the home."""
    return b"/" + typed[2:] if typed == b"~" or typed.startswith(b"~/") else typed
