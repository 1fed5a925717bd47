"""Someone fills the audit log, so that it doesn't tell of something else."""

from __future__ import annotations

import json
import time

import pytest

from ftpserver.audit import allowances, files
from ftpserver.audit.files import FILE_NAME
from ftpserver.audit.record import REFUSED
from ftpserver.audit.writer import Audit
from ftpwire.messages import Failed, Login, LoginToken, MakeDir, Register, SetAttributes
from tests.peer import eventually

WAYS = [pytest.param({}, id="threads"), pytest.param({"threads": 0}, id="threads-0")]
ISOLATED = pytest.param({"isolation": "process"}, id="isolation", marks=pytest.mark.system)
WORKERS = pytest.param({"workers": 2}, id="workers", marks=pytest.mark.system)
CHEAP = [
    pytest.param(lambda: MakeDir(b"/x"), id="without-log-in"),
    pytest.param(lambda: Register("mallory", "correct-horse"), id="registration-closed"),
    pytest.param(lambda: LoginToken("alice", "ftpt_wrong"), id="wrong-token"),
]


def lines_of(state, name: str = FILE_NAME) -> list[bytes]:
    """The whole lines of a file of the log: the last one may be on its way just now."""
    path = state / name
    there = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in there if line.endswith(b"\n")]


def reported(state, name: str = FILE_NAME) -> list[dict]:
    return [json.loads(line) for line in lines_of(state, name)]


@pytest.mark.parametrize("way", [*WAYS, WORKERS, ISOLATED])
@pytest.mark.parametrize("cheap", CHEAP)
def test_cheap_requests_hide_no_guess(start_server, dial, monkeypatch, way, cheap):
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 2)
    monkeypatch.setattr(allowances, "_REFUSALS_RATE", 0.0)
    server = start_server(**way)
    server.service.limits._bans.delay = lambda host: 0.0
    for _ in range(6):
        with dial(server, logged_in=False) as peer:
            peer.hello()
            assert isinstance(peer.ask(cheap()), Failed)
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert isinstance(peer.ask(Login("alice", "guess")), Failed)

    def guesses() -> list[dict]:
        found = reported(server.settings.state)
        return [one for one in found if one.get("details") == {"with": "password"}]

    assert [one["reason"] for one in eventually(guesses)] == ["wrong password"]

    def refused() -> int:
        return sum(one["outcome"] == REFUSED for one in reported(server.settings.state))

    # the control: of the cheap ones two are there, of whichever worker, and no more
    eventually(lambda: refused() >= 3)
    assert refused() == 3


@pytest.mark.long
@pytest.mark.parametrize(
    "way", [{}, {"threads": 0}, {"workers": 2}, {"isolation": "process"}], ids=str
)
def test_two_thousand_cheap_requests_hide_no_guess(start_server, dial, way):
    """With the allowance as it is: 500 at once, and five a second."""
    server = start_server(login_grace=600.0, **way)
    began = time.monotonic()
    for _ in range(125):
        with dial(server, logged_in=False) as peer:
            peer.hello()
            for _ in range(16):
                assert isinstance(peer.ask(MakeDir(b"/x")), Failed)
    with dial(server, logged_in=False) as peer:
        peer.hello()
        assert isinstance(peer.ask(Login("alice", "guess")), Failed)

    def guesses() -> list[dict]:
        return [one for one in reported(server.settings.state) if one["event"] == "login"]

    assert [one["reason"] for one in eventually(guesses)] == ["wrong password"]
    cheap = sum(one["event"] == "mkdir" for one in reported(server.settings.state))
    assert 500 <= cheap <= 501 + 5 * (time.monotonic() - began)


@pytest.mark.long
@pytest.mark.parametrize(
    "way", [{}, {"threads": 0}, {"workers": 2}, {"isolation": "process"}], ids=str
)
def test_thirty_thousand_successes_do_not_turn_the_log_over(start_server, dial, way):
    """With the share as it is; the files are small."""
    server = start_server(audit_size=4 * 2**20, audit_keep=1, audit_own_size=2**20, **way)
    state = server.settings.state
    peers = [dial(server) for _ in range(2)]
    for number in range(0, 30_000, 2 * 50):
        for peer in peers:
            for one in range(50):
                peer.request(SetAttributes(b"/", mtime_ns=number + one))
        for peer in peers:
            for _ in range(50):
                peer.answer()
    own = state / "audit-files-alice.jsonl.1"
    eventually(own.exists)
    common = reported(state)
    assert any(one["event"] == "start" for one in common)
    assert sum(one["event"] == "attributes" for one in common) <= files._SHARE + 1000


def test_a_banned_address_hides_no_guess(tmp_path, monkeypatch):
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 2)
    monkeypatch.setattr(allowances, "_REFUSALS_RATE", 0.0)
    from ftpserver.audit.context import guess_of

    log = Audit(tmp_path, size=2**20)
    try:
        banned = guess_of("login", "banned", "password")
        assert [log.may_record_failure(None, banned) for _ in range(3)] == [True, True, False]
        wrong = guess_of("login", "login-refused", "password")
        assert [log.may_record_failure(None, wrong) for _ in range(3)] == [True, True, False]
    finally:
        log.close()


@pytest.mark.parametrize("way", [*WAYS, WORKERS, ISOLATED])
def test_the_successes_of_one_user_do_not_turn_the_log_over(start_server, dial, monkeypatch, way):
    monkeypatch.setattr(files, "_SHARE", 20)
    server = start_server(audit_size=20_000, audit_keep=1, audit_own_size=5_000, **way)
    state = server.settings.state
    server.accounts.add("bob", "correct-horse")
    busy = dial(server)
    for number in range(300):
        busy.ask(SetAttributes(b"/", mtime_ns=number))
    with dial(server, logged_in=False) as other:
        other.log_in("bob", "correct-horse")
        assert not isinstance(other.ask(MakeDir(b"/of-bob")), Failed)

    def bobs() -> list[dict]:
        return [one for one in reported(state) if one.get("path") == "/of-bob"]

    assert eventually(bobs)
    own = state / "audit-files-alice.jsonl"
    eventually(own.exists)
    busy.ask(SetAttributes(b"/", mtime_ns=0))
    eventually(own.with_name("audit-files-alice.jsonl.1").exists)
    common = reported(state)
    assert sum(one["event"] == "attributes" for one in common) <= 20  # the control: some are
    assert [one["user"] for one in common if one["event"] == "moved-on"] == ["alice"]
    assert any(one["event"] == "start" for one in common)  # nothing was turned over
    names = sorted(path.name for path in state.glob("audit*"))
    assert [name for name in names if not name.startswith("audit-files")] == [FILE_NAME]


def test_refusals_and_log_ins_have_space_apart_from_files(start_server, dial, monkeypatch):
    monkeypatch.setattr(files, "_SHARE", 5)
    server = start_server()
    peer = dial(server)
    for number in range(20):
        peer.ask(SetAttributes(b"/", mtime_ns=number))
    assert isinstance(peer.ask(MakeDir(b"/.ftpd-staging/x")), Failed)
    peer.close()

    def both() -> bool:
        found = {one["event"] for one in reported(server.settings.state)[-3:]}
        return {"mkdir", "logout"} <= found

    eventually(both)


LONG = b"/" + b"/".join([b"\xff" * 250] * 3)
"""Of each byte seven are told: as U+FFFD, and in base64."""


def size_of(state, event: str) -> int:
    return sum(len(line) for line in lines_of(state) if json.loads(line)["event"] == event)


@pytest.mark.parametrize("way", [*WAYS, WORKERS, ISOLATED])
@pytest.mark.parametrize("logged_in", [False, True], ids=["stranger", "user"])
def test_failures_with_long_paths_take_no_more_space(
    start_server, dial, monkeypatch, way, logged_in
):
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 20)
    monkeypatch.setattr(allowances, "_REFUSALS_RATE", 0.0)
    server = start_server(**way)
    with dial(server, logged_in=logged_in) as peer:
        if not logged_in:
            peer.hello()
        for _ in range(12):
            assert isinstance(peer.ask(MakeDir(LONG)), Failed)
    state = server.settings.state
    eventually(lambda: any(one["event"] == "dropped" for one in reported(state)))
    assert 0 < size_of(state, "mkdir") <= 20 * 1024


@pytest.mark.parametrize("way", [*WAYS, WORKERS, ISOLATED])
def test_successes_with_long_paths_take_no_more_space(start_server, dial, monkeypatch, way):
    monkeypatch.setattr(files, "_SHARE", 20)
    server = start_server(**way)
    state = server.settings.state
    with dial(server) as peer:
        for depth in 1, 2, 3:
            peer.ask(MakeDir(b"/".join(LONG.split(b"/")[: depth + 1])))
        for number in range(12):
            assert not isinstance(peer.ask(SetAttributes(LONG, mtime_ns=number)), Failed)
    eventually(lambda: any(one["event"] == "logout" for one in reported(state)))

    def recorded() -> int:
        path = state / "audit-files-alice.jsonl"  # it is written after the common file
        own = path.read_bytes() if path.exists() else b""
        common = sum(one["event"] == "attributes" for one in reported(state))
        return own.count(b'"attributes"') + common

    eventually(lambda: recorded() == 12)  # the control: none is missing
    assert 0 < size_of(state, "attributes") <= 20 * 1024
