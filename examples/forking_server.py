"""A process for each connection: an error in one cannot affect the memory of the others."""

import os
import sys
from socketserver import ForkingMixIn, TCPServer

from threading_server import Handler


class Server(ForkingMixIn, TCPServer):
    allow_reuse_address = True
    max_children = 40  # with this many, the next client waits until one has ended


class PrintingHandler(Handler):
    def handle(self) -> None:
        print("process", os.getpid(), "serves", self.client_address[1], flush=True)
        super().handle()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with Server(("127.0.0.1", port), PrintingHandler) as server:
        print("listening on port", server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass  # the end of the block waits for the processes that are still serving
