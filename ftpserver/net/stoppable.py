"""Loops of socketserver that end as soon as they are told to.

Lives here: waiting for a socket or for the end, whichever comes first.
Lives elsewhere: what is done with what comes in (serving/listeners.py, daemon/control_server.py,
audit/notify.py, daemon/discovery.py).

socketserver's own loop looks every so often whether it is to end: it wakes up for nothing while it
runs, and its end waits for the next look. A server has up to four such loops, one after another.
"""

from __future__ import annotations

import os
import selectors
import threading
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any


class Stoppable(BaseServer):
    """A socketserver that waits for its socket and for `shutdown` alone.

    To be named before the other bases. `shutdown` may be called from several threads, several
    times, before the loop has begun, and after `server_close`.
    """

    timeout: float | None = 0
    """Seconds that ``handle_request`` waits: none, because there is something to handle."""

    if TYPE_CHECKING:

        def fileno(self) -> int:
            """The socket, as all kinds of socketserver have it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._told_read, self._told_write = os.pipe()
        self._told_lock = threading.Lock()
        self._ended = threading.Event()
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            self._forget_pipe()
            raise

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Handle requests until `shutdown`.

        Args:
            poll_interval: Of no meaning here: nothing is polled.
        """
        self._ended.clear()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._told_read, selectors.EVENT_READ)
                selector.register(self.fileno(), selectors.EVENT_READ)
                while True:
                    ready = [key.fd for key, _ in selector.select()]
                    if self._told_read in ready:
                        return
                    self.handle_request()
                    self.service_actions()
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """Have the loop end, and wait until it has: for no longer than one request takes."""
        with self._told_lock:
            if self._told_write >= 0:
                os.write(self._told_write, b"\0")
        self._ended.wait()

    def server_close(self) -> None:
        """Give the socket back."""
        super().server_close()
        self._forget_pipe()

    def _forget_pipe(self) -> None:
        with self._told_lock:
            if self._told_write >= 0:
                os.close(self._told_read)
                os.close(self._told_write)
                self._told_read = self._told_write = -1
