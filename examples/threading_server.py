"""A thread for each connection: no client waits for another one."""

import sys
from socketserver import StreamRequestHandler, TCPServer, ThreadingMixIn

from conversation import Greeter

from ftpwire.errors import ProtocolError


class Handler(StreamRequestHandler):
    def handle(self) -> None:
        greeter = Greeter()
        try:
            while received := self.rfile.read1(4096):
                self.wfile.write(greeter.answer(received))
        except (OSError, ProtocolError) as error:
            print("closed:", error, file=sys.stderr)


class Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True  # the program may end while clients are connected


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with Server(("127.0.0.1", port), Handler) as server:
        print("listening on port", server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
