"""Loops of socketserver that end as soon as `shutdown` is called.

Lives here: waiting for a socket or for the end, whichever comes first.
Lives elsewhere: what is done with the input (serving/listeners.py, daemon/control_server.py,
audit/notify.py, daemon/discovery.py).

socketserver's own loop polls for its end: it wakes up for nothing while it runs, and its end waits
for the next poll. A server has up to four such loops, and ends them one after another.
"""

from __future__ import annotations

import os
import selectors
import threading
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any


class Stoppable(BaseServer):
    """A socketserver that waits only for its socket and for `shutdown`.

    Name it before the other base classes. `shutdown` may be called by several threads, several
    times, before the loop has begun, and after `server_close`.
    """

    timeout: float | None = 0
    """Seconds that ``handle_request`` waits: none, because a request is there already."""

    if TYPE_CHECKING:

        def fileno(self) -> int:
            """Return the socket's descriptor, as all kinds of socketserver do."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._shutdown_read, self._shutdown_write = os.pipe()
        self._shutdown_lock = threading.Lock()
        self._ended = threading.Event()
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            self._forget_pipe()
            raise

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Handle requests until `shutdown`.

        Args:
            poll_interval: Ignored: nothing is polled.
        """
        self._ended.clear()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._shutdown_read, selectors.EVENT_READ)
                selector.register(self.fileno(), selectors.EVENT_READ)
                while True:
                    ready = [key.fd for key, _ in selector.select()]
                    if self._shutdown_read in ready:
                        return
                    self.handle_request()
                    self.service_actions()
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """End the loop, and wait until it has ended: no longer than one request takes."""
        with self._shutdown_lock:  # `server_close` may close the pipe at the same time
            if self._shutdown_write >= 0:
                os.write(self._shutdown_write, b"\0")
        self._ended.wait()

    def server_close(self) -> None:
        """Close the socket."""
        super().server_close()
        self._forget_pipe()

    def _forget_pipe(self) -> None:
        with self._shutdown_lock:
            if self._shutdown_write >= 0:
                os.close(self._shutdown_read)
                os.close(self._shutdown_write)
                self._shutdown_read = self._shutdown_write = -1
