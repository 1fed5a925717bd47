"""Unix sockets in a state directory, which only the owner of that directory can use.

Lives here: their address, making and removing them.
Lives elsewhere: the messages on them (daemon/control_server.py, audit/notify.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

from ftpserver.net.stoppable import Stoppable


def address_of(directory: int, state: Path, name: str) -> str:
    """Return a path of a socket that fits into the 108 bytes of a socket address, for any root.

    Args:
        directory: A descriptor of ``state``, which must stay open while the path is used.
    """
    by_descriptor = f"/proc/self/fd/{directory}"
    return f"{by_descriptor if os.path.exists(by_descriptor) else state}/{name}"


class PrivateSocket(Stoppable, TCPServer):
    """A socketserver that listens on such a socket. Name it before the other base classes.

    Raises:
        OSError: The socket cannot be made.
    """

    name: str
    """The socket's name in the state directory."""

    def __init__(self, state: Path, handler: type[BaseRequestHandler]) -> None:
        self._directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._unlink()  # left by a crash: only one server runs for this root
            super().__init__(address_of(self._directory, state, self.name), handler)
        except BaseException:
            os.close(self._directory)
            raise

    def server_bind(self) -> None:
        """Bind. At no moment another user can connect."""
        os.fchmod(self.fileno(), 0o600)  # Linux creates the name with this mode
        super().server_bind()
        os.chmod(self.name, 0o600, dir_fd=self._directory)

    def _unlink(self) -> None:
        try:
            os.unlink(self.name, dir_fd=self._directory)
        except FileNotFoundError:
            pass  # there is none
