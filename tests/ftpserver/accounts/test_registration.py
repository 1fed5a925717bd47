"""Registration and invitations: who may, one winner of every race, and no promise unnoticed."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter

import pytest

from ftpserver.accounts import invitations as invitations_module
from ftpserver.accounts import registration as module
from ftpserver.accounts.invitations import Invitations, take_use
from ftpserver.accounts.registration import Registration, Throttle, overcommitted
from ftpwire.errors import BadAccount, Busy, FtpError, NameTaken, NotFound, RegistrationClosed
from ftpwire.messages import Failed, LoggedIn, Login, Put, Register, WhoAmI

HOST = "192.0.2.1"
EXABYTE = 2**60


@pytest.fixture
def invitations(engine) -> Invitations:
    return Invitations(engine)


@pytest.fixture
def registration(engine, accounts, root) -> Registration:
    return Registration(engine, accounts, root)


def race(number: int, act) -> Counter:
    """Does the same in many threads at once; the outcomes."""
    outcomes: list[str] = []
    ready = threading.Barrier(number)

    def one(index: int) -> None:
        ready.wait()
        try:
            act(index)
            outcomes.append("won")
        except FtpError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(outcomes)


def homes(root) -> list[str]:
    return sorted(name for name in os.listdir(root) if name != ".ftpd")


# invitations -------------------------------------------------------------------------------


def test_a_code_is_found_and_nothing_else(invitations):
    made, code = invitations.make(1000, 3, 60)
    assert invitations.find(code) == made
    assert (made.quota, made.uses) == (1000, 3) and made.expires == made.created + 60
    assert code.startswith("ftpi_") and len(code) > 25
    for wrong in ("", code[:-1], code + "x", code.upper(), made.id, "\udcff"):
        with pytest.raises(RegistrationClosed):
            invitations.find(wrong)


def test_the_code_is_nowhere(invitations, engine, root):
    _, code = invitations.make(None, 1, None)
    engine.dispose()
    files = [path for path in (root / ".ftpd").iterdir() if path.is_file()]
    assert files and not any(code.encode() in path.read_bytes() for path in files)


def test_an_invitation_expires(invitations, clock):
    clock(1000)
    _, code = invitations.make(None, 1, 60)
    _, lasting = invitations.make(None, 1, None)
    clock(1059)
    assert invitations.find(code)
    clock(1060)
    with pytest.raises(RegistrationClosed):
        invitations.find(code)
    assert invitations.find(lasting)
    assert len(invitations.all()) == 1


def test_what_is_over_is_cleared_away(invitations, clock, engine):
    clock(1000)
    invitations.make(None, 1, 60)
    used, _ = invitations.make(None, 1, None)
    with engine.begin() as connection:
        take_use(connection, used)
    clock(2000)
    last, _ = invitations.make(None, 1, None)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id FROM invitation").all()
    assert [row.id for row in rows] == [last.id]


def test_a_revoked_invitation_is_good_for_nothing(invitations, registration):
    made, code = invitations.make(None, 5, None)
    invited = registration.permit(code, HOST)
    invitations.revoke(made.id)
    with pytest.raises(RegistrationClosed):
        registration.permit(code, HOST)
    with pytest.raises(RegistrationClosed):
        registration.register("alice", "correct-horse", invited)
    with pytest.raises(NotFound):
        invitations.revoke(made.id)


# who may -----------------------------------------------------------------------------------


def test_closed_is_the_default_and_says_the_same_whatever_is_wrong(registration, invitations):
    made, used_up = invitations.make(None, 1, None)
    registration.register("alice", "correct-horse", registration.permit(used_up, HOST))
    for code in (None, "wrong", used_up):
        with pytest.raises(RegistrationClosed) as caught:
            registration.permit(code, HOST)
        assert str(caught.value) == invitations_module.CLOSED


def test_open_lets_everybody_in(registration, accounts, root):
    registration.open, registration.default_quota = True, 1000
    registration.register("alice", "correct-horse", registration.permit(None, HOST))
    assert accounts.log_in("alice", "correct-horse").quota == 1000
    assert homes(root) == ["alice"]


@pytest.mark.parametrize(
    ("quota", "default", "expected"),
    [(5, 1000, 5), (None, 1000, 1000), (5, None, 5), (None, None, None), (0, 7, 0)],
)
def test_the_invitation_says_the_quota_or_the_server(
    registration, invitations, accounts, quota, default, expected
):
    registration.default_quota = default
    _, code = invitations.make(quota, 1, None)
    added = registration.register("alice", "correct-horse", registration.permit(code, HOST))
    assert added.quota == expected


def test_a_wrong_code_is_wrong_where_everybody_may(registration):
    registration.open = True
    with pytest.raises(RegistrationClosed):
        registration.permit("wrong", HOST)


@pytest.mark.parametrize("name", ["", ".ftpd", "../up", "Alice", "x" * 33, "a\n", "-r"])
def test_names_that_no_account_has(registration, invitations, root, name):
    made, code = invitations.make(None, 1, None)
    with pytest.raises(BadAccount):
        registration.register(name, "correct-horse", registration.permit(code, HOST))
    assert homes(root) == [] and invitations.find(code).uses == 1, "nothing was used up"


@pytest.mark.parametrize("password", ["", "x" * 1025, "\udcff"])
def test_passwords_that_no_account_has(registration, invitations, root, password):
    made, code = invitations.make(None, 1, None)
    with pytest.raises(BadAccount):
        registration.register("alice", password, registration.permit(code, HOST))
    assert homes(root) == [] and invitations.find(code).uses == 1


def test_a_name_that_is_taken_uses_nothing_up(registration, invitations, accounts):
    accounts.add("alice", "hers")
    _, code = invitations.make(None, 1, None)
    with pytest.raises(NameTaken, match="alice"):
        registration.register("alice", "mine-alone", registration.permit(code, HOST))
    assert invitations.find(code).uses == 1
    assert accounts.log_in("alice", "hers")


def test_a_directory_with_contents_is_nobodys_to_take(
    registration, invitations, root, accounts, caplog
):
    """What a removed account has left is not handed to the next who takes its name."""
    (root / "alice").mkdir()
    (root / "alice" / "diary").write_text("not yours")
    _, code = invitations.make(None, 1, None)
    with pytest.raises(NameTaken) as caught:
        registration.register("alice", "correct-horse", registration.permit(code, HOST))
    assert str(root) not in str(caught.value) and "contents" not in str(caught.value)
    assert str(root) in caplog.text, "the administrator is told"
    assert len(accounts) == 0 and invitations.find(code).uses == 1


def test_a_home_that_can_not_be_made_is_reported_without_its_place(
    registration, invitations, root, accounts
):
    (root / "alice").write_text("a file")
    _, code = invitations.make(None, 1, None)
    with pytest.raises(NameTaken) as caught:
        registration.register("alice", "correct-horse", registration.permit(code, HOST))
    assert str(root) not in str(caught.value)
    assert len(accounts) == 0 and invitations.find(code).uses == 1


# races -------------------------------------------------------------------------------------


def test_one_name_goes_to_one(registration, accounts, root):
    outcomes = race(16, lambda index: registration.register("alice", f"of number {index}", None))
    assert outcomes == {"won": 1, "name-taken": 15}
    assert len(accounts) == 1 and (root / "alice").is_dir()
    right = [index for index in range(16) if accounts.check_password("alice", f"of number {index}")]
    assert len(right) == 1


def test_the_last_use_goes_to_one(registration, invitations, accounts, root):
    _, code = invitations.make(None, 1, None)
    invited = registration.permit(code, HOST)
    outcomes = race(
        16, lambda index: registration.register(f"user{index}", "correct-horse", invited)
    )
    assert outcomes == {"won": 1, "registration-closed": 15}
    (winner,) = accounts
    assert homes(root) == [winner.name], "who lost has left nothing"
    assert invitations.all() == []


def test_uses_are_as_many_as_accounts(registration, invitations, accounts):
    _, code = invitations.make(None, 5, None)
    invited = registration.permit(code, HOST)
    outcomes = race(
        12, lambda index: registration.register(f"user{index}", "correct-horse", invited)
    )
    assert outcomes == {"won": 5, "registration-closed": 7}
    assert len(accounts) == 5


def test_more_at_once_than_there_are_connections(registration, accounts, engine):
    """Each holds one of them while it waits to write: whoever took a second would wait for ever."""
    number = engine.pool.size() + 32 + 4
    outcomes = race(
        number, lambda index: registration.register(f"user{index}", "correct-horse", None)
    )
    assert outcomes == {"won": number}


# how often ---------------------------------------------------------------------------------


def test_tries_come_back_with_time():
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    most, seconds = module._OF_ONE_NETWORK
    for _ in range(most):
        throttle.take(HOST)
    with pytest.raises(Busy, match="try again in 60 s"):
        throttle.take(HOST)
    throttle.take("192.0.2.2")
    now[0] += seconds
    throttle.take(HOST)
    with pytest.raises(Busy):
        throttle.take(HOST)


def test_one_place_is_one_however_it_is_written():
    throttle = Throttle()
    for number in range(module._OF_ONE_NETWORK[0]):
        throttle.take(f"2001:db8::{number:x}")
    with pytest.raises(Busy):
        throttle.take("2001:db8::ffff")
    throttle.take("2001:db8:0:1::1")


def test_all_together_have_a_limit_and_the_table_too(monkeypatch):
    monkeypatch.setattr(module, "_MOST_BUCKETS", 50)
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    taken = 0
    for number in range(300):
        try:
            throttle.take(f"10.0.{number // 256}.{number % 256}")
            taken += 1
        except Busy:
            pass
    assert taken == module._OF_ALL[0]
    assert len(throttle._networks) <= 50


def test_a_good_invitation_is_never_too_early(registration, invitations):
    _, code = invitations.make(None, 100, None)
    with pytest.raises(Busy):
        for _ in range(100):
            with pytest.raises(RegistrationClosed):
                registration.permit("guess", HOST)
    for _ in range(100):
        assert registration.permit(code, HOST)


# promises ----------------------------------------------------------------------------------


def test_what_the_disk_can_not_hold_is_reported(engine, root, accounts, invitations, tmp_path):
    accounts.add("small", "correct-horse", quota=1000)
    assert overcommitted(engine, root, None) == []
    accounts.add("large", "correct-horse", quota=2 * EXABYTE)
    (one,) = overcommitted(engine, root, None)
    assert one.directory == root and one.promised >= 2 * EXABYTE
    assert 0 <= one.free < EXABYTE
    assert "2097152.0 TiB" in str(one) and "free" in str(one)


def test_homes_elsewhere_count_for_their_own_disk(engine, root, accounts, tmp_path):
    accounts.add("bob", "correct-horse", quota=EXABYTE, home=tmp_path / "elsewhere")
    (one,) = overcommitted(engine, root, None)
    assert one.promised == EXABYTE
    (tmp_path / "elsewhere").rmdir()
    assert overcommitted(engine, root, None) == [], "gone for now: nothing comes there either"


def test_invitations_are_promises_too(engine, root, invitations):
    invitations.make(EXABYTE, 3, None)
    assert overcommitted(engine, root, None)[0].promised == 3 * EXABYTE
    invitations.make(None, 2, None)
    assert overcommitted(engine, root, EXABYTE)[0].promised == 5 * EXABYTE


def test_sums_beyond_all_integers(engine, root, accounts, invitations):
    for name in ("a", "b", "c"):
        accounts.add(name, "correct-horse", quota=2**63 - 1)
    invitations.make(2**63 - 1, 1_000_000, None)
    assert overcommitted(engine, root, None)[0].promised > 2**80


def test_each_registration_is_warned_of(registration, caplog):
    registration.default_quota = EXABYTE
    registration.register("alice", "correct-horse", None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "quotas promise" in record.getMessage()


# over the wire -----------------------------------------------------------------------------


@pytest.fixture
def unauthenticated_client(start_server, dial):
    """A peer that has said HELLO, and its server."""

    def connected(server):
        peer = dial(server, logged_in=False)
        peer.hello()
        return peer

    return connected


def test_closed_over_the_wire(server, unauthenticated_client):
    peer = unauthenticated_client(server)
    for invitation in (None, "wrong"):
        failed = peer.ask(Register("carol", "correct-horse", invitation))
        assert failed == Failed("registration-closed", invitations_module.CLOSED)
    assert homes(server.settings.root) == ["alice"]
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    assert peer.ask(Register("carol", "correct-horse")).message == "logged in already"


def test_open_over_the_wire(start_server, unauthenticated_client, caplog):
    caplog.set_level(logging.INFO)
    server = start_server(open_registration=True, default_quota=10)
    peer = unauthenticated_client(server)
    assert peer.ask(Register("alice", "correct-horse")).code == "name-taken"
    assert peer.ask(Register("Carol\n", "correct-horse")).code == "bad-account"
    assert peer.ask(Register("carol", "hunter2hunter2")) == LoggedIn("carol")
    assert peer.ask(WhoAmI()) == LoggedIn("carol")
    assert peer.ask(Put(b"/large", 11, ask=True)).code == "quota"
    assert unauthenticated_client(server).ask(Login("carol", "hunter2hunter2")) == LoggedIn("carol")
    assert "registered carol" in caplog.text and "hunter2hunter2" not in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_an_invitation_over_the_wire(server, unauthenticated_client):
    _, code = Invitations(server.service.engine).make(None, 1, None)
    peer = unauthenticated_client(server)
    assert peer.ask(Register("alice", "correct-horse", code)).code == "name-taken"
    assert peer.ask(Register("carol", "correct-horse", code)) == LoggedIn("carol")
    assert (
        unauthenticated_client(server).ask(Register("dave", "correct-horse", code)).code
        == "registration-closed"
    )


def test_a_flood_is_held_up(start_server, unauthenticated_client):
    server = start_server(open_registration=True)
    codes = [
        unauthenticated_client(server).ask(Register(f"user{n}", "correct-horse")) for n in range(12)
    ]
    most = module._OF_ONE_NETWORK[0]
    assert all(isinstance(one, LoggedIn) for one in codes[:most])
    assert {one.code for one in codes[most:]} == {"busy"}
    assert len(server.accounts) == most + 1
