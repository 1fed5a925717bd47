"""Loops that end when they are told to, and not at some later look."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from socketserver import BaseRequestHandler, TCPServer

import pytest

from ftpserver.net.stoppable import Stoppable

HOUR = 3600.0


class Echo(BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(100))


class Server(Stoppable, TCPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)


@pytest.fixture
def server():
    with Server() as server:
        yield server


@contextmanager
def running(server):
    """The loop in a thread, which looks by itself once an hour at most."""
    thread = threading.Thread(target=server.serve_forever, args=(HOUR,))
    thread.start()
    try:
        yield thread
    finally:
        server.shutdown()
        thread.join()


def echoed(server) -> bytes:
    with socket.create_connection(server.server_address, timeout=30) as sock:
        sock.sendall(b"hello")
        return sock.recv(100)


def test_the_end_waits_for_no_look(server):
    with running(server):
        assert echoed(server) == b"hello"
        assert echoed(server) == b"hello"


def test_the_end_may_be_reported_before_the_beginning(server):
    telling = threading.Thread(target=server.shutdown)
    telling.start()
    server.serve_forever(HOUR)
    telling.join()


def test_the_end_may_be_reported_again_and_by_several(server):
    with running(server) as thread:
        tellers = [threading.Thread(target=server.shutdown) for _ in range(8)]
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
        thread.join()
    server.server_close()
    server.shutdown()


def test_what_fails_in_a_request_ends_nothing(server, capsys):
    def fail(*given):
        server.RequestHandlerClass = Echo
        raise ZeroDivisionError

    server.RequestHandlerClass = fail
    with running(server):
        assert echoed(server) == b""
        assert echoed(server) == b"hello"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_server_that_cannot_be_made_keeps_nothing(server):
    class Twice(Stoppable, TCPServer):
        allow_reuse_address = False

    with pytest.raises(OSError, match="in use"):
        Twice(server.server_address, Echo)
