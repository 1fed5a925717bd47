"""What docs/protocol.md says suffices for another client: one that shares no code with ours."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import second_client
from tests.second_client import connect_tcp, connect_unix
from tests.second_client_rounds import ROUNDS, Door

WAYS = {"parked": {}, "thread-each": {"threads": 0}, "tls": {"plaintext": False}, "unix": {}}
"""Ways of serving in this process; tests/system has the others."""


@pytest.fixture(params=["parked"])
def door(request, start_server, tmp_path) -> Door:
    """The way to a server of such a kind."""
    path = tmp_path / "socket"
    more = {"unix": path} if request.param == "unix" else {}
    server = start_server(**WAYS[request.param] | more)

    def reach():
        if more:
            return connect_unix(str(path))
        return connect_tcp(server.server_address[:2], server.fingerprint)

    return Door(reach, "alice", "secret")


@pytest.mark.parametrize("door", WAYS, indirect=True)
@pytest.mark.parametrize("round", ROUNDS, ids=lambda round: round.__name__)
def test_round(door, round):
    round(door)
