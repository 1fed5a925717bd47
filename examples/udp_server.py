"""Datagrams: no connection, no order, no guarantee of delivery; but each one arrives whole."""

import sys
from socketserver import DatagramRequestHandler, UDPServer

from conversation import Greeter

from ftpwire.errors import ProtocolError


class Handler(DatagramRequestHandler):
    def handle(self) -> None:
        try:
            self.wfile.write(Greeter().answer(self.rfile.read()))
        except ProtocolError:
            pass  # junk, which every server on a network receives

    def finish(self) -> None:
        if self.wfile.tell():  # otherwise it would send an empty datagram
            super().finish()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with UDPServer(("127.0.0.1", port), Handler) as server:
        print("listening on port", server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
