"""What a run decides: how many connections, and what is asked before the first file."""

from __future__ import annotations

from itertools import count

import pytest

from ftpclient import Client
from ftpclient.connection.connection import Connection
from ftpclient.transfer import retry
from ftpclient.transfer.report import Listener
from ftpserver.storage import atomic_tree
from ftpwire.errors import BadMessage, NotAtomic, QuotaExceeded, TooMany, UploadTakenOver
from ftpwire.frames import Kind
from ftpwire.messages import Failed, Put
from tests.lying_server import LyingServer
from tests.peer import Frame, Peer


@pytest.fixture
def tree(tmp_path):
    """Ten files of 1,000 bytes."""
    top = tmp_path / "tree"
    for number in range(10):
        directory = top / f"d{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(bytes([number]) * 1000)
    return top


@pytest.fixture
def client(start_server):
    server = start_server(quota=5_000_000)
    address = f"alice@127.0.0.1:{server.server_address[1]}"
    with Client(address, password="secret", plaintext=True) as made:
        yield made


@pytest.fixture
def opened(client, monkeypatch):
    """The further connections that are opened."""
    found = []
    real = Client.new_connection

    def counted(self):
        found.append(real(self))
        return found[-1]

    monkeypatch.setattr(Client, "new_connection", counted)
    return found


@pytest.mark.parametrize("way", ["put", "get"])
@pytest.mark.parametrize(
    ("round_trip", "least", "expected"),
    [(0.001, 0, 0), (0.1, 1_000_000, 0), (0.1, 3_000, 4)],
    ids=["near", "far-and-little", "far-and-much"],
)
def test_further_connections_are_opened_where_they_are_worth_it(
    client, opened, tree, tmp_path, monkeypatch, by_distance, way, round_trip, least, expected
):
    if way == "get":
        client.put([tree], "/", recursive=True)
    monkeypatch.setattr(retry, "_FAR_LEAST", least)
    client.connection.round_trip = round_trip
    if way == "put":
        summary = client.put([tree], "/there", recursive=True)
    else:
        summary = client.get(["/tree"], tmp_path / "got", recursive=True)
    assert (summary.done, summary.failed) == (10, 0)
    assert len(opened) == expected


@pytest.mark.parametrize("refused", [{1}, {0, 1, 2}], ids=["one", "all"])
def test_a_server_that_wants_no_more_connections_gets_it_over_fewer(
    client, tree, monkeypatch, refused
):
    real, made, number = Client.new_connection, [], count()

    def refusing(self):
        if next(number) in refused:
            raise TooMany("too many sessions")
        made.append(real(self))
        return made[-1]

    monkeypatch.setattr(Client, "new_connection", refusing)
    summary = client.put([tree], "/there", recursive=True, parallel=3)
    assert (summary.done, summary.failed) == (10, 0)
    assert len(made) == 3 - len(refused)
    assert all(one.broken for one in made)  # closed at the end


def test_no_more_connections_are_tried_than_an_account_may_have(
    client, opened, tree, start_server, tmp_path
):
    server = start_server(max_user_sessions=3, root=tmp_path / "small")
    reported = []
    listener = Listener()
    listener.remark = reported.append
    address = f"alice@127.0.0.1:{server.server_address[1]}"
    with Client(address, password="secret", plaintext=True) as limited:
        summary = limited.put([tree], "/t", recursive=True, parallel=5, listener=listener)
    assert (summary.done, summary.failed) == (10, 0)
    assert len(opened) == 3, "the first one is of them"
    assert reported == ["2 further connections: the account is limited to 3 sessions"]


def test_one_that_fails_otherwise_closes_the_others(client, tree, monkeypatch):
    real, made, number = Client.new_connection, [], count()

    def failing(self):
        if next(number) == 1:
            raise BadMessage("nonsense")
        made.append(real(self))
        return made[-1]

    monkeypatch.setattr(Client, "new_connection", failing)
    with pytest.raises(BadMessage):
        client.put([tree], "/there", recursive=True, parallel=3)
    assert [one.broken for one in made] == [True, True]


def test_what_a_put_asks_first_is_asked_at_once(client, tree, monkeypatch):
    """However many questions: one wait for all of them, then one for the files."""
    client.make_dir("/there")
    waits = []
    real = Connection.pump
    monkeypatch.setattr(Connection, "pump", lambda self, *a: (waits.append(1), real(self, *a))[1])
    requested = []
    submit = Connection.submit

    def noted(self, call, request, cost=0):
        requested.append((type(request).__name__, len(waits)))
        submit(self, call, request, cost)

    monkeypatch.setattr(Connection, "submit", noted)
    client.put([tree], "/there", recursive=True)
    questions = [waited for name, waited in requested if name in ("Stat", "Space")]
    assert len(questions) >= 4
    assert set(questions) == {0}


def test_answers_from_before_are_not_used_after(client, tree):
    (tree / "large").write_bytes(bytes(6_000_000))
    with pytest.raises(QuotaExceeded):
        client.put([tree], "/new", recursive=True)
    client.make_dir("/new")
    assert client.stat("/new", follow=True).type == "dir"
    assert client.find("/new", follow=True) is not None


@pytest.mark.parametrize("movable", [False, True])
def test_a_tree_that_can_not_be_replaced_at_once_reports_the_option(
    client, tree, monkeypatch, movable
):
    client.make_dir("/tree")
    monkeypatch.setattr(atomic_tree, "can_be_moved", lambda *args: movable)
    if movable:
        assert client.put([tree], "/", recursive=True, atomic=True).done == 10
        return
    with pytest.raises(NotAtomic, match=r"replaced at once \(leave --atomic out\)$"):
        client.put([tree], "/", recursive=True, atomic=True)


@pytest.mark.parametrize("what", ["tree", "files", "sync", "file"])
def test_whoever_leaves_an_upload_to_another_says_that_the_rest_stays(fake, connect, tree, what):
    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, Put):
            return False
        peer.frame(Kind.ERROR, 0, Failed("taken-over", "another session uploads it", path=b"/x/f0"))
        peer.read_to_end()
        return True

    server = fake(LyingServer(ask=ask))
    client = connect(server)
    actions = {
        "tree": lambda: client.put([tree], "/x", recursive=True),
        "files": lambda: client.put(sorted((tree / "d0").iterdir()), "/x"),
        "sync": lambda: client.sync(str(tree), ":/x"),
        "file": lambda: client.put([tree / "d0" / "f0"], "/x"),
    }
    with pytest.raises(UploadTakenOver) as caught:
        actions[what]()
    rest = "" if what == "file" else "; the rest was not transferred"
    assert str(caught.value) == f"another session uploads it{rest}"
    assert caught.value.path == b"/x/f0"
    assert server.connections == 1, "it doesn't take it back"
