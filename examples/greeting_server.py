"""The smallest server: it greets whoever says a name. Try it with `nc localhost 1234`."""

import sys
from socketserver import StreamRequestHandler, TCPServer


class Greeting(StreamRequestHandler):
    timeout = 60  # seconds: nobody may keep all others waiting for ever

    def handle(self) -> None:
        name = self.rfile.readline(1024).strip()
        self.wfile.write(b"Hello, %b!\n" % name)


class Server(TCPServer):
    allow_reuse_address = True  # start again at once, on the same port


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 1234
    with Server(("127.0.0.1", port), Greeting) as server:
        print("listening on port", server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass  # Ctrl-C is how it ends
