"""TCP has no messages: on a real connection they arrive joined together and split up."""

import socket

FIRST, SECOND, LONG = b"Ada\n", b"Grace\n", b"x" * 6000


def send(sock: socket.socket) -> None:
    for message in (FIRST, SECOND, LONG):
        sock.sendall(message)  # three messages, three calls
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket) -> list[int]:
    """Treat each recv() as a message, which is a common mistake. Return the lengths."""
    lengths = []
    while received := sock.recv(4096):
        lengths.append(len(received))
    return lengths


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            send(client)
            server, _ = listener.accept()
            with server:
                print("sent:    ", [len(FIRST), len(SECOND), len(LONG)])
                print("received:", receive(server))
