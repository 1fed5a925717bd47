"""The account has as many transfers running as it may: the client waits, and goes on with fewer
connections."""

from __future__ import annotations

import os

import pytest

from ftpclient.errors import ConnectionLost
from ftpclient.transfer import retry
from ftpclient.transfer.report import Listener
from ftpclient.transfer.retry import Patience
from ftpwire.messages import Get, Sending
from tests.peer import eventually

MIB = 1024 * 1024


class Waits(Listener):
    """Calls something when a connection was lost."""

    def __init__(self, on_lost=lambda: None) -> None:
        self.reasons: list[str] = []
        self._on_lost = on_lost

    def lost(self, error) -> None:
        self.reasons.append(str(error))
        self._on_lost()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A test does not wait as long as the server asks for."""
    monkeypatch.setattr(retry, "_MAX_RETRY_AFTER", 0)


@pytest.fixture
def server(start_server):
    return start_server(max_user_transfers=1)


@pytest.fixture
def tree(tmp_path):
    """Files of which each counts from its beginning."""
    directory = tmp_path / "tree"
    directory.mkdir()
    for number in range(8):
        (directory / f"f{number}").write_bytes(bytes([number]) * (MIB + 1))
    return directory


@pytest.fixture
def occupied(server, dial, files):
    """Somebody else of the account has the one place, until ``.close()``."""
    (files / "other").write_bytes(bytes(64 * MIB))
    peer = dial(server)
    peer.request(Get(b"/other"))
    assert isinstance(peer.answer().message, Sending)
    return peer


@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_transfer_waits_until_it_may_run(server, connect, occupied, files, tmp_path, verb):
    """As for a server that is away."""
    (tmp_path / "new").write_bytes(bytes(MIB + 1))
    (files / "old").write_bytes(bytes(MIB + 1))
    waits = Waits(occupied.close)
    client = connect(server, retry_for=60)
    if verb == "put":
        summary = client.put([tmp_path / "new"], "/new", listener=waits)
    else:
        summary = client.get(["/old"], tmp_path / "got", listener=waits)
    assert (summary.done, summary.failed) == (1, 0)
    assert "too many transfers: alice has 1 running" in waits.reasons[0]


def test_a_stream_waits_before_it_is_read_from(server, connect, occupied, files):
    client = connect(server, retry_for=60)
    ours, theirs = os.pipe()
    try:
        with os.fdopen(theirs, "wb") as end:
            end.write(b"x" * 1000)
        summary = client.put_stream(ours, "/new", listener=Waits(occupied.close))
    finally:
        os.close(ours)
    assert (summary.done, summary.failed) == (1, 0)
    assert (files / "new").read_bytes() == b"x" * 1000


def test_a_writer_waits_as_long_as_it_is_asked_to(server, connect, occupied, files, monkeypatch):
    requested, lost = [], Patience.lost

    def is_lost(patience, error, retry_after=None) -> None:
        requested.append(retry_after)
        occupied.close()
        lost(patience, error, retry_after)

    monkeypatch.setattr(Patience, "lost", is_lost)
    monkeypatch.setattr(Patience, "pause", lambda patience: None)
    client = connect(server, retry_for=60)
    with client.open("/new", "wb") as file:
        file.write(bytes(9 * MIB))
    assert set(requested) == {1}


def test_without_patience_it_is_an_error(server, connect, occupied, tmp_path):
    (tmp_path / "new").write_bytes(bytes(MIB + 1))
    client = connect(server, retry_for=0)
    with pytest.raises(ConnectionLost, match="too many transfers"):
        client.put([tmp_path / "new"], "/new")
    occupied.close()
    # the control, once the server has seen that the other one has left
    eventually(lambda: not _is_refused(lambda: client.put([tmp_path / "new"], "/new")))


def _is_refused(transfer) -> bool:
    try:
        transfer()
    except ConnectionLost:
        return True
    return False


@pytest.mark.parametrize("verb", ["put", "get"])
def test_several_connections_go_on_as_fewer(server, connect, files, tree, tmp_path, verb):
    client = connect(server, retry_for=60)
    waits = Waits()
    options = {"recursive": True, "parallel": 4, "listener": waits}
    if verb == "put":
        summary = client.put([tree], "/tree", **options)
        made = files / "tree"
    else:
        tree.rename(files / "tree")
        summary = client.get(["/tree"], tmp_path / "got", **options)
        made = tmp_path / "got"
    assert (summary.done, summary.failed) == (8, 0)  # with those found unchanged after a loss
    assert sorted(path.name for path in made.iterdir()) == [f"f{number}" for number in range(8)]


@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_file_in_pieces_goes_whole_where_one_may_run(server, connect, files, tmp_path, verb):
    size = 10 * MIB
    client = connect(server, retry_for=60)
    if verb == "put":
        (tmp_path / "new").write_bytes(bytes(size))
        client.put([tmp_path / "new"], "/new", parallel=2)
        assert (files / "new").stat().st_size == size
    else:
        (files / "old").write_bytes(bytes(size))
        client.get(["/old"], tmp_path / "got", parallel=2)
        assert (tmp_path / "got").stat().st_size == size


def test_a_file_object_waits_before_it_sends(server, connect, occupied, files, monkeypatch):
    pause = retry.Patience.pause

    def paused(patience: retry.Patience) -> None:
        occupied.close()
        pause(patience)

    monkeypatch.setattr(retry.Patience, "pause", paused)
    client = connect(server, retry_for=60)
    with client.open("/new", "wb") as file:
        file.write(bytes(5 * MIB))
    assert (files / "new").stat().st_size == 5 * MIB


def test_a_file_object_that_may_not_wait(server, connect, occupied, files):
    """Nothing was read of what is written: that it cannot be read again would be no reason."""
    client = connect(server, retry_for=0)
    with pytest.raises(ConnectionLost, match="the limit is 1$"):
        with client.open("/new", "wb") as file:
            file.write(bytes(5 * MIB))
    assert not (files / "new").exists()


@pytest.mark.timeout(60)
def test_a_file_object_waits_while_a_listing_is_open(server, connect, occupied, files, monkeypatch):
    """The listing's thread has the turn, and waits for the file: its upload needs no turn."""
    pause = retry.Patience.pause

    def paused(patience: retry.Patience) -> None:
        occupied.close()
        pause(patience)

    monkeypatch.setattr(retry.Patience, "pause", paused)
    client = connect(server, retry_for=60)
    entries = client.list_dir("/")
    assert next(entries).path == b"other"
    with client.open("/new", "wb") as file:
        file.write(bytes(5 * MIB))
    entries.close()
    assert (files / "new").stat().st_size == 5 * MIB
