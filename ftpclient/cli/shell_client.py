"""The client of a shell, where a tilde is the home.

Lives here: what that means for remote paths. Lives elsewhere: local ones (os.path.expanduser), and
that a quoted tilde is a name (shell/lexer.py).
"""

from __future__ import annotations

from ftpclient.arguments import AnyPath, as_typed
from ftpclient.client import Client
from ftpwire.paths import RemotePath


class ShellClient(Client):
    """A client for paths that were typed into a shell."""

    def _resolve(self, path: AnyPath) -> RemotePath:
        return super()._resolve(from_home(as_typed(path)))


def from_home(typed: bytes) -> bytes:
    """A remote path with the home in the place of a tilde."""
    return b"/" + typed[2:] if typed == b"~" or typed.startswith(b"~/") else typed
