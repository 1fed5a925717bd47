"""Isolated sessions: each in a process of its own, that has only what it needs.

The server runs in this process; its fork server and the sessions are real processes. What takes
long is in the tier of real programs for that.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ftpserver.accounts.penalties import Offence
from ftpserver.audit import allowances
from ftpserver.isolation import sandbox, supervisor
from ftpserver.isolation.isolated_session import IsolatedSession
from ftpserver.isolation.newcomers import Newcomer
from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpwire import digests
from ftpwire.errors import FtpError
from ftpwire.frames import Kind
from ftpwire.messages import (
    GoingDown,
    Hello,
    LoggedIn,
    Login,
    NewFile,
    NewFiles,
    Put,
    PutFiles,
    Register,
    Sent,
    Stored,
    WhoAmI,
    encode_hello,
)
from tests.descriptors import opened_by
from tests.ftpserver.isolation import attacks
from tests.ftpserver.isolation.attacks import OTHER
from tests.peer import Peer, eventually, frame

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have sessions be others")
has_scopes = pytest.mark.skipif(
    sandbox.landlock_abi() < 6, reason="this kernel's Landlock doesn't keep from signals"
)


def put(peer: Peer, path: bytes, data: bytes) -> object:
    number = peer.request(Put(path, len(data)))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))
    return peer.answer().message


def only(server) -> IsolatedSession:
    """The one session that is logged in, once its process is known."""
    (session,) = [one for one in server.supervisor.sessions() if one.account is not None]
    eventually(lambda: session.pid)
    return session


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def system_user(server, name: str, user: str | None = OTHER) -> None:
    server.accounts.change(name, system_user=user)


# what a process has ------------------------------------------------------------------------------


@pytest.mark.system
@is_root
def test_an_unauthenticated_client_is_nobody_in_an_empty_directory(server, dial):
    dial(server, logged_in=False).hello()
    (session,) = server.supervisor.sessions()
    eventually(lambda: session.pid)
    nobody = pwd.getpwnam("nobody").pw_uid
    status = status_of(session.pid)
    assert set(status["Uid"].split()) == {str(nobody)}
    assert status["Groups"] == ""
    assert int(status["CapEff"], 16) == 1 << 6 | 1 << 7 | 1 << 18
    assert int(status["CapBnd"], 16) == int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Threads"] == "1"
    assert os.listdir(f"/proc/{session.pid}/root") == []
    assert os.stat(f"/proc/{session.pid}/root").st_nlink == 0  # nothing can be made in it either


@pytest.mark.system
@is_root
def test_who_has_logged_in_is_the_accounts_user_in_its_home(server, dial):
    system_user(server, "alice")
    peer = dial(server)
    assert put(peer, b"/mine", b"x") == Stored(1)
    session = only(server)
    user = pwd.getpwnam(OTHER)
    status = status_of(session.pid)
    assert set(status["Uid"].split()) == {str(user.pw_uid)}
    assert set(status["Gid"].split()) == {str(user.pw_gid)}
    assert all(int(status[kind], 16) == 0 for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"))
    assert status["NoNewPrivs"] == "1"
    home = server.settings.root / "alice"
    assert os.path.samefile(f"/proc/{session.pid}/root", home)
    info = (home / "mine").stat()
    assert (info.st_uid, info.st_gid) == (user.pw_uid, user.pw_gid)
    outside = {
        one
        for one in opened_by(session.pid)
        if one.startswith("/") and one not in ("/dev/null", "/memfd:paces (deleted)")
    }
    assert all(Path(one).is_relative_to(home) for one in outside), outside


@pytest.mark.system
@is_root
def test_without_a_system_user_it_is_the_servers_without_rights(server, dial):
    put(dial(server), b"/mine", b"x")
    status = status_of(only(server).pid)
    assert set(status["Uid"].split()) == {"0"}
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0


@pytest.mark.system
def test_why_no_process_can_be_confined_is_reported(server, dial, tmp_path, monkeypatch, caplog):
    """The process's own words would get lost: its output leads nowhere."""
    (tmp_path / "file").touch()
    nowhere = os.open(tmp_path / "file", os.O_RDONLY)
    with monkeypatch.context() as patch:
        patch.setattr(server.supervisor, "identity_before_login", None)
        patch.setattr(server.supervisor, "empty", nowhere)
        peer = dial(server, logged_in=False)
        peer.frame(Kind.REQUEST, 0, encode_hello(Hello()))
        assert peer.read_to_end() == []
    os.close(nowhere)
    eventually(lambda: "cannot confine the session, so it is closed: [Errno 20]" in caplog.text)


@pytest.mark.system
def test_the_account_that_a_home_is_handed_over_to_has_what_was_there(start, dial):
    if os.geteuid():
        pytest.skip("only root can give files away")
    server = start()
    home = server.settings.root / "alice"
    put(dial(server), b"/before", b"as root")
    eventually(lambda: (home / "before").exists())
    (home / "twice").write_text("it has another name outside")
    os.link(home / "twice", server.settings.root / "outside")
    os.symlink("/etc/passwd", home / "link")
    system_user(server, "alice")
    uid = pwd.getpwnam(OTHER).pw_uid
    eventually(lambda: not server.supervisor.sessions())
    peer = dial(server)
    assert put(peer, b"/before", b"as somebody") == Stored(11)
    assert home.stat().st_uid == (home / "before").stat().st_uid == uid
    assert (home / "link").lstat().st_uid == uid
    assert (server.settings.root / "outside").stat().st_uid == 0
    assert os.stat("/etc/passwd").st_uid == 0


@pytest.mark.system
@is_root
def test_roots_own_work_in_a_home_leaves_it_usable_for_its_user(server, dial):
    system_user(server, "alice")
    home = server.settings.root / "alice"
    os.chown(home, pwd.getpwnam(OTHER).pw_uid, pwd.getpwnam(OTHER).pw_gid)
    recount(server.service.ledger, server.accounts.get("alice").id, Home(home))
    assert put(dial(server), b"/file", b"x") == Stored(1)


# before it has one -------------------------------------------------------------------------------


@pytest.mark.system
def test_a_connection_is_reported_and_kicked_before_it_has_a_process(server, dial):
    peers = [dial(server, logged_in=False) for _ in range(2)]
    peers[1].send(b"\0\0")
    eventually(lambda: len(server.serving.session_infos()) == 2)
    reported = server.serving.session_infos()
    assert [(one.id, one.user, one.bytes_in) for one in reported] == [(1, None, 0), (2, None, 0)]
    stats = server.serving.stats()
    assert (stats.sessions, stats.unauthenticated) == (2, 2)
    assert not server.supervisor.sessions()
    assert server.serving.kick(1, None) == [1]
    assert peers[0].read_to_end() == []
    eventually(lambda: [one.id for one in server.serving.session_infos()] == [2])


@pytest.mark.system
@pytest.mark.parametrize("has_process", [False, True])
def test_one_that_makes_space_is_ended_before_and_after_it_has_a_process(start, dial, has_process):
    """And no other one."""
    server = start(login_grace=3600)
    other, peer = dial(server), dial(server, logged_in=False)
    if has_process:
        peer.hello()
    eventually(lambda: len(server.service.connections) == 2)
    (unauthenticated_client,) = [one for one in server.service.sessions if one.account is None]
    server.supervisor.drop(unauthenticated_client.request)
    assert peer.read_to_end() == []
    eventually(lambda: len(server.service.connections) == 1)
    assert other.ask(WhoAmI()) == LoggedIn("alice")


@pytest.mark.system
def test_the_time_for_log_ins_does_not_begin_anew_with_the_process(start, dial):
    """The control: another one that came at the same time, and has time left, is answered."""
    server = start(login_grace=3600)
    late, other = (dial(server, logged_in=False) for _ in range(2))
    eventually(lambda: len(server.serving.session_infos()) == 2)
    (newcomer,) = [one for one in server.service.sessions if one.id == 1]
    newcomer.since -= 3600
    hello = frame(Kind.REQUEST, 0, encode_hello(Hello()))
    late.send(hello)
    assert late.read_to_end() == []
    other.log_in()


@pytest.mark.system
@pytest.mark.parametrize("held_up", [False, True])
def test_who_is_late_because_the_server_was_is_not_penalized(start, dial, monkeypatch, held_up):
    monkeypatch.setattr(Newcomer, "is_held_up", held_up)
    server = start(login_grace=3600)
    costs = []
    monkeypatch.setattr(server.service.limits, "penalize", lambda host, what: costs.append(what))
    peer = dial(server, logged_in=False)
    eventually(lambda: server.service.sessions)
    (newcomer,) = server.service.sessions
    newcomer.since -= 3600
    peer.send(frame(Kind.REQUEST, 0, encode_hello(Hello())))
    assert peer.read_to_end() == []
    eventually(lambda: not server.service.sessions)
    eventually(lambda: not server.service.connections)
    assert costs == [Offence.TOO_LATE] * (not held_up)


@pytest.mark.system
def test_at_the_stop_nobody_waits_for_one_any_more(start, dial):
    server = start(grace=3600, login_grace=3600)
    peer = dial(server, logged_in=False)
    peer.send(b"\0")
    eventually(lambda: server.service.sessions)
    server.stop()
    assert peer.read_to_end() == []
    assert not server.service.connections


# going on ----------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_crash_touches_no_other_session_and_its_leases_end_at_once(server, dial, caplog):
    victim, other = dial(server), dial(server)
    sessions = server.supervisor.sessions()
    number = victim.request(Put(b"/half", 2**20))
    victim.frame(Kind.DATA, number, bytes(1000))
    assert put(other, b"/whole", b"x") == Stored(1)
    account = server.accounts.get("alice").id
    eventually(lambda: server.service.ledger.space(account).held)
    eventually(lambda: sessions[0].pid)
    os.kill(sessions[0].pid, signal.SIGSEGV)
    victim.read_to_end()
    eventually(lambda: sessions[0] not in server.supervisor.sessions())
    assert put(other, b"/more", b"y") == Stored(1)
    other.close()
    eventually(lambda: server.service.ledger.space(account).held == 0)
    eventually(lambda: server.service.ledger.space(account).used == 2)
    eventually(lambda: "SIGSEGV" in caplog.text)
    eventually(lambda: is_gone(sessions[0].pid))
    staging = server.settings.root / "alice" / ".ftpd-staging"
    eventually(lambda: os.listdir(staging) == ["lock"])


@pytest.mark.system
def test_kicking_ends_a_session_and_its_process(server, dial):
    peer, other = dial(server), dial(server)
    first, second = server.supervisor.sessions()
    eventually(lambda: first.pid)
    assert server.serving.kick(first.id, None) == [first.id]
    (last,) = peer.read_to_end()
    assert last.kind == Kind.ERROR and last.message.code == "session-ended"
    eventually(lambda: is_gone(first.pid))
    assert [one.id for one in server.serving.session_infos()] == [second.id]
    assert put(other, b"/file", b"x") == Stored(1)


@pytest.mark.system
def test_an_unauthenticated_client_can_be_kicked(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    (session,) = server.supervisor.sessions()
    server.serving.kick(session.id, None)
    assert peer.read_to_end() == []
    eventually(lambda: not server.supervisor.sessions())


@pytest.mark.system
def test_what_sessions_do_is_reported(server, dial):
    peer = dial(server)
    dial(server, logged_in=False).hello()
    data = bytes(100_000)
    number = peer.request(Put(b"/file", 2 * len(data)))
    peer.frame(Kind.DATA, number, data)
    eventually(lambda: server.serving.session_infos()[0].bytes_in > len(data))
    reported, unauthenticated_client = server.serving.session_infos()
    assert (reported.user, reported.request, reported.path) == ("alice", "put", b"/file")
    assert unauthenticated_client.user is None
    stats = server.serving.stats()
    assert (stats.sessions, stats.unauthenticated, stats.transfers) == (2, 1, 1)
    peer.close()
    eventually(lambda: len(server.supervisor.sessions()) == 1)
    eventually(lambda: server.service.moved()[0] > len(data))  # what has ended stays counted


@pytest.mark.system
def test_many_small_files_are_a_transfer(server, dial):
    peer = dial(server)
    peer.request(PutFiles([NewFiles(b"/", [NewFile(b"a", 9, 0o644, 0, bytes(32))])]))
    eventually(lambda: server.serving.session_infos()[0].request == "put-files")
    assert server.serving.stats().transfers == 1


@pytest.mark.system
def test_stopping_is_reported_to_who_is_idle(start, start_server, dial):
    server = start()
    peer = dial(server)
    pid = only(server).pid
    start_server.finish(server)
    (last,) = peer.read_to_end()
    assert last.message == GoingDown()
    eventually(lambda: is_gone(pid))


@pytest.mark.system
def test_a_session_that_ignores_the_stop_is_killed(start, start_server, dial):
    server = start(grace=0.1)
    peer = dial(server)
    pid = only(server).pid
    os.kill(pid, signal.SIGSTOP)
    start_server.finish(server)
    assert peer.read_to_end() == []
    eventually(lambda: is_gone(pid))


@pytest.mark.system
def test_accounts_that_are_changed_are_followed(server, dial):
    peer = dial(server)
    server.accounts.change("alice", disabled=True)
    (last,) = peer.read_to_end()
    assert last.message.message == "the account is disabled"


@pytest.mark.system
def test_passwords_that_are_wrong_end_the_connection(server, dial):
    peer = dial(server, logged_in=False)
    peer.hello()
    for _ in range(3):
        assert peer.ask(Login("alice", "wrong")).code == "login-refused"
    assert peer.read_to_end() == []


@pytest.mark.system
def test_own_keys_are_changed_and_the_session_goes_on(server, connect):
    client = connect(server)
    made = client.issue_token("one")
    assert [token.name for token in client.tokens()] == ["one"]
    client.revoke_token(made.id)
    client.change_password("secret", "another-one")
    assert client.tokens() == []
    assert connect(server, password="another-one").space().used == 0


@pytest.mark.system
def test_who_registers_is_in_a_home_of_its_own(start, dial):
    server = start(open_registration=True)
    peer = dial(server, logged_in=False)
    peer.hello()
    assert peer.ask(Register("bob", "correct-horse")) == LoggedIn("bob")
    assert put(peer, b"/file", b"x") == Stored(1)
    assert (server.settings.root / "bob" / "file").read_bytes() == b"x"


@pytest.mark.system
def test_quotas_hold_among_sessions_in_processes_of_their_own(start, dial):
    server = start(quota=200_000)
    account = server.accounts.get("alice").id

    def fill(number: int) -> int:
        with Peer.connect(server.server_address) as peer:
            peer.log_in()
            stored = 0
            for count in range(20):
                answer = put(peer, b"/%d-%d" % (number, count), bytes(10_000))
                stored += isinstance(answer, Stored)
                assert isinstance(answer, Stored) or answer.code == "quota", answer
            return stored

    with ThreadPoolExecutor(3) as pool:
        stored = sum(pool.map(fill, range(3)))
    eventually(lambda: not server.supervisor.sessions())
    space = server.service.ledger.space(account)
    assert (space.used, space.held) == (stored * 10_000, 0)
    assert space.used == 200_000


@pytest.mark.system
def test_all_verbs_work_and_nothing_is_imported_too_late(
    start, connect, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("FTPD_TEST_GUARDED", "1")
    monkeypatch.setattr(supervisor, "CHILD", "hostile_child")
    server = start(plaintext=False)
    client = connect(server)
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    large = os.urandom(9 * 2**20)
    (tree / "large").write_bytes(large)
    (tree / "deep" / "er" / "small").write_bytes(b"small")
    (tree / "closed").mkdir(mode=0o500)
    assert client.put([tree], "/", recursive=True).first_error is None
    assert client.put([tree], "/once", recursive=True, atomic=True).first_error is None
    client.get(["/tree"], tmp_path / "back", recursive=True)
    assert (tmp_path / "back" / "large").read_bytes() == large
    assert client.hash("/tree/large").digest == digests.digest(large)
    assert client.stat("/tree/large", digest=True).digest == digests.digest(large)
    client.make_dir("/made/below", parents=True)
    client.make_link("/link", "tree/large")
    client.set_attributes("/tree/large", mode=0)
    assert client.stat("/tree/large", digest=True).mode == 0
    client.set_attributes("/tree/large", mode=0o600)
    assert client.stat("/tree/large", digest=True).digest == digests.digest(large)
    client.copy("/tree", "/copied", recursive=True)
    client.move("/copied", "/moved")
    client.remove("/moved", recursive=True)
    with pytest.raises(FtpError):
        client.stat("/nowhere")
    with pytest.raises(FtpError, match="internal error"):
        client.tokens()
    eventually(lambda: "to have a traceback made" in caplog.text)
    assert "Traceback" in caplog.text  # made in the session's process
    client.close()
    eventually(lambda: not server.supervisor.sessions())
    assert "too late" not in caplog.text


# somebody hostile --------------------------------------------------------------------------------


REACHES = {
    **attacks.ON_FILES,
    **attacks.ON_PROCESSES,
    **attacks.BY_SIGNALS,
    **attacks.BY_NETWORK,
    **(attacks.BY_DATAGRAMS if attacks.can_leave_network() else {}),
    **attacks.A_DEVICE,
}


def filled_in(program: str, server, secret: attacks.Secret) -> str:
    return attacks.fill_in(
        program,
        {
            "root": server.settings.root,
            "pid": os.getpid(),
            "address": secret.address,
            "address_of_server": server.server_address,
        },
    )


@pytest.mark.system
@is_root
@has_scopes
@pytest.mark.parametrize("user", [OTHER, None], ids=["system-user", "servers-own-user"])
def test_a_hostile_session_reaches_nothing(hostile, user):
    attack = hostile(user=user)
    secret = attacks.Secret(b"secret!!")
    attack.server.settings.state.joinpath("key.pem").touch()
    for name, program in REACHES.items():
        answer = attack(filled_in(program, attack.server, secret))
        assert attacks.has_failed(answer), (name, answer)


@pytest.mark.system
@is_root
@has_scopes
def test_the_attacks_would_succeed_without_confinement(hostile):
    attack = hostile(weakened=True)
    secret = attacks.Secret(b"secret!!")
    attack.server.settings.state.joinpath("key.pem").touch()
    for name, program in REACHES.items():
        answer = attack(filled_in(program, attack.server, secret))
        assert "Error" not in answer, (name, answer)


def as_stranger(server, dial, program: str) -> str:
    """How an attack ended that was made before log-in."""
    peer = dial(server, logged_in=False)
    peer.hello()
    answer = peer.ask(Login("attack", filled_in(program, server, attacks.Secret(b"secret!!"))))
    peer.close()
    assert isinstance(answer, LoggedIn), answer
    return answer.user


@pytest.mark.system
@is_root
@has_scopes
def test_a_hostile_stranger_reaches_nothing(hostile, dial):
    """Before log-in it may become any user: as root's, it has no right that comes with that."""
    server = hostile().server
    server.settings.state.joinpath("key.pem").touch()
    for name, program in REACHES.items():
        if name not in attacks.A_DEVICE:  # it has no home to make one in
            answer = as_stranger(server, dial, "os.setresuid(0, 0, 0)\n" + program)
            assert attacks.has_failed(answer), (name, answer)


@pytest.mark.system
@is_root
def test_nothing_leads_out_of_the_empty_directory(hostile, dial):
    answer = as_stranger(hostile().server, dial, attacks.OUT_OF_THE_EMPTY_DIRECTORY)
    assert attacks.has_failed(answer), answer


@pytest.mark.system
@is_root
def test_a_directory_that_something_can_be_made_in_would_lead_out(
    hostile, dial, tmp_path, monkeypatch
):
    """The positive control."""
    (tmp_path / "empty").mkdir(mode=0o500)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    monkeypatch.setattr(supervisor, "_open_empty", lambda state: os.open(tmp_path / "empty", flags))
    answer = as_stranger(hostile().server, dial, attacks.OUT_OF_THE_EMPTY_DIRECTORY)
    assert int(answer) > 0


@pytest.mark.system
@is_root
@pytest.mark.parametrize(
    "program",
    [
        pytest.param("os.setresuid(0, 0, 0); result = 0", id="root-again"),
        pytest.param("os.setresuid(65534, 65534, 65534); result = 0", id="nobody-again"),
        pytest.param("os.chroot('.'); result = 0", id="chroot-out"),
        pytest.param("assert libc.setns(0, 0) == 0; result = 0", id="namespace"),
        pytest.param(
            "found = libc.ptrace(16, os.getppid(), 0, 0)\n"
            "assert found == 0, os.strerror(ctypes.get_errno())\nresult = 0",
            id="ptrace-of-the-fork-server",
        ),
        pytest.param("os.kill(os.getppid(), 0); result = 0", id="signal-to-the-fork-server"),
    ],
)
def test_what_was_evicted_is_gone(hostile, program):
    assert "Error" in hostile()(program)


@pytest.mark.system
@is_root
def test_no_descriptor_leads_out(hostile):
    answer = hostile()(
        """
home = os.stat("/")
result = []
for fd in range(1024):
    try:
        info = os.fstat(fd)
    except OSError:
        continue
    if not stat.S_ISDIR(info.st_mode):
        continue
    here = fd
    for _ in range(64):
        here = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        top = os.fstat(here)
        if (top.st_dev, top.st_ino) == (home.st_dev, home.st_ino):
            break
    else:
        result.append(fd)
"""
    )
    assert answer == "[]"


@pytest.mark.system
def test_records_are_of_whom_they_come_from_and_of_now(hostile, start_server):
    attack = hostile()
    line = {
        "time": "2001-01-01T00:00:00.000Z",
        "event": "remove",
        "outcome": "ok",
        "user": "bob",
        "address": "192.0.2.1",
        "session": "77",
        "path": "/forged",
    }
    forged = json.dumps(line).encode() + b"\n"
    claims: list[dict[str, object]] = [
        {"by": "root"},
        {"sudo_user": "root"},
        {"login_user": "root"},
        {"event": "ban", "outcome": "refused", "code": "banned"},
        {"event": "user-add", "outcome": "refused", "code": "quota"},
    ]
    by_admin = b"".join(
        json.dumps(line | {"path": "/by-root"} | claim).encode() + b"\n" for claim in claims
    )
    invited = line | {"event": "register", "details": {"invitation": "0badc0de"}}
    by_invitation = json.dumps(invited | {"path": "/invited"}).encode() + b"\n"
    nested: object = "x"
    for _ in range(500):
        nested = [nested]
    odd = line | {
        "path": "/nested",
        "details": {"mode": nested, "with": "x" * 5000, "commit": True},
    }
    too_deep = json.dumps(line | {"path": "/too-deep"})[:-1] + ',"details":{"x":' + "[" * 5000
    sent = by_admin + by_invitation + b"rubbish\n" + json.dumps(odd).encode() + b"\n"
    sent += too_deep.encode() + b"\n" + forged
    attack(f"server.record({sent!r}); result = 0")
    log = attack.server.settings.state / "audit.jsonl"
    eventually(lambda: log.exists() and "/forged" in log.read_text())
    (record,) = [json.loads(one) for one in log.read_text().splitlines() if "/forged" in one]
    assert (record["user"], record["address"]) == ("alice", "127.0.0.1")
    assert record["session"] != "77" and not record["time"].startswith("2001")
    assert "by-root" not in log.read_text() and "rubbish" not in log.read_text()
    (record,) = [json.loads(one) for one in log.read_text().splitlines() if "/nested" in one]
    assert record["details"] == {"commit": True}
    assert "/invited" in log.read_text() and "0badc0de" not in log.read_text()


@pytest.mark.system
def test_what_a_failed_removal_took_away_is_reported(hostile, monkeypatch):
    """However much has failed before; the control: that did nothing."""
    monkeypatch.setattr(allowances, "_REFUSALS_BURST", 0)
    attack = hostile()
    line = {
        "time": "2001-01-01T00:00:00.000Z",
        "event": "remove",
        "outcome": "failed",
        "code": "failed",
    }
    sent = json.dumps(line | {"path": "/whole"}).encode() + b"\n"
    sent += json.dumps(line | {"path": "/part", "files": 7}).encode() + b"\n"
    attack(f"server.record({sent!r}); result = 0")
    log = attack.server.settings.state / "audit.jsonl"
    eventually(lambda: log.exists() and "/part" in log.read_text())
    assert "/whole" not in log.read_text()


@pytest.mark.system
def test_a_module_in_the_home_is_not_imported(hostile):
    attack = hostile()
    home = attack.server.settings.root / "alice"
    for directory in (home, home / "usr" / "lib" / "python3.11"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "colorsys.py").write_text("raise KeyError('it was run')")
    assert "ModuleNotFoundError" in attack("import colorsys\nresult = 0")


@pytest.mark.system
def test_who_hangs_on_to_the_home_holds_up_nobody_else(hostile, monkeypatch):
    from ftpserver.storage import recount as repair

    attack = hostile()
    server = attack.server
    monkeypatch.setattr(repair, "_PATIENCE", 0.1)
    home = Home(server.settings.root / "alice")
    with home.shared(), pytest.raises(TimeoutError):
        recount(
            server.service.ledger,
            server.accounts.get("alice").id,
            Home(server.settings.root / "alice"),
        )
    home.close()


# reloading -----------------------------------------------------------------------------------


@pytest.mark.system
def test_settings_and_another_key_are_taken_over(start, dial, tls_client_context):
    server = start(plaintext=False)
    before = server.fingerprint
    peer = dial(server, context=tls_client_context)
    server.load_settings = lambda: replace(server.settings, idle_timeout=0.5)
    for path in (server.settings.state / "tls").iterdir():
        path.unlink()
    server.reload()
    assert server.fingerprint != before
    with Peer.connect(server.server_address, context=tls_client_context) as other:
        shown = other.socket.getpeercert(binary_form=True)
        assert fingerprint(shown) == server.fingerprint
    (last,) = [
        one for one in peer.read_to_end() if one.kind == Kind.NOTICE
    ]  # it heeds the new time-out
    assert isinstance(last.message, GoingDown)


def fingerprint(certificate: bytes) -> str:
    """As the server tells it, of a certificate in DER."""
    spki = x509.load_der_x509_certificate(certificate).public_key()
    encoded = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(encoded).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
