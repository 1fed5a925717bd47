"""Datagrams between programs on one machine: the kernel neither loses nor reorders them."""

import os
import sys
from socketserver import UnixDatagramServer

from udp_server import Handler


class AnsweringHandler(Handler):
    def finish(self) -> None:
        if self.client_address:  # a client without a bound path cannot get a reply
            super().finish()


class Server(UnixDatagramServer):
    def server_bind(self) -> None:
        before = os.umask(0o177)  # so that the socket is private from the start
        try:
            super().server_bind()
        finally:
            os.umask(before)


if __name__ == "__main__":
    path = sys.argv[1]
    with Server(path, AnsweringHandler) as server:
        try:
            print("listening on", path, flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            os.unlink(path)
