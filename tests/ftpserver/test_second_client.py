"""What docs/protocol.md says suffices for another client: one that shares no code with ours."""

from __future__ import annotations

import ast
import random
import ssl
from pathlib import Path

import pytest

from tests import second_client
from tests.second_client import Ended, Failure, SecondClient, digest_of

MIB = 1024 * 1024
QUOTA = 64 * MIB


def test_it_shares_no_code_with_the_product():
    names = set()
    for node in ast.walk(ast.parse(Path(second_client.__file__).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    foreign = {"blake3", "msgspec", "select", "socket", "ssl", "struct", "typing"}
    assert names == foreign | {"__future__", "collections.abc"}


class Place:
    """A server, and somebody with an account there."""

    def __init__(self, server) -> None:
        self._address = server.server_address[:2]
        self._context = None
        if not server.settings.plaintext:  # its certificate is all that is trusted
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_3
            self._context.check_hostname = False
            self._context.load_verify_locations(server.settings.state / "tls" / "cert.pem")

    def connect(self, password: str = "secret") -> SecondClient:
        return SecondClient(*self._address, "alice", password, context=self._context)


@pytest.fixture
def place(start_server):
    """A server without TLS, and somebody with a quota there."""
    return Place(start_server(quota=QUOTA, durable=False))


@pytest.fixture
def client(place):
    with place.connect() as connected:
        yield connected


@pytest.fixture(scope="module")
def large():
    """Bytes of a file that is worth resuming."""
    return random.Random(1).randbytes(20 * MIB)


def code_of(call, *arguments, **options) -> str:
    """The code with which something is refused."""
    with pytest.raises(Failure) as caught:
        call(*arguments, **options)
    return caught.value.code


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
def test_it_logs_in(start_server, plaintext):
    place = Place(start_server(plaintext=plaintext, quota=QUOTA))
    with place.connect() as client:
        assert client.ask("whoami") == {"op": "logged-in", "user": client.user}
        assert client.ask("space")["total"] == QUOTA
        client.answer(client.send_small(b"/file", b"data"))
        assert client.get(b"/file") == (b"data", 0)
    with pytest.raises(Failure, match="login-refused"):
        place.connect("wrong")


def test_the_server_says_all_of_its_hello(client):
    told = client.server
    assert told["version"] == 1
    assert told["features"] == ["pieces", "alive", "kept", "alone"]
    assert told["max_control"] == 128 * 1024
    assert told["max_data"] == 4 * MIB
    assert told["max_requests"] > 1
    assert told["max_unanswered"] > MIB


def test_it_uploads_many_small_files_at_once_and_lists_them(client):
    rows = random.Random(2)
    files = {
        b"file %d\xff\n" % number: rows.randbytes(rows.randrange(3000)) for number in range(300)
    }
    files[b"empty"] = b""
    made = client.send("make-dir", path=b"/d/e", parents=True)
    sent = [
        (client.send_small(b"/d/e/" + name, data, mode=0o640, mtime_ns=10**18), data)
        for name, data in files.items()
    ]
    assert client.answer(made) == {"op": "done"}
    for request_id, data in sent:
        assert client.answer(request_id) == {"op": "stored", "size": len(data)}

    found = client.list(b"/", recursive=True, digest=True)
    assert {path for path, entry in found.items() if entry[0] == "dir"} == {b"d", b"d/e"}
    for name, data in files.items():
        entry = found.pop(b"d/e/" + name)
        assert entry[:6] == ["file", len(data), 0o640, 10**18, None, digest_of(data)]
    assert len(found) == 2
    for name in list(files)[:20]:
        assert client.get(b"/d/e/" + name) == (files[name], 0)


def test_it_stores_links_and_asks_about_them(client):
    client.ask("make-dir", path=b"/d")
    client.ask("make-link", path=b"/link", target=b"d")
    assert client.ask("stat", path=b"/link")["entry"][1:6:4] == ["link", b"d"]
    assert client.ask("stat", path=b"/link", follow=True)["entry"][1] == "dir"
    assert set(client.list(b"/")) == {b"d", b"link"}
    client.ask("make-link", path=b"/dangling", target=b"nowhere")
    assert client.list(b"/dangling")[b""][0] == "link"


def test_it_resumes_an_upload(client, place, large):
    assert code_of(client.put, b"/large", large, give_up_at=12 * MIB, mtime_ns=5) == "cancelled"
    assert code_of(client.ask, "stat", path=b"/large") == "not-found"
    with place.connect() as later:
        assert later.put(b"/large", large, mtime_ns=5) == 12 * MIB
    assert client.get(b"/large") == (large, 0)
    assert client.ask("hash", path=b"/large") == {
        "op": "hashed",
        "digest": digest_of(large),
        "size": len(large),
    }


def test_it_starts_over_when_the_source_is_another(client, large):
    assert code_of(client.put, b"/large", large, give_up_at=12 * MIB, mtime_ns=5) == "cancelled"
    other = b"x" + large[1:]
    assert client.put(b"/large", other, mtime_ns=5) == 0
    assert client.get(b"/large") == (other, 0)


def test_it_resumes_and_gives_up_downloads(client, large):
    assert client.put(b"/large", large) == 0
    assert client.get(b"/large", large[: 5 * MIB]) == (large, 5 * MIB)
    assert client.get(b"/large", b"x" + large[1 : 5 * MIB]) == (large, 0)
    assert code_of(client.get, b"/large", cancel=True) == "cancelled"
    assert client.ask("whoami")["user"] == client.user


def test_it_is_refused_by_quota(client):
    too_much = bytes(QUOTA + 1)
    with pytest.raises(Failure, match="quota") as caught:
        client.put(b"/large", too_much)
    assert (caught.value.needed, caught.value.free) == (QUOTA + 1, QUOTA)

    # without asking first: the refusal comes while the bytes do, and CANCEL closes the put
    request_id = client.send("put", path=b"/large", size=QUOTA + 1)
    assert code_of(client.answer, request_id) == "quota"
    client.cancel(request_id)
    space = client.ask("space")
    assert (space["used"], space["held"], space["free"]) == (0, 0, QUOTA)


def test_it_is_refused_before_the_bytes(client):
    assert code_of(client.put, b"/nowhere/file", b"data") == "not-found"
    client.ask("make-dir", path=b"/d")
    assert code_of(client.put, b"/d", b"data") == "is-a-directory"
    request_id = client.send_small(b"/file", b"data")
    client.answer(request_id)
    assert code_of(client.put, b"/file", b"other", overwrite="never") == "exists"
    assert client.get(b"/file") == (b"data", 0)


def test_it_gives_up_an_upload(client):
    request_id = client.send("put", path=b"/file", size=3)
    client.cancel(request_id)
    assert code_of(client.answer, request_id) == "cancelled"
    assert client.list(b"/") == {}


def test_it_changes_the_tree(client):
    sent = [client.send_small(b"/d/file%d" % number, b"data", parents=True) for number in range(9)]
    for request_id in sent:
        client.answer(request_id)
    copied = client.ask("copy", source=b"/d", target=b"/e", recursive=True)
    assert (copied["files"], copied["directories"], copied["size_bytes"]) == (9, 1, 36)
    assert client.ask("move", source=b"/e", target=b"/f") == {"op": "done"}
    client.ask("set-attributes", path=b"/f/file1", mode=0o600, mtime_ns=7)
    entry = client.ask("stat", path=b"/f/file1")["entry"]
    assert entry[:5] == [b"/f/file1", "file", 4, 0o600, 7]
    assert code_of(client.ask, "remove", path=b"/f") == "not-empty"
    removed = client.ask("remove", path=b"/f", recursive=True)
    assert (removed["files"], removed["directories"], removed["size_bytes"]) == (9, 1, 36)
    assert set(client.list(b"/")) == {b"d"}


def test_it_replaces_a_tree_at_once(client, place):
    client.answer(client.send_small(b"/site/old", b"old", parents=True))
    client.ask("begin-tree", path=b"/site")
    client.ask("set-attributes", path=b"/site", mode=0o750)
    client.answer(client.send_small(b"/site/new", b"new"))
    with place.connect() as other:
        assert set(other.list(b"/site")) == set(client.list(b"/site")) == {b"old"}
        assert client.ask("end-tree") == {"op": "done"}
        assert set(other.list(b"/site")) == {b"new"}
        assert other.ask("stat", path=b"/site")["entry"][3] == 0o750
    assert code_of(client.ask, "end-tree") == "failed"


def test_what_breaks_the_protocol_ends_the_connection(client):
    client.send("put", path=b"/file", size=1)  # and another request before its END
    with pytest.raises(Ended) as caught:
        client.ask("whoami")
    assert caught.value.code == "bad-message"


def test_a_request_that_is_not_understood_fails_alone(client):
    assert code_of(client.ask, "no-such-request") == "unknown-request"
    assert code_of(client.ask, "stat", path=b"") == "bad-request"
    assert client.ask("whoami") == {"op": "logged-in", "user": "alice"}
