"""A socket with a path instead of a port: for programs on this machine, with file permissions."""

import os
import sys
from socketserver import ThreadingMixIn, UnixStreamServer

from threading_server import Handler


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def server_bind(self) -> None:
        before = os.umask(0o177)  # so that the socket is private from the start
        try:
            super().server_bind()
        finally:
            os.umask(before)


if __name__ == "__main__":
    path = sys.argv[1]
    with Server(path, Handler) as server:
        try:
            print("listening on", path, flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            os.unlink(path)  # unlike a port, a path remains after the server has ended
