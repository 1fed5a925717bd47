"""Sends names to any of the servers, all at once, and prints the greetings as they arrive.

client.py PORT NAME...    or    client.py /PATH/OF/A/SOCKET NAME...
"""

import socket
import sys

from ftpwire.frames import HEADER, HEADER_SIZE, Kind, frame


def connect(where: str) -> socket.socket:
    """Connect by TCP, or to a Unix socket."""
    if where.isdigit():
        return socket.create_connection(("127.0.0.1", int(where)), timeout=60)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(where)
    return sock


if __name__ == "__main__":
    where, *names = sys.argv[1:]
    with connect(where) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"".join(frame(Kind.REQUEST, i, n.encode()) for i, n in enumerate(names)))
        for _ in names:  # replies come in the order of the requests
            length, kind, number = HEADER.unpack(stream.read(HEADER_SIZE))
            print(stream.read(length).decode())
