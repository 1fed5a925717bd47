"""Sends a name in one datagram. A reply may get lost, so it asks up to three times.

udp_client.py PORT NAME    or    udp_client.py /PATH/OF/A/SOCKET NAME
"""

import os
import socket
import sys

from ftpwire.frames import HEADER_SIZE, Kind, frame


def ask(sock: socket.socket, name: str) -> str:
    sock.settimeout(1)
    for _ in range(3):
        try:
            sock.send(frame(Kind.REQUEST, 1, name.encode()))
            return sock.recv(4096)[HEADER_SIZE:].decode()
        except (TimeoutError, ConnectionRefusedError):
            continue
    sys.exit("no answer")


if __name__ == "__main__":
    where, name = sys.argv[1:]
    family = socket.AF_INET if where.isdigit() else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if where.isdigit():
            sock.connect(("127.0.0.1", int(where)))  # accepts replies only from there
            print(ask(sock, name))
        else:
            sock.bind(mine := f"{where}.{os.getpid()}")  # the address for the reply
            try:
                sock.connect(where)
                print(ask(sock, name))
            finally:
                os.unlink(mine)
