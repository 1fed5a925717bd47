"""Says a name in one datagram. No answer is normal: it asks again, three times."""

import socket
import sys

from ftpwire.frames import HEADER_SIZE, Kind, frame

if __name__ == "__main__":
    port, name = int(sys.argv[1]), sys.argv[2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))  # answers of nobody else are taken
        sock.settimeout(1)
        for _ in range(3):
            try:
                sock.send(frame(Kind.REQUEST, 1, name.encode()))
                print(sock.recv(4096)[HEADER_SIZE:].decode())
                break
            except (TimeoutError, ConnectionRefusedError):
                continue
        else:
            sys.exit("no answer")
