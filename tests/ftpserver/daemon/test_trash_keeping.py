"""The trash of all accounts within its limits: by a clock of the test's own, without a server."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from ftpserver.daemon import trash_keeping
from ftpserver.daemon.trash_keeping import EVERY, LOOK_AT_DISKS, TrashKeeping, log_trash_policy
from ftpserver.settings.table import Settings
from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpserver.storage.trash.names import new_name
from ftpserver.storage.trash.operation import Command, Operation

NOW = 1_800_000_000
DAY = 24 * 3600


class Time:
    """What the keeper goes by."""

    def __init__(self) -> None:
        self.now = float(NOW)
        self.ticks = 0.0


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def recorded():
    return []


@pytest.fixture
def service(accounts, ledger, root, recorded):
    read, write = os.pipe()
    yield SimpleNamespace(
        accounts=accounts,
        ledger=ledger,
        settings=Settings(root, trash_reserve=0),
        stop_fd=read,
        audit=SimpleNamespace(record=lambda event, **more: recorded.append((event, more))),
        stop=lambda: os.write(write, b"x"),
    )
    os.close(read)
    os.close(write)


@pytest.fixture
def keeper(service, accounts, time):
    def own(ids=None, /):
        return [one for one in accounts if ids is None or one.id in ids]

    made = TrashKeeping(service, own, now=lambda: time.now, ticks=lambda: time.ticks)
    yield made
    made.close()


@pytest.fixture
def alice(accounts):
    return accounts.add("alice", "secret")


@pytest.fixture
def remove(accounts, ledger):
    """Removes files (names that end in a slash: trees of one file) as an operation of an account
    that began at some time; returns its name."""

    def removed(account, *names: str, age: float = 0, what="removed", size: int = 10) -> str:
        home = Home(account.home)
        began = int((NOW - age) * 10**9)
        operation = Operation(home, Command(account.id, account.name), lambda: new_name(began))
        with operation.writing():
            for name in names:
                place = account.home / name.rstrip("/")
                if name.endswith("/"):
                    place.mkdir()
                    (place / "inner").write_bytes(bytes(size))
                else:
                    place.write_bytes(bytes(size))
                tree = name.endswith("/")
                item = operation.item("tree" if tree else what, (name.rstrip("/").encode(),))
                item = replace(item, time=began)
                operation.announce([item])
                operation.take(home.fd, place.name.encode(), item)
            operation.sync()
        operation.close()
        home.close()
        recount(ledger, account.id, Home(account.home))
        return operation.name

    return removed


def names(account) -> set[str]:
    place = account.home / ".ftpd-trash"
    return set(os.listdir(place)) if place.exists() else set()


def test_what_is_too_old_goes(keeper, accounts, alice, remove, recorded):
    old, young = remove(alice, "a", age=7 * DAY), remove(alice, "b", age=7 * DAY - 1)
    keeper.look()
    assert names(alice) == {young} and old != young
    account = accounts.get("alice")
    assert (account.used, account.files, account.trash_bytes) == (10, 1, 10)
    ((event, more),) = recorded
    assert (event, more["user"], more["size"], more["files"]) == ("evict", "alice", 10, 1)
    assert more["details"]["names"] == [old]


def test_it_looks_each_hour(keeper, time, alice, remove):
    keeper.look()
    remove(alice, "a", age=8 * DAY)
    time.ticks = EVERY - 1
    keeper.look()
    assert len(names(alice)) == 1
    time.ticks = EVERY
    keeper.look()
    assert names(alice) == set()


def test_an_account_keeps_for_its_own_time(keeper, accounts, alice, remove):
    bob = accounts.add("bob", "secret")
    accounts.change("alice", trash_days=30)
    accounts.change("bob", trash_days=1)
    remove(alice, "a", age=20 * DAY)
    remove(bob, "b", age=2 * DAY)
    keeper.look()
    assert len(names(alice)) == 1 and names(bob) == set()


def test_a_server_that_keeps_nothing_gives_all_up(keeper, service, root, alice, remove):
    remove(alice, "a")
    service.settings = Settings(root, trash_days=0, trash_reserve=0)
    keeper.look()
    assert names(alice) == set()


def test_what_an_account_has_left_that_is_gone_goes_in_time(
    keeper, time, accounts, ledger, alice, remove
):
    old, young = remove(alice, "a", age=7 * DAY), remove(alice, "b", age=6 * DAY)
    accounts.remove("alice")
    heir = accounts.add("heir", "secret", home=alice.home)
    other = accounts.add("other", "secret", home=alice.home)
    theirs = remove(other, "c", age=DAY)
    recount(ledger, heir.id, Home(heir.home))
    keeper.look()
    assert names(heir) == {young, theirs} and old != young
    assert accounts.get("heir").used == 20
    time.now += DAY
    time.ticks += EVERY
    keeper.look()
    assert names(heir) == {theirs}
    assert (accounts.get("heir").used, accounts.get("heir").trash_bytes) == (10, 0)


def test_versions_are_thinned(keeper, service, root, alice, remove):
    for age in range(1, 8):
        remove(alice, "a", age=age * 60, what="replaced")
    service.settings = Settings(root, trash_versions=3, trash_reserve=0)
    keeper.look()
    assert len(names(alice)) == 3


@pytest.mark.parametrize("limit", ["quota", "disk", "items"])
def test_the_oldest_goes_above_a_limit(
    keeper, service, root, accounts, alice, remove, monkeypatch, limit
):
    kept = [remove(alice, f"{number}", age=10 - number, size=400) for number in range(3)]
    if limit == "quota":
        accounts.change("alice", quota=10_000, trash_max=10)
    elif limit == "disk":
        accounts.change("alice", trash_max=10)
        monkeypatch.setattr(
            trash_keeping.os, "fstatvfs", lambda fd: SimpleNamespace(f_blocks=10, f_frsize=1000)
        )
    else:
        service.settings = Settings(root, trash_items=2, trash_reserve=0)
    keeper.look()
    assert names(alice) == set(kept[1:])


def test_trees_are_counted_when_it_is_asked(keeper, time, accounts, alice, remove, recorded):
    keeper.look()
    name = remove(alice, "tree/", size=30)
    assert accounts.get("alice").trash_bytes == 0
    keeper.look()
    assert accounts.get("alice").trash_bytes == 0, "nobody has asked"
    keeper.measure_soon(alice.id)
    keeper.look()
    account = accounts.get("alice")
    assert (account.used, account.trash_bytes, account.trash_files) == (30, 30, 2)
    ((event, more),) = recorded
    assert (event, more["path"], more["size"], more["files"]) == ("measured", b"/tree", 30, 2)
    assert more["operation"] == name


def test_very_many_operations_are_not_kept_for_an_hour(
    keeper, service, root, alice, remove, recorded
):
    service.settings = Settings(root, trash_reserve=0, trash_items=3)
    keeper.look()
    made = [remove(alice, str(age), age=age) for age in (50, 40, 30)]
    keeper.measure_soon(alice.id)
    keeper.look()
    assert names(alice) == set(made)
    made += [remove(alice, str(age), age=age) for age in (20, 10)]
    keeper._measure_at.clear()
    keeper.measure_soon(alice.id)
    keeper.look()
    assert names(alice) == set(made[2:])
    assert [event for event, _ in recorded] == ["evict"]


def test_an_account_whose_trash_takes_long_to_look_at_is_looked_at_less_often(
    keeper, time, accounts, alice, remove, monkeypatch
):
    real = trash_keeping.measure

    def slow(*arguments, **more):
        time.ticks += 1
        return real(*arguments, **more)

    keeper.look()
    monkeypatch.setattr(trash_keeping, "measure", slow)
    remove(alice, "one/")
    keeper.measure_soon(alice.id)
    keeper.look()
    counted = accounts.get("alice").trash_files
    remove(alice, "two/")
    keeper.measure_soon(alice.id)
    keeper.look()
    assert accounts.get("alice").trash_files == counted == 2
    time.ticks += 20
    keeper.look()
    assert accounts.get("alice").trash_files == 4


# room on the disk --------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch, root):
    """A disk of 10,000 bytes, of which trash takes ``each`` for an operation."""

    def free(homes, each: int, rest: int, *, of_files: bool = False) -> None:
        def stat(place):
            there = sum(len(names(SimpleNamespace(home=home))) for home in homes)
            left = rest - there * each
            size, files = (10_000, left) if of_files else (left, 10_000)
            return SimpleNamespace(
                f_frsize=1, f_blocks=10_000, f_bavail=size, f_files=10_000, f_favail=files
            )

        monkeypatch.setattr(trash_keeping.os, "statvfs", stat)

    return free


def test_the_oldest_of_all_accounts_goes_where_a_disk_is_nearly_full(
    keeper, service, root, time, accounts, alice, remove, disk, ledger, recorded
):
    bob = accounts.add("bob", "secret")
    first, second = remove(alice, "1", age=40), remove(bob, "2", age=30)
    third, fourth = remove(alice, "3", age=20), remove(bob, "4", age=10)
    disk([alice.home, bob.home], 100, 700)
    service.settings = Settings(root, trash_reserve=5)
    keeper.look()
    assert names(alice) == {third} and names(bob) == {fourth}
    assert ledger.evicted_lately()[0] == 2
    assert ledger.was_evicted(alice.id, first) and ledger.was_evicted(bob.id, second)
    assert [more["user"] for _, more in recorded] == ["alice", "bob"]
    assert keeper.totals() == (20, 2, 2)


def test_a_disk_that_can_take_few_more_files_is_nearly_full_as_well(
    keeper, service, root, alice, remove, disk
):
    remove(alice, "1", age=20)
    kept = remove(alice, "2", age=10)
    disk([alice.home], 100, 600, of_files=True)
    service.settings = Settings(root, trash_reserve=5)
    keeper.look()
    assert names(alice) == {kept}


def test_disks_are_looked_at_each_minute(keeper, service, root, time, alice, remove, disk):
    service.settings = Settings(root, trash_reserve=5)
    keeper.look()
    remove(alice, "1")
    disk([alice.home], 100, 550)
    time.ticks = LOOK_AT_DISKS - 1
    keeper.look()
    assert len(names(alice)) == 1
    time.ticks = LOOK_AT_DISKS
    keeper.look()
    assert names(alice) == set()


def test_a_session_gets_space_on_a_full_disk(keeper, service, alice, remove, disk):
    remove(alice, "1", age=40)
    kept = remove(alice, "2", age=30)
    disk([alice.home], 100, 200)
    keeper.start()
    try:
        assert keeper.free_disk_space(alice.id, 100)
        assert names(alice) == {kept}
        assert not keeper.free_disk_space(alice.id, 1000), "there is no such room"
    finally:
        service.stop()
        keeper.stop()
    assert not keeper.free_disk_space(alice.id, 1), "nobody is there any more"


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OverflowError("Python int too large to convert to SQLite INTEGER"),  # nobody thought of it
    ],
    ids=["of-the-disk", "unexpected"],
)
def test_what_cannot_be_looked_after_keeps_nobody_from_it(
    keeper, accounts, alice, remove, monkeypatch, caplog, error
):
    bob = accounts.add("bob", "secret")
    remove(alice, "a", age=8 * DAY)
    remove(bob, "b", age=8 * DAY)
    real = trash_keeping.Home

    def opened(directory, **more):
        if directory == alice.home:
            raise error
        return real(directory, **more)

    monkeypatch.setattr(trash_keeping, "Home", opened)
    keeper.look()
    assert names(bob) == set() and len(names(alice)) == 1
    assert "alice: the trash cannot be kept within its limits" in caplog.text


def test_who_asks_often_waits_for_nobody(keeper):
    """Nobody reads meanwhile, as when it looks at a large trash."""

    def ask() -> None:
        for number in range(70_000):
            keeper.measure_soon(number % 3)
            keeper.look_soon()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(60)
    assert not asking.is_alive()


def test_for_who_does_not_wait_any_more_nothing_is_evicted(
    keeper, alice, remove, disk, monkeypatch
):
    remove(alice, "a")
    disk([alice.home], 100, 100)
    monkeypatch.setattr(trash_keeping, "DISK_PATIENCE", 0.0)
    monkeypatch.setattr(keeper._thread, "is_alive", lambda: True)
    assert not keeper.free_disk_space(alice.id, 5)
    keeper._serve_waiting()
    assert len(names(alice)) == 1


def test_others_have_their_turn(keeper, time, monkeypatch):
    rests = []

    def select(reading, writing, failing, seconds):
        rests.append(seconds)
        return [], [], []

    monkeypatch.setattr(trash_keeping.select, "select", select)
    keeper._rest()
    assert rests == []
    time.ticks += trash_keeping.WORK_SECONDS
    keeper._rest()
    keeper._rest()
    assert len(rests) == 1


def test_a_server_that_stops_waits_for_no_removal(keeper, service, time):
    time.ticks += trash_keeping.WORK_SECONDS
    service.stop()
    with pytest.raises(trash_keeping._Stopping):
        keeper._rest()


# the first start ---------------------------------------------------------------------------


def test_the_first_start_reports_what_is_kept(tmp_path, caplog):
    log_trash_policy(Settings(tmp_path))
    assert "7 days" in caplog.text and "trash-days = 0" in caplog.text
    assert "purged at once" in caplog.text
    caplog.clear()
    log_trash_policy(Settings(tmp_path, trash_days=0))
    assert caplog.text == ""


def test_threads_end(keeper, service):
    keeper.start()
    service.stop()
    keeper.stop()
    assert "trash" not in {one.name for one in threading.enumerate()}


def test_who_never_lets_go_of_a_home_keeps_no_other_waiting(
    keeper, accounts, alice, remove, time, monkeypatch, caplog
):
    """The session of somebody hostile, in its own process, can hold its home's lock for ever."""
    monkeypatch.setattr(trash_keeping, "_LOCK_PATIENCE", 0.05)
    bob = accounts.add("bob", "secret")
    held = [remove(alice, name, age=8 * DAY) for name in ("a", "b")]
    remove(bob, "c", age=8 * DAY)
    home = Home(alice.home)
    with home.alone():
        keeper.look()
        assert (names(alice), names(bob)) == (set(held), set())
        assert caplog.text.count("locked by other sessions") == 1
        time.ticks += EVERY / 10
        keeper.look_soon()
        keeper.look()
        assert caplog.text.count("locked by other sessions") == 1
    home.close()
    time.ticks += EVERY
    keeper.look()
    assert names(alice) == set()


@pytest.mark.parametrize(
    ("line", "age"),
    [
        (b'{"is":"measured","name":"%b","size":99999999999999999999,"files":1}', 8 * DAY),
        (b'{"is":"item","name":"%b","what":"replaced","path":{"b64":"A"},"time":1}', DAY),
    ],
    ids=["measured", "path"],
)
def test_what_somebody_has_put_into_an_index_keeps_no_other_waiting(
    keeper, accounts, alice, remove, line, age
):
    bob = accounts.add("bob", "secret")
    name = remove(alice, "a", age=age)
    operation = alice.home / ".ftpd-trash" / name
    [thing] = (one for one in os.listdir(operation) if one != "index")
    with open(operation / "index", "ab") as index:
        index.write(line % thing.encode() + b"\n")
    remove(bob, "c", age=8 * DAY)
    keeper.tidy()
    assert names(bob) == set()
