"""What the books say of trash: how much it is, the names of operations, answers for a while."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from sqlalchemy import bindparam, event, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import BigInteger

from ftpserver.isolation.session_quota_store import SessionQuotaStore
from ftpserver.schema import account as table
from ftpserver.schema import answer as answers
from ftpserver.schema import operation as operations_table
from ftpserver.storage import incarnations, operations
from ftpserver.storage import ledger as ledger_module
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.operations import ANSWER_SECONDS, DAY
from ftpserver.storage.quota import Lease
from ftpserver.storage.trash.names import is_name, time_of
from ftpwire.errors import LeaseLost, QuotaExceeded

KEY = b"12345678"
OTHER = b"87654321"


@pytest.fixture
def alice(accounts) -> int:
    return accounts.add("alice", "correct-horse", quota=1000).id


@pytest.fixture
def bob(accounts) -> int:
    return accounts.add("bob", "correct-horse", home=accounts.root.parent / "elsewhere").id


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1_000_000_000

    by_database = bindparam("by_database", callable_=lambda: Clock.now, type_=BigInteger())
    for module in (ledger_module, incarnations, operations):
        monkeypatch.setattr(module, "now", lambda: Clock.now)
    for module in (ledger_module, incarnations):
        monkeypatch.setattr(module, "SECONDS_NOW", by_database)
    return Clock


def change(ledger: Ledger, account_id: int, *changes: int) -> None:
    ledger.settle([ledger.reserve(account_id, 0, files=0)], *changes)


def counts(ledger: Ledger, account_id: int) -> tuple[int, ...]:
    columns = (table.c.used, table.c.files, table.c.trash_bytes, table.c.trash_files)
    with ledger._engine.connect() as connection:
        return tuple(connection.execute(select(*columns).where(table.c.id == account_id)).one())


def is_in_doubt(ledger: Ledger, account_id: int) -> bool:
    with ledger._engine.connect() as connection:
        found = connection.execute(select(table.c.dirty).where(table.c.id == account_id))
        return bool(found.scalar_one())


# how much ---------------------------------------------------------------------------------------


def test_what_users_see(ledger, alice, accounts):
    change(ledger, alice, 600, 6)
    change(ledger, alice, 0, 0, 400, 4)
    space = ledger.space(alice)
    assert (space.used, space.used_files, space.trash, space.trash_files) == (200, 2, 400, 4)
    assert space.free == 800
    account = accounts.get("alice")
    assert (account.stored, account.stored_files, account.free) == (200, 2, 800)
    assert (account.used, account.trash_bytes, account.trash_files) == (600, 400, 4)


def test_a_quota_that_only_the_trash_fills_is_not_nearly_full(ledger, alice):
    held = ledger.reserve(alice, 950)
    assert ledger.settle([held], 950, 1).nearly_full
    held = ledger.reserve(alice, 0, files=0)
    assert not ledger.settle([held], 0, 0, 500, 1).nearly_full


@pytest.mark.parametrize(
    ("changes", "after"),
    [
        ((0, 0, 401, 0), (400, 4, 400, 2)),
        ((0, 0, 0, 3), (400, 4, 300, 4)),
        ((0, 0, -301, 0), (400, 4, 0, 2)),
        ((0, 0, 0, -3), (400, 4, 300, 0)),
        ((-101, 0, 0, 0), (299, 4, 299, 2)),
        ((-500, -5, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_a_settlement_never_fails_for_what_is_in_the_trash(ledger, alice, changes, after):
    """What cannot be is cut to what can, and the home is counted."""
    change(ledger, alice, 400, 4, 300, 2)
    assert not is_in_doubt(ledger, alice)
    change(ledger, alice, *changes)
    assert counts(ledger, alice) == after
    assert is_in_doubt(ledger, alice)
    ledger.recounted(alice, 5, 1, 50, 10)
    assert counts(ledger, alice) == (5, 1, 5, 1) and not is_in_doubt(ledger, alice)


def test_a_lost_settlement_changes_nothing_of_the_trash(ledger, alice):
    change(ledger, alice, 400, 4, 300, 2)
    held = ledger.reserve(alice, 0, files=0)
    ledger.release(held)
    with pytest.raises(LeaseLost):
        ledger.settle([held], 0, 0, 50, 1)
    assert counts(ledger, alice) == (400, 4, 300, 2)
    assert is_in_doubt(ledger, alice)


def test_check_space_counts_the_trash_as_free(ledger, alice):
    change(ledger, alice, 1000, 5, 600, 5)
    ledger.check_space(alice, 600)
    with pytest.raises(QuotaExceeded, match="^601 B needed, 600 B free of a quota of 1000 B"):
        ledger.check_space(alice, 601)
    with pytest.raises(QuotaExceeded, match="needed, 0 B free of .*, and 600 B in the trash$"):
        ledger.reserve(alice, 600)


def test_what_was_freed_is_the_sessions_that_freed_it(ledger, alice):
    change(ledger, alice, 1000, 5)
    held = ledger.reserve(alice, 0, files=0)
    held = ledger.reserve_freed(held, 300, 1, 200, 1)
    assert held.size == 200 and ledger.space(alice).free == 100
    held = ledger.reserve_freed(held, 50, 0, 500, 0)
    assert held.size == 250, "no more than became free"
    held = ledger.reserve_freed(held, 0, 0, 100, 0)
    assert held.size == 350 and ledger.space(alice).free == 0
    ledger.settle([held], 350, 1)
    assert counts(ledger, alice) == (1000, 5, 0, 0)


def test_space_that_cannot_be_written_down_has_the_home_counted(ledger, alice, monkeypatch):
    change(ledger, alice, 1000, 5)
    with pytest.raises(LeaseLost):
        ledger.reserve_freed(Lease("gone", alice, 0), 300, 1, 200, 1)
    assert counts(ledger, alice)[0] == 1000 and ledger.is_waiting
    ledger.settle_waiting()
    assert is_in_doubt(ledger, alice)


def test_the_trash_of_all_accounts_on_a_disk(ledger, accounts, alice, bob, monkeypatch):
    """Whoever has chosen their homes: the server gives it all up."""
    there = accounts.root.parent / "away"
    (there / "carol").mkdir(parents=True)
    carol = accounts.add("carol", "correct-horse", home=there / "carol").id
    for number, one in enumerate((alice, bob, carol)):
        change(ledger, one, 900, 9, 10**number, 1)
    ledger.state = accounts.root / ".ftpd"
    assert ledger.trash_of_all(alice) == ledger.trash_of_all(carol) == 1 + 10 + 100
    device = ledger_module._device
    monkeypatch.setattr(
        ledger_module, "_device", lambda place: -1 if there in place.parents else device(place)
    )
    assert ledger.trash_of_all(alice) == ledger.trash_of_all(bob) == 1 + 10
    assert ledger.trash_of_all(carol) == 100


# names ------------------------------------------------------------------------------------------


def test_all_sessions_of_a_command_find_the_same_name(ledger, engine, alice, bob, clock):
    name = ledger.operation(alice, KEY)
    assert is_name(name.encode()) and time_of(name) > 0
    assert Ledger(engine).operation(alice, KEY) == name
    assert ledger.operation(alice, OTHER) != name
    assert ledger.operation(bob, KEY) != name
    assert ledger.operation(alice, None) != ledger.operation(alice, None)
    clock.now += DAY
    assert ledger.operation(alice, KEY) != name


def test_now_and_then_a_name_has_the_trash_looked_at(ledger, alice, monkeypatch):
    """A client may begin operations without end."""
    requested = []
    ledger.on_unmeasured = requested.append
    number = iter(range(0xFFC, 0x1010))
    monkeypatch.setattr(operations, "new_name", lambda now_ns: f"{now_ns:016x}-{next(number):08x}")
    for _ in range(8):
        ledger.operation(alice, None)
    assert requested == [alice]


def test_a_name_that_is_over_is_not_given_again(ledger, alice):
    first = ledger.operation(alice, KEY)
    ledger.close_operation(alice, first)
    second = ledger.operation(alice, KEY)
    ledger.forget_operation(alice, second, 5)
    third = ledger.operation(alice, KEY)
    ledger.forget_operation(alice, third)
    fourth = ledger.operation(alice, KEY)
    assert len({first, second, third, fourth}) == 4
    assert [ledger.was_evicted(alice, one) for one in (first, second, third, fourth)] == [
        *(False, True, False, False)
    ]


def test_an_eviction_that_has_only_begun(ledger, alice, bob):
    """The trash says whether it was done. Until then, and if not, it is an operation."""
    first, second = ledger.operation(alice, KEY), ledger.operation(alice, OTHER)
    for name in (first, second):
        ledger.begin_eviction(alice, name, 4, "rm", b"a client")
    assert [ledger.was_evicted(alice, one) for one in (first, second)] == [True, True]
    assert {(one.name, one.freed, one.words, one.client) for one in ledger.evicted(alice)} == {
        (first, 4, "rm", b"a client"),
        (second, 4, "rm", b"a client"),
    }
    assert ledger.evicted_lately() == (0, 0)
    assert ledger.operation(alice, KEY) == first
    ledger.end_evictions(bob, [])  # not bob's
    assert ledger.operation(alice, KEY) == first
    ledger.end_evictions(alice, [first])
    assert [ledger.was_evicted(alice, one) for one in (first, second)] == [False, True]
    assert ledger.evicted_lately() == (1, 4)
    assert [(one.name, one.freed) for one in ledger.evicted(alice)] == [(second, 4)]
    assert ledger.operation(alice, KEY) == first
    assert ledger.operation(alice, OTHER) != second


def test_an_interrupted_eviction_of_something_without_a_known_size(ledger, alice):
    name = ledger.operation(alice, KEY)
    ledger.begin_eviction(alice, name, None, "rm -r")
    assert [one.freed for one in ledger.evicted(alice)] == [0]
    ledger.end_evictions(alice, [])
    assert [(one.words, one.freed) for one in ledger.evicted(alice)] == [("rm -r", 0)]


def test_a_second_eviction_that_has_only_begun(ledger, alice):
    """Of an operation that was made again: that it was evicted before stays true."""
    name = ledger.operation(alice, KEY)
    ledger.forget_operation(alice, name, 7)
    ledger.begin_eviction(alice, name)
    ledger.end_evictions(alice, [name])
    assert ledger.was_evicted(alice, name) and ledger.evicted_lately() == (1, 7)
    ledger.begin_eviction(alice, name, 4)
    assert [(one.freed, one.lost) for one in ledger.evicted(alice)] == [(11, 7)]
    ledger.end_evictions(alice, [name])
    assert [(one.freed, one.lost) for one in ledger.evicted(alice)] == [(7, 7)]
    ledger.begin_eviction(alice, name, 4)
    ledger.end_evictions(alice, [])
    assert [(one.freed, one.lost) for one in ledger.evicted(alice)] == [(11, 11)]
    ledger.begin_eviction(alice, name, 2)
    ledger.forget_operation(alice, name, 3)
    assert [(one.freed, one.lost) for one in ledger.evicted(alice)] == [(14, 14)]


def test_what_was_evicted_is_known_for_a_day(ledger, alice, bob, clock):
    name = ledger.operation(alice, KEY)
    ledger.forget_operation(bob, name, 5)  # not bob's
    assert not ledger.was_evicted(alice, name) and not ledger.was_evicted(bob, name)
    clock.now += DAY + 1
    ledger.heartbeat()  # its row is dropped
    ledger.forget_operation(alice, name, 7)
    assert ledger.was_evicted(alice, name) and not ledger.was_evicted(bob, name)
    assert ledger.evicted_lately() == (1, 7)
    clock.now += DAY
    assert not ledger.was_evicted(alice, name) and ledger.evicted_lately() == (0, 0)
    ledger.heartbeat()
    with ledger._engine.connect() as connection:
        assert connection.execute(select(operations_table)).all() == []


def test_names_go_with_their_account(ledger, accounts, alice):
    ledger.operation(alice, KEY)
    ledger.note_answers(alice, KEY, [(1, b"x")])
    accounts.remove("alice")
    with ledger._engine.connect() as connection:
        assert connection.execute(select(operations_table)).all() == []
        assert connection.execute(select(answers)).all() == []


# answers ----------------------------------------------------------------------------------------


def test_answers_are_known_for_a_while(ledger, alice, bob, clock):
    ledger.note_answers(alice, KEY, [(1, b"one"), (3, b"three")])
    ledger.note_answers(alice, KEY, [(2, b"two")])
    ledger.note_answers(alice, KEY, [])
    found = [ledger.answer(alice, KEY, number) for number in range(5)]
    assert found == [None, b"one", b"two", b"three", None]
    assert ledger.answer(alice, OTHER, 1) is None and ledger.answer(bob, KEY, 1) is None
    clock.now += ANSWER_SECONDS - 1
    assert ledger.answer(alice, KEY, 1) == b"one"
    clock.now += 1
    assert ledger.answer(alice, KEY, 1) is None
    ledger.heartbeat()
    with ledger._engine.connect() as connection:
        assert connection.execute(select(answers)).all() == []


def test_an_account_has_no_more_names_than_a_limit(ledger, alice, bob, monkeypatch):
    monkeypatch.setattr(operations, "MOST_NAMES", 3, raising=False)
    keys = [b"%08d" % number for number in range(5)]
    names = [ledger.operation(alice, key) for key in keys]
    of_bob = [ledger.operation(bob, key) for key in keys[:3]]
    ledger.heartbeat()
    assert [ledger.operation(bob, key) for key in keys[:3]] == of_bob
    assert [ledger.operation(alice, key) for key in keys[2:]] == names[2:]
    assert not {ledger.operation(alice, key) for key in keys[:2]} & set(names)


def test_an_account_has_no_more_answers_than_a_limit(ledger, alice, bob, monkeypatch):
    monkeypatch.setattr(operations, "MOST_ANSWERS", 3500, raising=False)
    ledger.note_answers(bob, KEY, [(1, bytes(3000))])
    for number in range(2, 65):  # of 64 rows
        ledger.note_answers(alice, KEY, [(number, bytes(1000))])
    known = [number for number in range(2, 65) if ledger.answer(alice, KEY, number) is not None]
    assert known == [62, 63, 64]
    assert ledger.answer(bob, KEY, 1) is not None
    ledger.note_answers(alice, KEY, [(65, bytes(300_000))])  # each large one counts at once
    assert ledger.answer(alice, KEY, 64) is None


def test_a_batch_of_answers_is_one_statement(ledger, engine, alice):
    seen = []

    def note(connection, cursor, statement, parameters, context, many):
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    ledger.note_answers(alice, KEY, [(number, b"done") for number in range(1, 1000)])
    assert len(seen) == 1
    assert ledger.answer(alice, KEY, 999) == b"done"


# of one session in a process of its own ---------------------------------------------------------


@pytest.fixture
def session(ledger, accounts, alice) -> SessionQuotaStore:
    return SessionQuotaStore(ledger, lambda: accounts.get("alice"))


def test_a_session_has_the_trash_of_its_own_account_only(session, alice, bob):
    calls = [
        lambda whose: session.operation(whose, KEY),
        lambda whose: session.close_operation(whose, "0" * 16 + "-" + "0" * 8),
        lambda whose: session.forget_operation(whose, "0" * 16 + "-" + "0" * 8, 1),
        lambda whose: session.begin_eviction(whose, "0" * 16 + "-" + "0" * 8),
        lambda whose: session.was_evicted(whose, "0" * 16 + "-" + "0" * 8),
        lambda whose: session.note_answers(whose, KEY, [(1, b"x")]),
        lambda whose: session.answer(whose, KEY, 1),
        lambda whose: session.measure_soon(whose),
        lambda whose: session.trash_of_all(whose),
        lambda whose: session.free_disk_space(whose, 1),
    ]
    for call in calls:
        call(alice)
        with pytest.raises(PermissionError) as caught:
            call(bob)
        assert caught.value.errno == errno.EPERM


def test_a_session_gets_space_for_its_own_leases_only(session, ledger, alice):
    change(ledger, alice, 1000, 5)
    own = session.reserve(alice, 0, files=0)
    claimed = replace(own, size=900)  # how large it is, is known here
    assert session.reserve_freed(claimed, 100, 1, 50, 1).size == 50
    assert session.leases[own.id].size == 50
    foreign = ledger.reserve(alice, 0, files=0)
    with pytest.raises(LeaseLost):
        session.reserve_freed(foreign, 100, 1, 50, 1)
    assert counts(ledger, alice)[0] == 900


def test_a_session_is_heard_by_the_server(session, ledger, alice):
    heard = []
    ledger.on_unmeasured = heard.append
    ledger.on_disk_full = lambda account_id, size: heard.append((account_id, size)) or True
    session.measure_soon(alice)
    assert session.free_disk_space(alice, 5)
    assert heard == [alice, (alice, 5)]


def test_the_table_refuses_trash_that_is_not_there(engine, alice):
    for values in ({"trash_bytes": 1}, {"trash_files": 1}, {"trash_bytes": -1}):
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(update(table).values(values))
