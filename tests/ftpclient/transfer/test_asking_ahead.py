"""What is asked before a transfer begins costs one round trip."""

from __future__ import annotations

import os

import pytest

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import seconds_to_end
from ftpclient.transfer import listing
from ftpwire.messages import List, Page, Stat
from ftpwire.paths import RemotePath
from tests.lying_server import LyingServer, dir_entry, file_entry


@pytest.fixture
def events(monkeypatch):
    """What is sent, and when an answer is waited for."""
    found: list[str] = []
    submit, pump = Connection.submit, Connection.pump

    def submitted(self, call, request, cost=0):
        found.append(type(request).__name__)
        submit(self, call, request, cost)

    def waited(self, deadline=None):
        if found[-1:] != ["wait"]:
            found.append("wait")
        pump(self, deadline)

    monkeypatch.setattr(Connection, "submit", submitted)
    monkeypatch.setattr(Connection, "pump", waited)
    return found


@pytest.fixture
def tree(files):
    for name in ("a", "b"):
        (files / "t").mkdir(exist_ok=True)
        (files / "t" / name).write_text(name)
    return files / "t"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_tree_is_listed_in_the_round_trip_that_looks_what_it_is(
    client, tree, tmp_path, events, is_there
):
    client.connect()
    if is_there:  # it is asked for with digests then
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "a").write_text("a")
    events.clear()
    assert client.get(["/t"], tmp_path, recursive=True).done == 2
    assert events[:4] == ["Stat", "List", "wait", "GetFiles"]
    assert events.count("List") == 1
    assert sorted(os.listdir(tmp_path / "t")) == ["a", "b"]


def test_what_is_no_directory_is_not_kept(client, files, tmp_path, events):
    (files / "a").write_text("one")
    client.connect()
    assert client.get(["/a"], tmp_path, recursive=True).done == 1
    assert (tmp_path / "a").read_text() == "one"
    assert client.get(["/a", "/none"], tmp_path, recursive=True).failed == 1
    assert client.get(["/none"], tmp_path / "x", recursive=True).failed == 1
    connection = client.connection
    assert not connection.unanswered and not connection._ahead


def test_nothing_is_listed_ahead_that_is_not_the_first_question(client, tree, tmp_path, events):
    client.connect()
    for options in ({"files_from": ["a"]}, {"dry_run": True}, {"remove_source": True}):
        events.clear()
        client.get(["/t"], tmp_path / "t", recursive=True, **options)
        assert events.index("wait") < events.index("List")


def test_a_listing_that_nobody_comes_for_is_abandoned(fake, connect):
    """Its pages fill no memory, and the next verb cancels it."""
    pages = [Page(b"", [file_entry(b"%d" % number)], [], False) for number in range(100)]
    client = connect(fake(LyingServer(pages=pages, root=dir_entry)), retries=0)
    client.connect()
    connection = client.connection
    request = List(RemotePath(b"/t"), recursive=True)
    listing.list_ahead(connection, request)
    (call,) = connection.protocol.calls.values()
    while not call.pages:
        connection.pump()
    connection.forget_ahead()
    assert not call.pages and connection.take_ahead(request) is None
    assert client.stat("/t").type == "dir"
    assert call.done and not call.pages


def test_ctrl_c_waits_for_no_question_that_was_sent_ahead(client):
    """As for no listing: its reply may get lost."""
    client.connect()
    connection = client._connection
    connection.ask_ahead(Stat(RemotePath(b"/")))
    listing.list_ahead(connection, List(RemotePath(b"/")))
    calls = list(connection.protocol.calls.values())
    assert len(calls) == 2 and seconds_to_end(calls) <= 0.5
    connection.cancel_all()
