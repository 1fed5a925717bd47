"""Many connections in one thread: select() returns those that are ready. Works everywhere."""

import select
import socket
import sys

from nonblocking import Connection


def serve(listener: socket.socket) -> None:
    connections: dict[int, Connection] = {}
    while True:
        writing = {number for number, one in connections.items() if one.unsent}
        reading = connections.keys() - writing
        readable, writable, _ = select.select([listener.fileno(), *reading], writing, [])
        for number in (*readable, *writable):
            if number == listener.fileno():
                new = Connection(listener.accept()[0])
                connections[new.fileno()] = new
            elif not connections[number].step():
                connections.pop(number).sock.close()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("listening on port", listener.getsockname()[1], flush=True)
        try:
            serve(listener)
        except KeyboardInterrupt:
            pass
