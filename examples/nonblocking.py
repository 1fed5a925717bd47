"""A connection that never waits, for servers that handle many of them in one thread."""

import socket

from conversation import Greeter

from ftpwire.errors import ProtocolError


class Connection:
    """One client. It is either sending or ready to receive, never both.

    So a client that does not read its greetings is not read from either, and needs no memory.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.unsent = b""
        self._greeter = Greeter()

    def fileno(self) -> int:
        return self.sock.fileno()

    def step(self) -> bool:
        """Do what the socket is ready for. Return False when the conversation is over."""
        try:
            if self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
                return True
            received = self.sock.recv(4096)
            self.unsent = self._greeter.answer(received)
            return bool(received)
        except BlockingIOError:
            return True  # it was not ready after all
        except (OSError, ProtocolError):
            return False
