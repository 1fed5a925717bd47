"""Unix sockets in a state directory, which only the owner of that directory can use.

Lives here: their address, making them, removing them.
Lives elsewhere: what is said there (daemon/control_server.py, audit/notify.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

from ftpserver.net.stoppable import Stoppable


def address_of(directory: int, state: Path, name: str) -> str:
    """A path of a socket that fits into the 108 bytes that there are for one, for any root.

    Args:
        directory: A descriptor of ``state``, which has to stay open while the path is used.
    """
    by_descriptor = f"/proc/self/fd/{directory}"
    return f"{by_descriptor if os.path.exists(by_descriptor) else state}/{name}"


class PrivateSocket(Stoppable, TCPServer):
    """A socketserver that listens on one. To be named before the other bases.

    Raises:
        OSError: The socket can't be made.
    """

    name: str
    """Of the socket, in the state directory."""

    def __init__(self, state: Path, handler: type[BaseRequestHandler]) -> None:
        self._directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._unlink()  # what a crash left: nobody else serves this root
            super().__init__(address_of(self._directory, state, self.name), handler)
        except BaseException:
            os.close(self._directory)
            raise

    def server_bind(self) -> None:
        """Bind, so that at no moment anybody else can connect."""
        os.fchmod(self.fileno(), 0o600)  # Linux gives this mode to what it makes
        super().server_bind()
        os.chmod(self.name, 0o600, dir_fd=self._directory)

    def _unlink(self) -> None:
        try:
            os.unlink(self.name, dir_fd=self._directory)
        except FileNotFoundError:
            pass  # there is none
