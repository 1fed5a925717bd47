"""Quotas: reserved, settled and released, by threads, processes and the dead."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import BigInteger, bindparam, event, insert, select, update

from ftpserver.admin import verify
from ftpserver.database import Writer
from ftpserver.errors import StateError
from ftpserver.schema import account, lease
from ftpserver.storage import account_reservation, incarnations
from ftpserver.storage import ledger as ledger_module
from ftpserver.storage.account_reservation import STEP, STEP_FILES
from ftpserver.storage.incarnations import LEASE_SECONDS
from ftpserver.storage.ledger import LeaseLost, Ledger
from ftpserver.storage.quota import Lease, most_files
from ftpwire.errors import DiskFull, NotFound, QuotaExceeded

SPARE = account_reservation._STEPS_SPARE * STEP
SPARE_FILES = account_reservation._STEPS_SPARE * STEP_FILES


@pytest.fixture
def clock(monkeypatch):
    """The time that leases go by, the run's and the database's; set ``clock.now``."""

    class Clock:
        now = 1_000_000

    by_database = bindparam("by_database", callable_=lambda: Clock.now, type_=BigInteger())
    for module in (ledger_module, incarnations):
        monkeypatch.setattr(module, "now", lambda: Clock.now)
        monkeypatch.setattr(module, "SECONDS_NOW", by_database)
    return Clock


@pytest.fixture
def open_account(engine):
    """Makes accounts with a quota."""
    numbers = count(1)

    def opened(quota: int | None, used: int = 0, max_files: int | None = None) -> int:
        with engine.begin() as connection:
            values = {"name": f"user{next(numbers)}", "password_hash": "", "created": 0}
            values["max_files"] = max_files
            made = connection.execute(
                insert(account).values(values | {"quota": quota, "used": used})
            )
            return made.inserted_primary_key[0]

    return opened


def row_of(engine, account_id: int):
    with engine.connect() as connection:
        return connection.execute(select(account).where(account.c.id == account_id)).one()


def leases_of(engine, account_id: int) -> dict[str, tuple[int, str]]:
    with engine.connect() as connection:
        rows = connection.execute(select(lease).where(lease.c.account_id == account_id))
        return {row.id: (row.size, row.state) for row in rows}


def space(ledger, account_id: int) -> tuple[int, int, int | None]:
    space = ledger.space(account_id)
    return space.used, space.held, space.free


# one at a time -----------------------------------------------------------------------------


def test_from_reservation_to_settlement(ledger, engine, open_account):
    alice = open_account(1000)
    held = ledger.reserve(alice, 600)
    assert space(ledger, alice) == (0, 600, 400)
    ledger.begin_commit([held])
    assert leases_of(engine, alice) == {held.id: (600, "committing")}
    ledger.settle([held], 600)
    assert space(ledger, alice) == (600, 0, 400)
    assert leases_of(engine, alice) == {}


def test_a_batch_costs_six_statements(ledger, engine, open_account):
    """Many small batches are what a server does: one more for each of them shows."""
    alice = open_account(10**12)
    seen: list[str] = []

    def note(statement: str) -> None:
        seen.append(statement.split()[0])

    with Writer.of(engine).begin_quickly(engine) as connection:  # the one for all of these
        connection.set_trace_callback(note)
    seen.clear()
    held = ledger.reserve_step(alice, 1000)
    ledger.begin_commit([held])
    ledger.settle([held], 1000, 1)
    in_transactions = " ".join(seen).replace("BEGIN ", "").split(" COMMIT")
    assert in_transactions == ["UPDATE INSERT", " UPDATE", " DELETE UPDATE SELECT", ""]


def test_an_overwrite_settles_the_difference(ledger, open_account):
    alice = open_account(1000, used=400)
    held = ledger.reserve(alice, 600)
    ledger.settle([held], 600 - 400)
    assert space(ledger, alice) == (600, 0, 400)


def test_release_gives_all_back(ledger, engine, open_account):
    alice = open_account(1000)
    held = ledger.reserve(alice, 600)
    for _ in range(2):
        ledger.release(held)
        assert space(ledger, alice) == (0, 0, 1000)
        assert leases_of(engine, alice) == {}


@pytest.mark.parametrize("used", [0, 1, 400, 999])
def test_space_is_exact(ledger, engine, open_account, used):
    alice = open_account(1000, used=used)
    with pytest.raises(QuotaExceeded) as caught:
        ledger.reserve(alice, 1000 - used + 1)
    assert (caught.value.needed, caught.value.free) == (1000 - used + 1, 1000 - used)
    assert (caught.value.exit_code, caught.value.code) == (7, "quota")
    assert space(ledger, alice) == (used, 0, 1000 - used)
    assert leases_of(engine, alice) == {}
    ledger.reserve(alice, 1000 - used)
    assert space(ledger, alice) == (used, 1000 - used, 0)
    for size in (1, 2**62):
        with pytest.raises(QuotaExceeded):
            ledger.reserve(alice, size)
    ledger.reserve(alice, 0)


def test_space_that_came_free_since_it_was_looked_for_is_taken(ledger, engine, open_account):
    """As with a database whose writers don't wait for each other."""
    alice = open_account(1000, used=950)
    looks = []

    def free_some(connection, statement, *_):
        if str(statement).startswith("UPDATE account"):
            looks.append(statement)
            if len(looks) == 1:
                connection.execute(update(account).values(used=0))

    event.listen(engine, "after_execute", free_some)
    assert ledger.reserve(alice, 100).size == 100
    assert space(ledger, alice) == (0, 100, 900)


@pytest.mark.parametrize(
    ("quota", "max_files", "most"),
    [
        (None, None, None),
        (None, 5, 5),
        (10**7, 5, 5),
        (0, None, 1000),
        (4096 * 1001 - 1, None, 1000),
        (4096 * 1001, None, 1001),
    ],
)
def test_a_quota_brings_a_number_of_files(ledger, open_account, quota, max_files, most):
    alice = open_account(quota, max_files=max_files)
    assert ledger.space(alice).total_files == most == most_files(quota, max_files)
    enough = 10**12 if most is None else most
    held = ledger.reserve(alice, 0, files=enough)
    if most is not None:
        with pytest.raises(QuotaExceeded, match=f"the limit is {most} files"):
            ledger.reserve(alice, 0, files=1)
    ledger.release(held)


def test_without_a_quota_there_is_always_space(ledger, open_account):
    alice = open_account(None)
    ledger.reserve(alice, 2**40)
    ledger.reserve_step(alice, 1)
    assert space(ledger, alice) == (0, 2**40 + STEP, None)


def test_who_is_over_the_quota_can_still_remove(ledger, open_account):
    """An account may be made for a directory that holds more than the quota."""
    alice = open_account(1000, used=5000)
    held = ledger.reserve(alice, 0)
    ledger.settle([held], -4500)
    assert space(ledger, alice) == (500, 0, 500)
    over = open_account(1000, used=5000)
    for take in (ledger.reserve, ledger.reserve_step):
        with pytest.raises(QuotaExceeded) as caught:
            take(over, 1)
        assert caught.value.free == 0
    assert ledger.reserve_step(over, 0).size == 0


@pytest.mark.parametrize(
    ("free", "size", "held"),
    [
        pytest.param(SPARE, 10, STEP, id="plenty"),
        pytest.param(SPARE - 1, 10, 10, id="not-plenty"),
        pytest.param(SPARE, 0, STEP, id="nothing-needed-yet"),
        pytest.param(SPARE, STEP, STEP, id="a-whole-step"),
        pytest.param(SPARE, STEP + 1, STEP + 1, id="more-than-a-step"),
        pytest.param(10, 10, 10, id="the-last"),
    ],
)
def test_steps_only_while_there_is_plenty(ledger, open_account, free, size, held):
    alice = open_account(free + 77, used=77)
    taken = ledger.reserve_step(alice, size)
    assert taken.size == held
    assert space(ledger, alice) == (77, held, free - held)


@pytest.mark.parametrize(
    ("free", "more", "size"),
    [
        pytest.param(SPARE, 1, 10 + STEP, id="plenty"),
        pytest.param(SPARE - 1, 1, 11, id="not-plenty"),
        pytest.param(SPARE, STEP + 1, 10 + STEP + 1, id="more-than-a-step"),
        pytest.param(5, 5, 15, id="the-last"),
    ],
)
def test_extending(ledger, engine, open_account, free, more, size):
    alice = open_account(free + 10)
    held = ledger.reserve(alice, 10)
    ledger.extend(held, more)
    assert held.size == size
    assert leases_of(engine, alice)[held.id] == (size, "open")
    assert space(ledger, alice)[1] == size
    ledger.release(held)
    assert space(ledger, alice) == (0, 0, free + 10)


def test_extending_beyond_the_quota_changes_nothing(ledger, engine, open_account):
    alice = open_account(1000)
    held = ledger.reserve(alice, 600)
    with pytest.raises(QuotaExceeded):
        ledger.extend(held, 401)
    assert held.size == 600
    assert leases_of(engine, alice)[held.id] == (600, "open")
    assert space(ledger, alice) == (0, 600, 400)


def test_an_account_that_was_removed(ledger, accounts):
    alice = accounts.add("alice", "secret", quota=1000).id
    held = ledger.reserve(alice, 10)
    accounts.remove("alice")
    for verb in (ledger.reserve, ledger.reserve_step):
        with pytest.raises(NotFound):
            verb(alice, 0)
    with pytest.raises(NotFound):
        ledger.space(alice)
    with pytest.raises((LeaseLost, NotFound)):
        ledger.extend(held, 1)
    with pytest.raises(LeaseLost):
        ledger.begin_commit([held])
    with pytest.raises(LeaseLost):
        ledger.settle([held], 10)
    ledger.release(held)


# leases that are lost ----------------------------------------------------------------------


def test_time_ends_no_lease_of_a_process_that_lives(ledger, open_account, clock):
    """However far the clock was set, forward or back, while an upload was under way."""
    alice = open_account(1000)
    held, good = ledger.reserve(alice, 100), ledger.reserve(alice, 10)
    ledger.begin_commit([good])
    for seconds in (LEASE_SECONDS + 100, -2 * 365 * 24 * 3600):
        clock.now += seconds
        assert ledger.reap() == []
        ledger.extend(held, 1)
        ledger.begin_commit([held])
    ledger.settle([held], 101)
    ledger.release(good)
    assert space(ledger, alice) == (101, 0, 899)


def test_one_lost_lease_stops_the_whole_batch(ledger, engine, open_account):
    alice = open_account(1000)
    held, lost = ledger.reserve(alice, 100), ledger.reserve(alice, 10)
    ledger.release(lost)
    with pytest.raises(LeaseLost):
        ledger.begin_commit([held, lost])
    assert leases_of(engine, alice) == {held.id: (100, "open")}


def test_settling_a_lost_lease_has_the_home_counted(ledger, engine, open_account):
    """The rename has happened: the bytes count, though the upload is not acknowledged. Whether a
    recount has found them already, only another one can tell."""
    alice, bob = open_account(1000), open_account(1000)
    held, lost = ledger.reserve(alice, 100), ledger.reserve(alice, 10)
    ledger.release(lost)
    assert ledger.reap() == []
    for leases in ([lost], [lost, held], [held]):  # the second of them ends what is held
        with pytest.raises(LeaseLost):
            ledger.settle(leases, 5)
        assert ledger.reap() == [alice]
        ledger.recounted(alice, 5, 1)
        assert space(ledger, alice)[0] == 5
    assert space(ledger, alice) == (5, 0, 995)
    with pytest.raises(LeaseLost):
        ledger.settle([lost], 0)
    assert ledger.reap() == [], "nothing was changed under it"
    assert space(ledger, bob) == (0, 0, 1000)


def test_a_settlement_after_a_recount_counts_nothing_twice(ledger, engine, open_account):
    """Its process was taken for dead, and the home was counted after the rename."""
    alice = open_account(1000)
    held = ledger.reserve(alice, 100)
    ledger.begin_commit([held])
    ledger.mark_dead(ledger.incarnation)
    ledger.recounted(alice, 100, 1)
    with pytest.raises(LeaseLost):
        ledger.settle([held], 100, 1)
    assert space(ledger, alice) == (100, 0, 900)
    assert ledger.reap() == [alice]


# settlements that failed -------------------------------------------------------------------


def refuse_once(engine, monkeypatch, error: Exception, times: int = 1) -> None:
    """Have the next settlements fail, as where the accounts file cannot be written."""
    settle, left = Ledger._settle, [error] * times

    def fail(self, *arguments, **options):
        if left:
            raise left.pop()
        return settle(self, *arguments, **options)

    monkeypatch.setattr(Ledger, "_settle", fail)


BUSY = StateError("state.db: database is locked")
FULL = DiskFull("the server's disk is full")


@pytest.mark.parametrize(("error", "times"), [(BUSY, 1), (FULL, 2)], ids=["busy", "full"])
def test_what_could_not_be_settled_is_given_back_later(
    ledger, engine, open_account, monkeypatch, error, times
):
    alice = open_account(1000)
    heard: list[str] = []
    ledger.on_doubt = lambda: heard.append("count it")
    held, released = ledger.reserve(alice, 100), ledger.reserve(alice, 10)
    ledger.begin_commit([held])
    refuse_once(engine, monkeypatch, error, times)
    with pytest.raises(type(error)):
        ledger.settle([held], 100)
    refuse_once(engine, monkeypatch, error, times)
    ledger.release(released)
    assert space(ledger, alice) == (0, 110, 890)
    ledger.heartbeat()
    assert space(ledger, alice) == (0, 0, 1000)
    assert leases_of(engine, alice) == {}
    assert ledger.reap() == [alice] and heard, "whether a recount was there first isn't known"
    ledger.recounted(alice, 100, 1)
    ledger.heartbeat()
    assert ledger.reap() == []


def test_a_full_disk_that_has_given_space_up_takes_the_next_try(
    ledger, engine, open_account, monkeypatch
):
    alice = open_account(1000)
    refuse_once(engine, monkeypatch, FULL)
    ledger.settle([ledger.reserve(alice, 100)], 100, 1)
    assert space(ledger, alice) == (100, 0, 900)
    assert ledger.reap() == []


def test_a_release_that_failed_needs_no_recount(ledger, engine, open_account, monkeypatch):
    alice = open_account(1000)
    refuse_once(engine, monkeypatch, BUSY)
    ledger.release(ledger.reserve(alice, 10))
    ledger.reserve(alice, 1)
    assert space(ledger, alice) == (0, 1, 999)
    assert ledger.reap() == []


def test_what_nobody_has_any_more_is_ended(ledger, engine, open_account):
    """A session that failed in some way that was not thought of leaves no room held for ever."""
    alice = open_account(1000)
    mine = ledger.reserve(alice, 1)
    ledger.reserve(alice, 100, files=3)
    ledger.reserve(alice, 50, b"u-half")
    ledger.heartbeat()
    assert leases_of(engine, alice)[mine.id] == (1, "open")
    assert sorted(leases_of(engine, alice).values()) == [(1, "open"), (50, "kept")]
    assert space(ledger, alice) == (0, 51, 949)
    assert ledger.reap() == [alice]
    ledger.begin_commit([mine])


def test_a_recount_makes_right_what_is_held(ledger, engine, open_account):
    alice = open_account(1000)
    held = ledger.reserve(alice, 10, files=2)
    with engine.begin() as connection:
        connection.execute(update(account).values(held=77, held_files=9))
    ledger.recounted(alice, 5, 1)
    row = row_of(engine, alice)
    assert (row.held, row.held_files) == (10, 2)
    ledger.release(held)


def test_heartbeats_keep_leases_alive(ledger, open_account, clock):
    alice = open_account(1000)
    held = ledger.reserve(alice, 100)
    for _ in range(5):
        clock.now += LEASE_SECONDS
        ledger.heartbeat()
    ledger.begin_commit([held])
    assert ledger.reap() == []


def test_a_heartbeat_is_for_the_own_run_only(engine, open_account, clock):
    alice = open_account(1000)
    first, second = Ledger(engine, node="one"), Ledger(engine, node="two")
    held = first.reserve(alice, 100)
    clock.now += LEASE_SECONDS + 1
    second.heartbeat()
    assert second.reap() == [alice]
    with pytest.raises(LeaseLost):
        first.begin_commit([held])


# after a crash -----------------------------------------------------------------------------


def test_the_next_run_ends_what_the_last_one_held(engine, open_account):
    alice, bob, carol = open_account(1000), open_account(None), open_account(1000)
    dead = Ledger(engine)
    held = [dead.reserve(alice, 100), dead.reserve(alice, 50), dead.reserve_step(bob, 1)]
    dead.begin_commit(held[:1])
    alive = Ledger(engine)
    mine = alive.reserve(alice, 7)
    assert sorted(alive.reap()) == [alice, bob]
    assert space(alive, alice) == (0, 7, 993)
    assert space(alive, bob) == (0, 0, None)
    assert row_of(engine, alice).dirty and row_of(engine, bob).dirty
    assert not row_of(engine, carol).dirty
    assert leases_of(engine, alice) == {mine.id: (7, "open")}
    for one in held:
        with pytest.raises(LeaseLost):
            dead.begin_commit([one])


def test_dirty_until_it_is_recounted(engine, open_account):
    alice = open_account(1000, used=10)
    Ledger(engine).reserve(alice, 100)
    ledger = Ledger(engine)
    assert ledger.reap() == [alice]
    assert ledger.reap() == [alice], "a recount that failed is tried again"
    ledger.recounted(alice, 333, 4)
    assert ledger.reap() == []
    assert space(ledger, alice) == (333, 0, 667)


def test_another_node_is_dead_only_when_its_leases_lapse(engine, open_account, clock):
    alice = open_account(1000)
    one, two = Ledger(engine, node="one"), Ledger(engine, node="two")
    held = one.reserve(alice, 100)
    one.begin_commit([held])
    assert two.reap() == []
    clock.now += LEASE_SECONDS + 1
    assert one.reap() == [], "one knows that it is alive"
    assert two.reap() == [alice]
    assert space(two, alice) == (0, 0, 1000)


def test_the_runs_whose_staging_is_in_use(engine, open_account):
    alice, bob = open_account(1000), open_account(1000)
    one, two, three = (Ledger(engine, node=name) for name in "123")
    one.reserve(alice, 1)
    two.reserve(bob, 1)
    assert three.live_incarnations() == {one.incarnation, two.incarnation, three.incarnation}


# several processes of one run --------------------------------------------------------------


@pytest.fixture
def family(engine):
    """A server's first process, and two others of its run."""
    first = Ledger(engine, incarnation="run")
    others = [Ledger(engine, incarnation=f"run-{n}", run="run") for n in (1, 2)]
    first.others |= {one.incarnation for one in others}
    return first, *others


def test_processes_of_one_run_are_not_dead_for_each_other(family, open_account, clock):
    alice = open_account(1000)
    first, one, two = family
    held = [ledger.reserve(alice, 100) for ledger in family]
    assert [ledger.reap() for ledger in family] == [[], [], []]
    one.begin_commit([held[1]])
    clock.now += LEASE_SECONDS + 1
    assert first.reap() == [], "it knows that they are alive"
    assert first.live_incarnations() == {"run", "run-1", "run-2"}


def test_another_run_is_dead_with_all_its_processes(family, engine, open_account):
    alice = open_account(1000)
    family[1].reserve(alice, 100)
    assert Ledger(engine, incarnation="next").reap() == [alice]
    assert space(family[0], alice) == (0, 0, 1000)


def test_a_process_that_died_is_buried_at_once(family, engine, open_account):
    alice, bob = open_account(1000), open_account(1000)
    first, dead, alive = family
    held = dead.reserve(alice, 100)
    dead.begin_commit([held])
    dead.reserve(alice, 50, b"u-half")
    goes_on = alive.reserve(bob, 7)
    first.mark_dead(dead.incarnation)
    assert space(first, alice) == (0, 50, 950)
    assert set(leases_of(engine, alice).values()) == {(50, "kept")}
    assert first.reap() == [alice]
    with pytest.raises(LeaseLost):
        dead.settle([held], 100)
    alive.begin_commit([goes_on])
    assert first.live_incarnations() == {"run", "run-2"}


def test_who_ends_a_lease_at_the_same_time_gives_nothing_back(engine, open_account):
    """As with a database whose writers don't wait for each other: the lease is found by both."""
    alice = open_account(1000)
    dead = Ledger(engine)
    dead.reserve(alice, 100, files=3)
    with engine.begin() as connection:
        connection.execute(update(account).values(held=130, held_files=4))  # another lease's
    ledger = Ledger(engine)

    done = []

    def other(connection, statement, *_):
        if not done and str(statement).startswith("SELECT lease.id, lease.account_id"):
            done.append(statement)
            account_reservation.end(connection, alice, lease.c.incarnation == dead.incarnation)

    event.listen(engine, "after_execute", other)
    assert ledger.reap() == [alice] and done
    row = row_of(engine, alice)
    assert (row.held, row.held_files) == (30, 1)


def test_who_removes_more_than_was_counted_has_the_home_counted(ledger, engine, open_account):
    """The count was wrong before: nobody is refused for that, and it isn't wrong for long."""
    alice = open_account(1000, used=10)
    assert ledger.settle([ledger.reserve(alice, 0, files=0)], -11, -1).used == 0
    row = row_of(engine, alice)
    assert (row.used, row.files, row.dirty) == (0, 0, True)
    ledger.recounted(alice, 5, 1)
    ledger.settle([ledger.reserve(alice, 0, files=0)], -5, -1)
    assert not row_of(engine, alice).dirty


# uploads that wait for a resume ------------------------------------------------------------


def test_kept_space_stays_held(ledger, engine, open_account, clock):
    alice = open_account(1000)
    held = ledger.reserve(alice, 600, b"u-staging")
    ledger.keep(held)
    clock.now += LEASE_SECONDS * 10
    assert ledger.reap() == []
    assert space(ledger, alice) == (0, 600, 400)
    assert ledger.owned_staging(alice) == {b"u-staging"}


def test_a_resume_takes_the_space_over(ledger, engine, open_account, clock):
    alice = open_account(1000)
    held = ledger.reserve(alice, 600, b"u-staging")
    ledger.keep(held)
    clock.now += LEASE_SECONDS * 10
    taken = ledger.take_over(alice, b"u-staging")
    assert taken is not None and taken.size == 600
    assert space(ledger, alice) == (0, 600, 400)
    ledger.begin_commit([taken])
    for verb in (ledger.begin_commit, lambda one: ledger.settle(one, 0)):
        with pytest.raises(LeaseLost):
            verb([held])
    ledger.settle([taken], 600)
    assert space(ledger, alice) == (600, 0, 400)
    assert ledger.take_over(alice, b"u-staging") is None


def test_nobody_takes_what_is_another_account_s(ledger, open_account):
    alice, bob = open_account(1000), open_account(1000)
    ledger.keep(ledger.reserve(alice, 600, b"u-staging"))
    assert ledger.take_over(bob, b"u-staging") is None
    ledger.drop_kept(bob, b"u-staging")
    assert space(ledger, alice) == (0, 600, 400)
    ledger.drop_kept(alice, b"u-staging")
    assert space(ledger, alice) == (0, 0, 1000)


def test_kept_space_lapses_after_its_own_time(engine, open_account, clock):
    alice = open_account(1000)
    ledger = Ledger(engine, keep_seconds=5000)
    ledger.keep(ledger.reserve(alice, 600, b"u-staging"))
    clock.now += 5000
    assert ledger.reap() == []
    clock.now += 1
    assert ledger.reap() == [alice]
    assert space(ledger, alice) == (0, 0, 1000)
    assert ledger.owned_staging(alice) == set()


def test_what_a_crash_interrupted_is_kept_too(engine, open_account):
    alice = open_account(1000)
    Ledger(engine).reserve(alice, 600, b"u-staging")
    ledger = Ledger(engine)
    assert ledger.reap() == [alice]
    assert space(ledger, alice) == (0, 600, 400)
    assert ledger.take_over(alice, b"u-staging") is not None


# all at once -------------------------------------------------------------------------------


def race(count: int, work) -> list:
    """Run ``work(number)`` in threads that start together; what they returned."""
    together = threading.Barrier(count)
    results = []

    def run(number: int) -> None:
        together.wait()
        results.append(work(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


@pytest.mark.parametrize("verb", ["reserve", "reserve_step"])
def test_space_that_only_one_has_goes_to_exactly_one(ledger, open_account, verb):
    alice = open_account(1000, used=900)

    def take(number: int) -> bool:
        try:
            getattr(ledger, verb)(alice, 100)
            return True
        except QuotaExceeded:
            return False

    assert race(32, take).count(True) == 1
    assert space(ledger, alice) == (900, 100, 0)


def test_extending_goes_to_exactly_one(ledger, open_account):
    alice = open_account(132)
    leases = [ledger.reserve(alice, 1) for _ in range(32)]

    def extend(number: int) -> bool:
        try:
            ledger.extend(leases[number], 100)
            return True
        except QuotaExceeded:
            return False

    assert race(32, extend).count(True) == 1
    assert sum(one.size for one in leases) == 132
    assert space(ledger, alice) == (0, 132, 0)


def test_threads_that_come_and_go(ledger, engine, open_account):
    quota = 1000
    alice = open_account(quota)

    def come_and_go(number: int) -> int:
        chance = random.Random(number)
        stored = 0
        for _ in range(12):
            size = chance.randrange(300)
            try:
                held = ledger.reserve(alice, size)
            except QuotaExceeded:
                continue
            used, taken, free = space(ledger, alice)
            assert used + taken <= quota and free >= 0
            if chance.random() < 0.5:
                ledger.release(held)
            else:
                ledger.begin_commit([held])
                change = chance.randrange(-stored, size + 1)
                ledger.settle([held], change)
                stored += change
        return stored

    assert sum(race(8, come_and_go)) == ledger.space(alice).used
    assert ledger.space(alice).held == 0
    assert leases_of(engine, alice) == {}


WORKER = """
import sys
from pathlib import Path
from ftpserver.storage.ledger import Ledger
from ftpserver.database import open_state
from ftpwire.errors import QuotaExceeded

engine = open_state(Path(sys.argv[1]))
ledger = Ledger(engine, node=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
got = 0
for _ in range(20):
    try:
        ledger.reserve(int(sys.argv[3]), 10)
        got += 1
    except QuotaExceeded:
        pass
print(got)
engine.dispose()
"""


@pytest.mark.system
def test_processes_share_the_space_as_threads_do(ledger, engine, root, open_account):
    alice = open_account(305)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(root / ".ftpd"), f"node{number}", str(alice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        got = [int(worker.stdout.readline()) for worker in workers]
    finally:
        for worker in workers:
            worker.stdin.close()
            worker.stdout.close()
            assert worker.wait(30) == 0
    assert sum(got) == 30
    assert space(ledger, alice) == (0, 300, 5)
    assert len(leases_of(engine, alice)) == 30


# against a model ---------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 10, 1000, STEP - 1, STEP, STEP + 1, 3 * STEP])
FILES = st.sampled_from([0, 1, 2, 10, STEP_FILES - 1, STEP_FILES, 3 * STEP_FILES])


def told_free(needed: int, free: int, trash: int) -> int:
    """What a refusal calls free: with the trash, unless that would have been enough."""
    return free + trash if needed > free + trash else free


class LedgerMachine(RuleBasedStateMachine):
    """One account, whose ledger is compared with plain arithmetic after each step."""

    leases = Bundle("leases")

    def __init__(self, engine, open_account, clock) -> None:
        super().__init__()
        self.engine = engine
        self.clock = clock
        self.quota = 10 * STEP
        self.max_files = 10 * STEP_FILES
        self.used = self.files = self.trash = self.trash_files = 0
        self.account = open_account(self.quota, max_files=self.max_files)
        self.ledger = Ledger(engine)
        self.open: dict[str, int] = {}
        self.open_files: dict[str, int] = {}
        self.states: dict[str, str] = {}

    @property
    def free(self) -> int:
        return self.quota - self.used - sum(self.open.values())

    @property
    def free_files(self) -> int:
        return self.max_files - self.files - sum(self.open_files.values())

    def step_for(self, size, files) -> tuple[int, int]:
        """What is held when so much is needed at least."""
        plenty = self.free >= SPARE and self.free_files >= SPARE_FILES
        step = size < STEP and files < STEP_FILES and plenty
        return (STEP, STEP_FILES) if step else (size, files)

    def fits(self, size, files) -> bool:
        """Who is over a limit may still have what needs none of it."""
        return (not size or size <= self.free) and (not files or files <= self.free_files)

    def taken(self, held):
        self.open[held.id] = held.size
        self.open_files[held.id] = held.files
        self.states[held.id] = "open"
        return held

    def forget(self, held) -> None:
        self.open.pop(held.id, None)
        self.open_files.pop(held.id, None)
        self.states.pop(held.id, None)

    def is_live(self, held) -> bool:
        return held.id in self.open

    @rule(target=leases, size=SIZES, files=FILES)
    def reserve(self, size, files):
        if self.fits(size, files):
            held = self.taken(self.ledger.reserve(self.account, size, files=files))
            assert (held.size, held.files) == (size, files)
            return held
        with pytest.raises(QuotaExceeded) as caught:
            self.ledger.reserve(self.account, size, files=files)
        reported = caught.value.what, caught.value.needed, caught.value.free
        if size > max(0, self.free):
            assert reported == ("bytes", size, told_free(size, max(0, self.free), self.trash))
        else:
            left = told_free(files, max(0, self.free_files), self.trash_files)
            assert reported == ("files", files, left)
        return Lease("never was", self.account, size)

    @rule(target=leases, size=SIZES, files=FILES)
    def reserve_step(self, size, files):
        expected = self.step_for(size, files)
        if not self.fits(*expected):
            with pytest.raises(QuotaExceeded):
                self.ledger.reserve_step(self.account, size, files)
            return Lease("never was", self.account, size)
        held = self.taken(self.ledger.reserve_step(self.account, size, files))
        assert (held.size, held.files) == expected
        return held

    @rule(held=leases, size=SIZES, files=FILES)
    def extend(self, held, size, files):
        expected = self.step_for(size, files)
        before = held.size, held.files
        if not self.fits(*expected) or not self.is_live(held):
            with pytest.raises((QuotaExceeded, LeaseLost)):
                self.ledger.extend(held, size, files)
            assert (held.size, held.files) == before
            return
        self.ledger.extend(held, size, files)
        assert (held.size, held.files) == (before[0] + expected[0], before[1] + expected[1])
        self.open[held.id] += expected[0]
        self.open_files[held.id] += expected[1]

    @rule(held=leases)
    def begin_commit(self, held):
        if not self.is_live(held):
            with pytest.raises(LeaseLost):
                self.ledger.begin_commit([held])
            return
        self.ledger.begin_commit([held])
        self.states[held.id] = "committing"

    @rule(held=leases, part=st.floats(-1, 1))
    def settle(self, held, part):
        """What was stored, at most what was held; or less than before, by what there was."""
        change = int(part * (held.size if part > 0 else self.used))
        files = int(part * (held.files if part > 0 else self.files))
        known = held.id in self.open
        if not known:
            with pytest.raises(LeaseLost):
                self.ledger.settle([held], change, files)
            if change or files:
                assert self.account in self.ledger.reap()
                self.count(self.trash, self.trash_files)
            change = files = 0
        else:
            self.ledger.settle([held], change, files)
        self.forget(held)
        self.used += change
        self.files += files
        if self.trash > self.used or self.trash_files > self.files:
            self.count(min(self.trash, self.used), min(self.trash_files, self.files))

    def count(self, trash: int, trash_files: int) -> None:
        """A settlement that left more in the trash than there is has the home counted."""
        assert self.account in self.ledger.reap()
        self.trash, self.trash_files = trash, trash_files
        self.ledger.recounted(self.account, self.used, self.files, trash, trash_files)

    @rule(part=st.floats(-1.5, 1.5), more=st.integers(-2, 2))
    def to_trash(self, part, more):
        """Something goes there, is measured there, or is restored."""
        trash = int(part * (self.used if part > 0 else self.trash))
        held = self.ledger.reserve(self.account, 0, files=0)
        self.ledger.settle([held], 0, 0, trash, more)
        wanted = self.trash + trash, self.trash_files + more
        kept = max(0, min(wanted[0], self.used)), max(0, min(wanted[1], self.files))
        if kept == wanted:
            self.trash, self.trash_files = kept
        else:
            self.count(*kept)

    @rule(held=leases, part=st.floats(0, 1), size=SIZES, files=FILES)
    def give_up(self, held, part, size, files):
        """What was trash until just now becomes room of a lease."""
        if not self.is_live(held):
            with pytest.raises(LeaseLost):
                self.ledger.reserve_freed(held, 0, 0, size, files)
            self.ledger.settle_waiting()
            self.count(self.trash, self.trash_files)
            return
        freed, freed_files = int(part * self.trash), int(part * self.trash_files)
        going = self.ledger.reserve(self.account, 0, files=0)
        self.ledger.settle([going], 0, 0, -freed, -freed_files)
        self.trash, self.trash_files = self.trash - freed, self.trash_files - freed_files
        self.used, self.files = self.used - freed, self.files - freed_files
        if not self.fits(size, files):
            size, files = min(size, freed), min(files, freed_files)
        grown = self.ledger.reserve_freed(held, freed, freed_files, size, files)
        assert (grown.size - held.size, grown.files - held.files) == (size, files)
        held.size, held.files = grown.size, grown.files
        self.open[held.id] += size
        self.open_files[held.id] += files

    @rule(held=leases)
    def release(self, held):
        self.ledger.release(held)
        self.forget(held)

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS // 2, LEASE_SECONDS, LEASE_SECONDS + 1]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule()
    def heartbeat(self):
        self.ledger.heartbeat()

    @precondition(lambda self: self.open)
    @rule(on_disk=st.integers(0, 2 * STEP), files=st.integers(0, 2 * STEP_FILES))
    def crash(self, on_disk, files):
        self.ledger = Ledger(self.engine)
        assert self.account in self.ledger.reap()
        self.open.clear()
        self.open_files.clear()
        self.states.clear()
        self.ledger.recounted(self.account, on_disk, files, on_disk // 2, files // 2)
        self.used, self.files = on_disk, files
        self.trash, self.trash_files = on_disk // 2, files // 2

    @rule()
    def reap(self):
        assert self.account not in self.ledger.reap()

    @invariant()
    def agrees(self):
        row = row_of(self.engine, self.account)
        assert (row.used, row.held) == (self.used, sum(self.open.values()))
        assert (row.files, row.held_files) == (self.files, sum(self.open_files.values()))
        assert (row.trash_bytes, row.trash_files) == (self.trash, self.trash_files)
        assert 0 <= row.trash_bytes <= row.used and 0 <= row.trash_files <= row.files
        found = leases_of(self.engine, self.account)
        assert found == {one: (size, self.states[one]) for one, size in self.open.items()}


@pytest.mark.parametrize(
    ("runs", "steps"),
    [(15, 30), pytest.param(400, 60, marks=pytest.mark.long)],
    ids=["short", "long"],
)
def test_the_ledger_is_what_a_model_says(engine, open_account, clock, runs, steps):
    run_state_machine_as_test(
        lambda: LedgerMachine(engine, open_account, clock),
        settings=settings(
            deadline=None, database=None, max_examples=runs, stateful_step_count=steps
        ),
    )


# a full disk --------------------------------------------------------------------------------


def test_what_was_removed_on_a_full_disk_is_counted_by_the_next_start(
    root, engine, accounts, monkeypatch
):
    """Nobody else knows of it when this server ends before there is room for the books."""
    account = accounts.add("alice", "secret")
    state = root / ".ftpd"
    full = Ledger(engine, state=state)

    def refuse(*arguments, **options):
        raise DiskFull("the server's disk is full")

    for name in ("_settle", "reserve"):
        monkeypatch.setattr(full, name, refuse)
    with full.freeing(account.id) as settle:
        settle(10, 1)
    (finding,) = verify.check(root)
    assert (finding.kind, finding.weight) == ("recount", verify.Weight.DOUBT)
    later = Ledger(engine, state=state)
    later.doubt_marked()
    assert later.in_doubt() == {account.id}
    assert later.reap() == [account.id]
    assert [path for path in state.iterdir() if "uncounted" in path.name] == []


def test_what_waits_in_a_session_that_ends_is_settled_by_the_server(
    engine, accounts, ledger, monkeypatch
):
    account = accounts.add("alice", "secret")
    ledger.recounted(account.id, 30, 3)
    session = Ledger(engine)

    def refuse(*arguments, **options):
        raise DiskFull("the server's disk is full")

    for name in ("_settle", "reserve"):
        monkeypatch.setattr(session, name, refuse)
    with session.freeing(account.id) as settle:
        settle(10, 1)
    ledger.take_over_waiting(session)
    ledger.settle_waiting()
    assert ledger.reap() == [account.id], "the home is counted"


def test_a_key_for_pieces_is_good_for_its_account_while_it_is_under_way(ledger, open_account):
    alice, bob = open_account(1000), open_account(1000)

    def found(account: int) -> list[bytes | None]:
        return [ledger.find_pieces(account, key) for key in (b"one", b"two")]

    first = ledger.reserve(alice, 10, b"u-1", pieces=b"one")
    assert (found(alice), found(bob)) == ([b"u-1", None], [None, None])
    second = ledger.take_over(alice, b"u-1", b"two")
    assert found(alice) == [None, b"u-1"]
    ledger.keep(first)  # which it cannot any more
    assert found(alice) == [None, b"u-1"]
    ledger.keep(second)
    assert found(alice) == [None, None]
    assert ledger.take_over(alice, b"u-1") is not None and found(alice) == [None, None]
