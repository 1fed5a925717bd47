"""The smallest server: it greets every client by name. Try it with `nc localhost 4321`."""

import sys
from socketserver import StreamRequestHandler, TCPServer


class Greeting(StreamRequestHandler):
    timeout = 60  # seconds, so that a silent client cannot block the others forever

    def handle(self) -> None:
        name = self.rfile.readline(1024).strip()
        self.wfile.write(b"Hello, %b!\n" % name)


class Server(TCPServer):
    allow_reuse_address = True  # allows a restart on the same port at once


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with Server(("127.0.0.1", port), Greeting) as server:
        print("listening on port", server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass  # Ctrl-C is the normal way to stop it
