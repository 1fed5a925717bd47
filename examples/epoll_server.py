"""The same with Linux's epoll(): its cost depends on active connections, not on all of them."""

import select
import socket
import sys

from nonblocking import Connection


def serve(listener: socket.socket) -> None:
    connections: dict[int, Connection] = {}
    with select.epoll() as watch:
        watch.register(listener, select.EPOLLIN)
        while True:
            for number, _ in watch.poll():
                if number == listener.fileno():
                    new = Connection(listener.accept()[0])
                    connections[new.fileno()] = new
                    watch.register(new, select.EPOLLIN)
                    continue
                one = connections[number]
                if one.step():
                    watch.modify(one, select.EPOLLOUT if one.unsent else select.EPOLLIN)
                else:
                    watch.unregister(one)
                    connections.pop(number).sock.close()


if __name__ == "__main__":
    if not hasattr(select, "epoll"):
        sys.exit("there is no epoll() on this system")
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4321
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("listening on port", listener.getsockname()[1], flush=True)
        try:
            serve(listener)
        except KeyboardInterrupt:
            pass
