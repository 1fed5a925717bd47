"""The solution: a header before each message says how long it is. Otherwise the same."""

import socket

from sticky_packets import FIRST, LONG, SECOND

from ftpwire.frames import HEADER, HEADER_SIZE, Kind, frame


def send(sock: socket.socket) -> None:
    for number, message in enumerate((FIRST, SECOND, LONG)):
        sock.sendall(frame(Kind.REQUEST, number, message))
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket) -> list[int]:
    """Read exactly one header, then exactly the announced length, however recv() splits it."""
    lengths = []
    with sock.makefile("rb") as stream:
        while header := stream.read(HEADER_SIZE):
            length, kind, number = HEADER.unpack(header)
            lengths.append(len(stream.read(length)))
    return lengths


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            send(client)
            server, _ = listener.accept()
            with server:
                print("sent:    ", [len(FIRST), len(SECOND), len(LONG)])
                print("received:", receive(server))
