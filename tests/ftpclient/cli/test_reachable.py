"""Servers that Tab offers: what is made of what answered on the network."""

from __future__ import annotations

import pytest

from ftpclient.cli.reachable import servers_in_reach
from ftpclient.connection import discovery
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.discovery import Found
from ftpclient.connection.servers import SavedServers, Server


@pytest.fixture
def requested(monkeypatch) -> list[int]:
    """The ports that were asked at; two servers answer, and one that pretends to be one of them."""
    ports: list[int] = []

    def answer(timeout: float, *, port: int) -> list[Found]:
        ports.append(port)
        return [
            Found("attic", 1234, "x", None, ["10.0.0.5", "127.0.0.1"]),
            Found("cellar", 4000, "x", None, ["10.0.0.6", "10.0.0.7"]),
            Found("pretender", 4000, "x", None, ["10.0.0.6"]),
        ]

    monkeypatch.setattr(discovery, "discover", answer)
    return ports


def offered(begun: str) -> list[str]:
    return [item.value for item in servers_in_reach(None, None, begun)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ("", ["10.0.0.5", "10.0.0.6:4000", "10.0.0.7:4000"]),
        ("10.0.0.6", ["10.0.0.6:4000"]),
        ("al@", ["al@10.0.0.5", "al@10.0.0.6:4000", "al@10.0.0.7:4000"]),
        ("al@10.0.0.5", ["al@10.0.0.5"]),
        ("192.", []),
    ],
)
def test_what_answers_is_offered_as_it_is_written(requested, tmp_path, begun, expected):
    assert offered(begun) == expected
    assert requested == [1234]


def test_a_saved_server_that_fits_is_enough(requested, tmp_path):
    """Nobody waits for the network then."""
    SavedServers().save(Server(ServerAddress.parse("alice@10.0.0.9")), "archive")
    assert offered("arch") == ["archive"] and requested == []
    assert offered("")[0] == "archive" and requested == [1234]
    assert offered("10.0.0.5") == ["10.0.0.5"]


@pytest.mark.parametrize(
    ("value", "port"), [("4444", 4444), ("0", 1234), ("70000", 1234), ("many", 1234), ("", 1234)]
)
def test_the_port_is_that_of_ftp_discover(requested, tmp_path, monkeypatch, value, port):
    monkeypatch.setenv("FTP_DISCOVERY_PORT", value)
    offered("")
    assert requested == [port]


def test_without_a_network_there_is_nothing_to_offer(tmp_path, monkeypatch):
    def fails(*_: object, **__: object) -> list[Found]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(discovery, "discover", fails)
    assert offered("") == []
