"""The same with poll(): each socket is registered once, and there is no limit of 1024."""

import select
import socket
import sys

from nonblocking import Connection


def serve(listener: socket.socket) -> None:
    watch = select.poll()
    watch.register(listener, select.POLLIN)
    connections: dict[int, Connection] = {}
    while True:
        for number, _ in watch.poll():
            if number == listener.fileno():
                new = Connection(listener.accept()[0])
                connections[new.fileno()] = new
                watch.register(new, select.POLLIN)
                continue
            one = connections[number]
            if one.step():
                watch.modify(one, select.POLLOUT if one.unsent else select.POLLIN)
            else:
                watch.unregister(one)
                connections.pop(number).sock.close()


if __name__ == "__main__":
    if not hasattr(select, "poll"):
        sys.exit("there is no poll() on this system")
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("listening on port", listener.getsockname()[1], flush=True)
        try:
            serve(listener)
        except KeyboardInterrupt:
            pass
