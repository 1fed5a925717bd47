"""Reading the audit log: rotated files, torn lines, filters, following."""

from __future__ import annotations

import os
import threading
import tracemalloc

import pytest

from ftpserver.audit import reader as module
from ftpserver.audit import writer
from ftpserver.audit.administration import administered
from ftpserver.audit.files import FILE_NAME, own_name, rotated
from ftpserver.audit.reader import AuditReader, Filter
from ftpserver.audit.record import Record, line_of
from ftpserver.audit.writer import Audit
from ftpserver.errors import StateError
from ftpwire import paths
from tests.peer import eventually

EVERYTHING = Filter()


def record(number: int, **fields) -> Record:
    values = {"event": "put", "outcome": "ok", "user": "alice", "path": f"/{number}"}
    return Record(**{"time": f"2030-01-01T00:00:{number:02d}.000Z"} | values | fields)


def write(path, *numbers: int) -> None:
    with path.open("ab") as file:
        file.writelines(line_of(record(number)) for number in numbers)


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE_NAME


def numbers_of(reader, wanted=EVERYTHING, **options) -> list[int]:
    return [int(found.path[1:]) for _, found in reader.records(wanted, **options)]


def test_all_files_from_the_oldest_on(path, tmp_path):
    write(rotated(path, 2), 1, 2)
    write(rotated(path, 1), 3)
    write(path, 4, 5)
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == [1, 2, 3, 4, 5]


def test_files_of_accounts_are_merged_in_order_of_time(path, tmp_path):
    write(rotated(path, 1), 1, 4)
    write(path, 7, 10)
    files, logins = tmp_path / own_name("files-alice"), tmp_path / own_name("logins-b.jsonl.1")
    write(rotated(files, 1), 2, 3)
    write(files, 5, 8)
    write(logins, 6, 9)
    write(rotated(tmp_path / own_name("files-carol"), 1), 11)  # it is being rotated
    (tmp_path / "audit-files-alice.jsonl.bak").write_bytes(b"not ours")
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == list(range(1, 12))
        assert reader.unreadable == 0
    with AuditReader(tmp_path, user="alice") as reader:
        assert numbers_of(reader) == [1, 2, 3, 4, 5, 7, 8, 10]


def test_a_clock_that_was_set_back_changes_no_order_within_a_file(path, tmp_path):
    write(path, 1, 5, 2, 7)
    write(tmp_path / own_name("files-alice"), 3, 6)
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == [1, 3, 5, 2, 6, 7]


def test_many_files_are_merged_in_little_memory(tmp_path, monkeypatch):
    count, lines, most = 10, 250, 512 * 1024

    def peak() -> int:
        tracemalloc.start()
        try:
            with AuditReader(tmp_path) as reader:
                found = sum(1 for _ in reader.records(EVERYTHING))
            assert found == count * lines
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for number in range(count):
        with (tmp_path / own_name(f"files-user{number}")).open("wb") as file:
            file.writelines(line_of(record(one % 60, reason="x" * 200)) for one in range(lines))
    assert peak() > most  # the control: they are held as a whole
    monkeypatch.setattr(module, "_ALL_READ", 10 * module._LEAST_READ)
    assert peak() < most


def test_nothing_is_read_twice_however_it_is_called(path, tmp_path):
    write(rotated(path, 1), 1)
    os.link(rotated(path, 1), rotated(path, 2))  # as if it was rotated between two openings
    write(path, 2)
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == [1, 2]


def test_between_a_rotation_and_the_next_record(path, tmp_path):
    write(rotated(path, 1), 1)
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == [1]


def test_none_was_ever_written(tmp_path):
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == []


def test_a_file_that_can_not_be_read_is_one_line(path, tmp_path, plain_user):
    write(path, 1)
    path.chmod(0)
    with pytest.raises(StateError, match=r"audit\.jsonl: cannot be read: permission denied"):
        AuditReader(tmp_path)


def test_what_is_no_record_is_counted(path, tmp_path):
    write(path, 1)
    with path.open("ab") as file:
        file.write(b'{"event":"put"}\n\xff\xfe\n[1]\n\n')
    write(path, 2)
    with path.open("ab") as file:
        file.write(b'{"time":"torn')
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == [1, 2]
        assert reader.unreadable == 4


def test_a_field_of_a_later_version_does_no_harm(path, tmp_path):
    line = line_of(record(1)).replace(b'"event"', b'"shoe_size":46,"event"')
    path.write_bytes(line)
    with AuditReader(tmp_path) as reader:
        assert [found for found, _ in reader.records(EVERYTHING)] == [line.rstrip(b"\n")]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        pytest.param(Filter(user="bob"), [3, 4], id="user"),
        pytest.param(Filter(events=("remove", "move")), [2, 3], id="events"),
        pytest.param(Filter(since="2030-01-01T00:00:03.000Z"), [3, 4], id="since"),
        pytest.param(Filter(until="2030-01-01T00:00:02.000Z"), [1, 2], id="until"),
        pytest.param(Filter(failed=True), [4], id="failed"),
        pytest.param(Filter(user="alice", events=("remove",)), [2], id="both"),
    ],
)
def test_filters(path, tmp_path, wanted, numbers):
    with path.open("wb") as file:
        file.write(line_of(record(1)))
        file.write(line_of(record(2, event="remove")))
        file.write(line_of(record(3, event="move", user="bob")))
        file.write(line_of(record(4, user="bob", outcome="refused")))
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader, wanted) == numbers


ABOUT = {
    1: {"event": "put", "path": "/a/b/c"},
    2: {"event": "put", "path": "/a/b/c/d"},
    3: {"event": "put", "path": "/a/b"},
    4: {"event": "remove", "path": "/a", "files": 7, "size": 70},
    5: {"event": "move", "path": "/a/b", "target": "/x"},
    6: {"event": "copy", "path": "/y", "target": "/a"},
    7: {"event": "copy", "path": "/a", "target": "/z"},
    8: {"event": "end-tree", "path": "/a", "details": {"commit": True}},
    9: {"event": "end-tree", "path": "/a", "details": {"commit": False}},
    10: {"event": "link", "path": "/l", "target": "/a/b/c"},
    11: {"event": "login"},
    12: {"event": "put", "path": "/a/b/cc"},
    13: {"event": "put", "path": "/\ufffd", "path_b64": "L/8="},
    14: {"event": "get", "path": "relative"},
    15: {"event": "attributes", "path": "/"},
    16: {"event": "remove", "path": "/a/b/c", "outcome": "refused"},
    17: {"event": "measured", "path": "/a", "operation": "17979cfe362a0000-0123abcd"},
}


@pytest.mark.parametrize(
    ("path", "numbers"),
    [
        pytest.param(b"/a/b/c", [1, 2, 4, 5, 6, 8, 16, 17], id="with-what-is-above"),
        pytest.param(b"/x/c", [5], id="moved-there"),
        pytest.param(b"/z/b", [7], id="copied-there"),
        pytest.param(b"/a/b/cc", [4, 5, 6, 8, 12, 17], id="a-name-that-begins-so"),
        pytest.param(b"/\xff", [13], id="no-utf-8"),
        pytest.param(b"/l", [10], id="a-link"),
        pytest.param(b"/", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 16, 17], id="all"),
        pytest.param(b"/none", [], id="nothing"),
    ],
)
def test_a_path_is_found_with_what_took_it_along(path, numbers):
    wanted = Filter(path=paths.split(path))
    values = {"outcome": "ok", "path": None}
    found = [n for n, fields in ABOUT.items() if wanted.takes(record(n, **(values | fields)))]
    assert found == numbers


@pytest.mark.parametrize(
    ("address", "numbers"),
    [
        ("192.0.2.1", [1]),
        ("192.0.2.0/24", [1, 2]),
        ("2001:db8::1", [3, 4]),
        ("2001:db8::/32", [3, 4]),
        ("fe80::1%eth0", [5]),
        ("local", [6]),
        ("198.51.100.1", []),
    ],
)
def test_an_address_is_found_in_its_network_too(address, numbers):
    recorded = {
        1: "192.0.2.1",
        2: "192.0.2.2",
        3: "2001:db8::1",
        4: "2001:db8::/64",  # as it is banned
        5: "fe80::1%eth0",
        6: "local",
        7: None,
    }
    wanted = Filter(address=address)
    found = [n for n, one in recorded.items() if wanted.takes(record(n, address=one))]
    assert found == numbers


def test_following_goes_on_through_rotations(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.005)
    found: list[int] = []

    def follow() -> None:
        with AuditReader(tmp_path) as reader:
            for _, one in reader.records(EVERYTHING, follow=True):
                found.append(int(one.path[1:]))
                if found[-1] == 50:
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(1, 51):
        write(path, number)
        if number % 10 == 0 and number < 50:
            write(path, number)  # unseen when it is rotated
            for older in range(3, 0, -1):
                if rotated(path, older - 1).exists():
                    os.replace(rotated(path, older - 1), rotated(path, older))
        if number % 7 == 0:
            eventually(lambda n=number: n in found)
    thread.join()
    once = [number for number in range(1, 51)]
    assert sorted(set(found)) == once
    assert found == sorted([*once, 10, 20, 30, 40])


def test_following_finds_files_of_accounts_as_they_come(path, tmp_path):
    """And merges them with what came meanwhile."""
    own = tmp_path / own_name("files-alice")
    rounds = iter([[(path, 3), (own, 2)], [(own, 4), (path, 5), (own, 6)], [(None, 0), (own, 7)]])

    def wait(seconds: float) -> None:
        for where, number in next(rounds):
            if where is None:
                os.replace(own, rotated(own, 1))
            else:
                write(where, number)

    found: list[int] = []
    write(path, 1)
    with AuditReader(tmp_path, wait, lambda: pytest.fail("nothing is missed")) as reader:
        for _, one in reader.records(EVERYTHING, follow=True):
            found.append(int(one.path[1:]))
            if found[-1] == 7:
                break
    assert found == list(range(1, 8))


def test_one_that_grows_without_end_holds_up_no_other(path, tmp_path):
    """What is added while the files are read is for the next time."""
    own = tmp_path / own_name("files-alice")
    write(path, 1)
    found: list[int] = []
    with AuditReader(tmp_path, lambda seconds: write(own, 30)) as reader:
        for _, one in reader.records(EVERYTHING, follow=True):
            found.append(int(one.path[1:]))
            if found[-1] == 30:
                break
            write(path, found[-1] + 1)
            assert found[-1] < 20
    assert found[-2:] == [2, 30]


@pytest.mark.parametrize(("kept", "missed"), [(3, False), (2, True)])
def test_who_follows_too_slowly_is_informed_that_files_are_gone(path, tmp_path, kept, missed):
    """Those that are left are read, the oldest first."""
    written = iter(range(2, 5))

    def wait(seconds: float) -> None:
        for number in written:  # all of it happens while nobody reads
            for older in range(kept, 0, -1):
                if rotated(path, older - 1).exists():
                    os.replace(rotated(path, older - 1), rotated(path, older))
            write(path, number)

    reported: list[int] = []
    found: list[int] = []
    write(path, 1)
    with AuditReader(tmp_path, wait, lambda: reported.append(found[-1])) as reader:
        for _, one in reader.records(EVERYTHING, follow=True):
            found.append(int(one.path[1:]))
            if found[-1] == 4:
                break
    assert found == [1, 2, 3, 4]
    assert reported == ([1] if missed else [])


def test_two_writers_and_rotations_lose_nothing(tmp_path, monkeypatch):
    """The server and administrators' commands write to the same files, and one of them rotates."""
    monkeypatch.setattr(writer, "_GATHER_SECONDS", 0.001)
    log = Audit(tmp_path, size=5000, keep=1000)

    def administer(name: str) -> None:
        for number in range(100):
            administered(tmp_path, "user-set", user=f"{name}{number}")

    threads = [threading.Thread(target=administer, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for number in range(1000):
        log.record("put", user=f"server{number}")
    for thread in threads:
        thread.join()
    log.close()
    with AuditReader(tmp_path) as reader:
        users = [found.user for _, found in reader.records(EVERYTHING)]
        assert reader.unreadable == 0
    assert len(users) == len(set(users)) == 1300


def test_a_damaged_line_takes_little_memory_however_long_it_is(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 64 * 1024)
    monkeypatch.setattr(module, "_READ", 16 * 1024)
    write(path, 1)
    with path.open("ab") as file:
        file.truncate(file.tell() + 8 * 2**20)  # as a power cut leaves it
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    write(path, 2)
    tracemalloc.start()
    try:
        with AuditReader(tmp_path) as reader:
            assert numbers_of(reader) == [1, 2]
            assert reader.unreadable == 1
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_line_that_is_nested_too_deeply_is_no_record(path, tmp_path):
    write(path, 1)
    with path.open("ab") as file:
        file.write(line_of(record(2))[:-2] + b',"details":{"x":' + b"[" * 10**5 + b"\n")
    write(path, 3)
    with AuditReader(tmp_path) as reader:
        assert numbers_of(reader) == [1, 3]
        assert reader.unreadable == 1
