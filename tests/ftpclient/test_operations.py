"""What a client says of its changes: which command they belong to, and that each is done once.

Lives elsewhere: the ids and words themselves (connection/test_client_id.py), the command line
(cli/test_operations.py), the server's side (tests/ftpserver).
"""

from __future__ import annotations

import asyncio

import pytest

from ftpclient import AsyncClient, ConnectionLost, TimedOut
from ftpclient.connection.client_id import client_id
from ftpclient.transfer import retry
from ftpwire.errors import NotFound
from ftpwire.messages import Copy, MakeDir, Move, Operation, Put, Remove, Stat
from tests.ftpclient.operations_support import TrashServer


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """A lost connection is made again without a wait."""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)


@pytest.fixture
def speak(fake, connect):
    """A client of such a server, and the server."""

    def speak(client_options=None, **options):
        server = TrashServer(**options)
        return connect(fake(server), **(client_options or {})), server

    return speak


CHANGES = {
    "rm": (lambda client: client.remove("/a"), Remove),
    "mv": (lambda client: client.move("/a", "/b"), Move),
    "cp": (lambda client: client.copy("/a", "/b"), Copy),
    "mkdir": (lambda client: client.make_dir("/a"), MakeDir),
    "ln": (lambda client: client.make_link("/a", "b"), object),
}


def named(*verbs):
    return pytest.mark.parametrize("change", [CHANGES[verb][0] for verb in verbs], ids=verbs)


every_change = named(*CHANGES)


# what is said --------------------------------------------------------------------------------


@every_change
def test_each_verb_is_an_operation_said_right_before_its_change(speak, change):
    client, server = speak()
    client.stat("/a")
    change(client)
    change(client)
    (reported,) = server.reported
    assert [type(one) for one in reported[:2]] == [Stat, Operation]
    first, second = server.operations
    assert first.id != second.id and first.client == second.client == client_id()
    assert first.keep and first.words.startswith("Client.") and "/a" in first.words
    assert [one.number for one in server.requests()] == [1, 1]
    assert reported.index(second) + 1 == len(reported) - 1


def test_an_operation_is_not_waited_for(speak):
    """Both go out in one piece: no round trip is spent on it."""
    client, server = speak()
    sent = []
    channel = client.connection.channel
    send = channel.try_flush
    channel.try_flush = lambda: sent.append(channel.has_output) or send()
    client.remove("/a")
    assert len(server.operations) == 1
    assert sent.count(True) == 1


def test_a_question_says_nothing(speak):
    client, server = speak()
    client.stat("/a")
    list(client.list_dir("/"))
    client.space()
    assert server.operations == []


def test_verbs_of_a_block_are_one_operation(speak):
    client, server = speak()
    with client.operation("tidy up", keep=False):
        client.remove("/a")
        client.move("/b", "/c")
    client.remove("/d")
    first, second = server.operations
    assert first.words == "tidy up" and not first.keep
    assert second.words == "Client.remove /d" and second.keep
    assert [one.number for one in server.requests()] == [1, 2, 1]


def test_a_block_in_another_is_part_of_it_unless_nothing_is_kept(speak):
    client, server = speak()
    with client.operation("all"):
        client.remove("/a")
        with client.operation("some"):
            client.remove("/b")
        with client.operation("secret", keep=False):
            client.remove("/c")
        client.remove("/d")
    said = [(one.words, one.keep) for one in server.operations]
    assert said == [("all", True), ("secret", False), ("all", True)]
    assert server.operations[0] == server.operations[2]


def test_an_upload_belongs_to_one(speak, tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    client, server = speak()
    server.entry = lambda path: None  # nothing is there
    client.put_file(tmp_path / "f", "/f")
    (operation,) = server.operations
    assert operation.words == f"Client.put_file {tmp_path}/f /f"
    (reported,) = server.reported
    assert isinstance(reported[reported.index(operation) + 1], Put)


@every_change
def test_an_older_server_learns_nothing(speak, change):
    client, server = speak(trash=False)
    change(client)
    assert server.operations == []
    assert [(one.number, one.again) for one in server.requests()] == [(0, False)]


def test_a_new_connection_is_reported_again(speak):
    client, server = speak()
    with client.operation("both"):
        client.remove("/a")
        client.connection.give_up()
        client.remove("/b")
    first, second = server.operations
    assert first == second and len(server.reported) == 2


def test_what_asked_for_no_operation_belongs_to_none(speak):
    """What commands send themselves, outside of a verb, isn't taken for part of the last one."""
    client, server = speak()
    client.remove("/a")
    client.connection.ask(Remove(b"/b"))
    assert server.operations[1] == Operation()


def test_a_refused_operation_is_reported_and_said_again(speak):
    remarks = []
    client, server = speak({"remark": remarks.append})
    client.connect()
    connection = client.connection
    connection.not_said(NotFound("no such thing"))
    client.remove("/a")
    assert len(server.operations) == 1
    assert "may not be kept as one operation: no such thing" in remarks[0]


# lost answers --------------------------------------------------------------------------------

losses = pytest.mark.parametrize("lost", ["request", "answer"])


@losses
@every_change
def test_a_change_whose_connection_is_lost_is_done_once(speak, change, lost):
    client, server = speak(lose={0: lost})
    change(client)
    assert len(server.done) == 1
    first, second = server.requests()
    assert (first.number, first.again) == (1, False)
    assert (second.number, second.again) == (1, True)
    assert [type(one) for one in server.reported[1]] == [Operation, type(first)]
    assert server.operations[0] == server.operations[1]


@losses
def test_it_may_be_lost_several_times(speak, lost):
    client, server = speak(lose={0: lost, 1: "answer", 2: "request"})
    assert client.remove("/a").files == 1
    assert len(server.done) == 1 and len(server.reported) == 4


@losses
def test_a_failure_is_repeated_as_well(speak, lost):
    client, server = speak(lose={0: lost})
    with pytest.raises(NotFound):
        client.remove("/missing")
    assert len(server.done) == 1


@losses
def test_many_in_one_operation_are_each_done_once(speak, lost):
    client, server = speak(lose=dict.fromkeys(range(0, 30, 3), lost))
    with client.operation("rm *"):
        for number in range(20):
            client.remove(f"/{number}")
    assert [one.path for one in server.done] == [b"/%d" % number for number in range(20)]
    assert len({operation.id for operation in server.operations}) == 1


@losses
def test_with_an_older_server_it_stays_unknown(speak, lost):
    client, server = speak(trash=False, lose={0: lost})
    with pytest.raises(ConnectionLost, match="it may have been done") as caught:
        client.remove("/a")
    assert caught.value.exit_code == 4
    assert len(server.reported) == 1


@losses
def test_who_doesnt_retry_is_informed_that_it_is_unknown(speak, lost):
    client, server = speak({"retries": 0}, lose={0: lost})
    with pytest.raises(ConnectionLost, match="it may have been done$"):
        client.move("/a", "/b")
    assert len(server.reported) == 1


def test_a_server_that_can_repeat_no_more_is_not_asked(speak):
    """It was replaced by an older one meanwhile."""
    client, server = speak(lose={0: "answer"})
    features = client.connection.server.features
    assert "trash" in features
    server.trash = False
    with pytest.raises(ConnectionLost, match="it may have been done"):
        client.remove("/a")
    assert len(server.requests()) == 1


def test_a_lost_connection_is_reported(speak):
    remarks = []
    client, _ = speak({"remark": remarks.append}, lose={0: "answer"})
    client.remove("/a")
    (remark,) = remarks
    assert remark.endswith("; reconnecting") and "may have been" not in remark


# asyncio -------------------------------------------------------------------------------------


def with_async(fake, connect, server, work):
    """Do something with an AsyncClient of a server."""

    async def run():
        address = fake(server).address
        async with AsyncClient(address, password="secret", plaintext=True) as client:
            return await work(client)

    return asyncio.run(run())


@losses
@every_change
def test_a_change_of_a_task_is_done_once(fake, connect, change, lost):
    server = TrashServer(lose={0: lost})
    with_async(fake, connect, server, change)
    assert len(server.done) == 1
    assert {one.number for one in server.requests()} == {1}
    (words,) = {one.words for one in server.operations}
    assert words.startswith("AsyncClient.")
    assert len({one.id for one in server.operations}) == 1


def test_tasks_have_operations_of_their_own_on_one_connection(fake, connect):
    """What goes out between is told to the server before each request."""

    async def work(client):
        async def two(number: int) -> None:
            with client.operation(str(number)):
                await client.remove(f"/{number}/1")
                await client.remove(f"/{number}/2")

        await asyncio.gather(*map(two, range(10)))

    server = TrashServer()
    with_async(fake, connect, server, work)
    (reported,) = server.reported
    current = None
    for one in reported:
        if isinstance(one, Operation):
            current = one.words
        elif isinstance(one, Remove):
            assert one.path.split(b"/")[1].decode() == current
    assert len({one.id for one in server.operations}) == 10


def test_a_transfer_of_a_task_belongs_to_its_operation(fake, connect, tmp_path):
    (tmp_path / "f").write_bytes(b"12345")

    async def work(client):
        with client.operation("send"):
            await client.put_file(tmp_path / "f", "/f")
            await client.remove("/g")

    server = TrashServer()
    server.entry = lambda path: None
    with_async(fake, connect, server, work)
    (operation,) = server.operations
    assert operation.words == "send"
    assert len(server.requests(Put)) == 1


def test_a_task_with_an_older_server_is_informed_that_it_is_unknown(fake, connect):
    server = TrashServer(trash=False, lose={0: "answer"})
    with pytest.raises(ConnectionLost, match="it may have been done"):
        with_async(fake, connect, server, lambda client: client.remove("/a"))


def test_tasks_whose_connection_is_lost_have_each_their_change_done_once(fake, connect):
    server = TrashServer(lose={3: "answer", 9: "request"})

    async def work(client):
        await asyncio.gather(*(client.remove(f"/{number}") for number in range(12)))

    with_async(fake, connect, server, work)
    assert sorted(one.path for one in server.done) == sorted(b"/%d" % n for n in range(12))


def test_of_a_change_whose_time_is_over_it_is_reported_that_it_may_have_been_done(
    speak, monkeypatch
):
    """Also where that comes while the connection is made again."""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 60.0)
    client, _ = speak(lose={0: "answer"})
    with pytest.raises(TimedOut, match="it may have been done"):
        client.remove("/a", timeout=0.2)
