"""A client that shares no code with ours, in each way of serving: see tests/second_client.py."""

from __future__ import annotations

import socket

import pytest

from tests.second_client import connect_tcp, connect_unix
from tests.second_client_rounds import ROUNDS, Door, small_files


@pytest.mark.telling
def test_every_round(server, alice):
    key = server.admin.run("fingerprint").lines[0] if server.has_key else None

    def reach() -> socket.socket:
        if server.mode.unix:
            return connect_unix(server.reached.removeprefix("unix:"))
        host, _, port = server.address.rpartition(":")
        return connect_tcp((host, int(port)), key)

    door = Door(reach, alice.name, alice.password)
    for one in ROUNDS:
        one(door)
    with door.enter() as client:
        client.ask("remove", path=b"/small", recursive=True)
    small_files(door, 1000)
