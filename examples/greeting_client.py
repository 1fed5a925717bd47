"""Sends a name to the greeting server, and prints its reply."""

import socket
import sys

if __name__ == "__main__":
    port, name = int(sys.argv[1]), sys.argv[2]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(name.encode() + b"\n")
        with sock.makefile("rb") as answers:
            print(answers.readline().decode().strip())
