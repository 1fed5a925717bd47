"""A single connection: handle_request() with a BaseRequestHandler, which uses the bare socket."""

import sys
from socketserver import BaseRequestHandler, TCPServer

from conversation import Greeter

from ftpwire.errors import ProtocolError


class Handler(BaseRequestHandler):
    def handle(self) -> None:
        self.request.settimeout(60)
        greeter = Greeter()
        try:
            while received := self.request.recv(4096):
                self.request.sendall(greeter.answer(received))
        except (OSError, ProtocolError) as error:
            print("closed:", error, file=sys.stderr)


class Server(TCPServer):
    allow_reuse_address = True
    timeout = 60  # seconds that handle_request() waits for a client


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with Server(("127.0.0.1", port), Handler) as server:
        print("listening on port", server.server_address[1], flush=True)
        server.handle_request()
