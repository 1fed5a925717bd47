"""An index that the server hasn't written, or not all of: whoever may write into a home by other
ways than this server can make one."""

from __future__ import annotations

import os
import threading

import pytest

from ftpserver.admin.verify_trash import look
from ftpserver.storage.home import Home
from ftpserver.storage.trash import directory, index
from ftpserver.storage.trash.directory import alone, looking, open_trash
from ftpserver.storage.trash.index import Begin, Bytes, Contents, Item, Measured, decode, encode
from ftpserver.storage.trash.measuring import measure
from ftpserver.storage.trash.thinning import Thinning
from ftpwire.errors import CommandError
from ftpwire.messages import Remove
from tests.ftpserver.storage.trash.conftest import Bin

ITEM = Item("00000000-0", "removed", Bytes.of(b"/a"), 1)


def forge(bin_: Bin, operation: str, *lines: bytes) -> None:
    """Append lines to an index."""
    with open(bin_.directory(operation) / "index", "ab") as file:
        file.writelines(line + b"\n" for line in lines)


@pytest.fixture
def home(bin_: Bin):
    opened = Home(bin_.files, durable=False, incarnation=bin_.ledger.incarnation)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "line",
    [
        b'{"is":"item","name":"00000000-1","what":"removed","path":{"b64":"!"},"time":1}',
        b'{"is":"item","name":"00000000-1","what":"removed","path":{"b64":"A"},"time":1}',
        b'{"is":"item","name":"00000000-1","what":"removed","path":{"text":"/a"},"time":%d}'
        % 2**63,
        b'{"is":"item","name":"../../etc","what":"removed","path":{"text":"/a"},"time":1}',
        b'{"is":"measured","name":"00000000-0","size":%d,"files":1}' % 2**70,
        b'{"is":"measured","name":"00000000-0","size":-1,"files":1}',
        b'{"is":"begin","account":1,"user":"a","time":1,"key":"ab"}',
        b'{"is":"begin","account":1,"user":"a","time":1,"client":"ab"}',
        b'{"is":"begin","account":1,"user":"a","time":1,"words":"%b"}' % (b"x" * 201),
        b'{"is":"begin","account":%d,"user":"a","time":1}' % 2**64,
    ],
)
def test_a_line_that_the_server_can_not_have_written_is_passed_over(line):
    assert list(decode(line + b"\n" + encode([ITEM]))) == [ITEM]


def test_what_it_writes_at_most_is_read():
    lines = [
        Begin(2**31, "a" * 64, 2**60, "é" * 200, "0" * 16, "f" * 16),
        replace_path(b"/\xff" * 500),
        Measured("00000000-0", 2**62, 2**40),
    ]
    assert list(decode(encode(lines))) == lines


def replace_path(path: bytes) -> Item:
    return Item("00000000-0", "tree", Bytes.of(path), 1)


def test_a_line_that_was_written_once_more_counts_once():
    contents = Contents.of([ITEM, ITEM])
    assert contents.items == [ITEM]


def test_lines_about_what_is_not_kept_all_count():
    moved = Item("", "moved", Bytes.of(b"/a"), 1, Bytes.of(b"/b"))
    assert Contents.of([moved, moved]).items == [moved, moved]


def test_sums_that_no_number_holds_keep_nobody_from_giving_it_up(bin_, home):
    bin_.begin("rm")
    for number in range(3):
        path = b"/tree%d" % number
        bin_.make_dir(path)
        name = bin_.session.remove(Remove(path, recursive=True)).operation
    for thing in bin_.things(name):
        forge(bin_, name, encode([Measured(thing, 2**62, 2**62)]).rstrip())
        forge(bin_, name, b'{"is":"measured","name":"%b","size":%d}' % (thing.encode(), 2**80))
    Thinning(home, bin_.ledger, bin_.account.id).expire(0, 2**62)
    assert not os.listdir(bin_.files / ".ftpd-trash")


def test_an_index_is_read_up_to_a_limit(bin_, home, caplog):
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    place = bin_.directory(name) / "index"
    os.truncate(place, 2**40)  # of which the disk holds next to nothing
    trash = open_trash(home)
    try:
        with looking(trash, name) as opened:
            contents = opened.contents()
    finally:
        os.close(trash)
    assert contents.begin is not None and len(contents.items) == 1
    assert "more than the server writes" in caplog.text
    (wrong,) = look(home.fd).wrong
    assert (wrong.path, wrong.found) == (b".ftpd-trash/%b/index" % name.encode(), "a larger one")
    (reported,) = bin_.operations()
    assert (reported.name, reported.kept) == (name, 1)
    measure(home, bin_.ledger, bin_.account.id)
    Thinning(home, bin_.ledger, bin_.account.id).expire(0, 2**62)
    assert not os.listdir(bin_.files / ".ftpd-trash")
    assert bin_.agrees()


def test_no_more_lines_are_read_than_a_limit(monkeypatch):
    monkeypatch.setattr(index, "MOST_LINES", 3)
    assert list(decode(b"\n\n" + encode([ITEM, ITEM]))) == [ITEM]


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_something_else_of_its_name_holds_nobody_up(bin_, home, kind):
    """What opens a pipe to read it waits for who writes into it: for ever."""
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    place = bin_.directory(name) / "index"
    place.unlink()
    {
        "fifo": os.mkfifo,
        "link": lambda path: os.symlink("/etc/passwd", path),
        "directory": os.mkdir,
    }[kind](place)
    ended = threading.Event()

    def look_at_it() -> None:
        bin_.operations()
        measure(home, bin_.ledger, bin_.account.id)
        Thinning(home, bin_.ledger, bin_.account.id).expire(0, 2**62)
        ended.set()

    looking_at = threading.Thread(target=look_at_it, daemon=True)
    looking_at.start()
    looking_at.join(20)
    assert ended.is_set()


def test_what_comes_when_an_index_is_full_is_another_operation(bin_, monkeypatch):
    monkeypatch.setattr(directory, "MOST_WRITTEN", 300)
    bin_.begin("rm many")
    names = []
    for number in range(6):
        path = b"/file%d" % number
        (bin_.files / path[1:].decode()).write_bytes(b"data")
        names.append(bin_.session.remove(Remove(path)).operation)
    assert 1 < len(set(names)) < 6
    assert all((bin_.directory(one) / "index").stat().st_size < 600 for one in names)
    for name in dict.fromkeys(names):
        bin_.restore(name)
    assert sum(one.startswith("file") for one in bin_.tree()) == 6


def test_what_its_client_said_is_no_longer_than_it_may_be(bin_, home):
    """What was given up is told from the database, where a forged line must not get."""
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    place = bin_.directory(name) / "index"
    begin = place.read_bytes().replace(b'"words":"', b'"words":"' + b"x" * 10_000)
    place.write_bytes(begin)
    with_room = Thinning(home, bin_.ledger, bin_.account.id)
    try:
        with_room.evict(name)
    except CommandError:
        pass
    assert all(len(one.words) <= 200 for one in bin_.ledger.evicted(bin_.account.id))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something away")
def test_another_file_that_was_linked_there_is_given_to_nobody(bin_, home, tmp_path):
    """Where the system lets users link files that aren't theirs."""
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    place = bin_.directory(name)
    roots = tmp_path / "root's own"
    roots.write_bytes(b"secret")
    (place / "index").unlink()
    os.link(roots, place / "index")
    for path in (bin_.files, place.parent, place):
        os.chown(path, 12345, 12345)
    trash = open_trash(home)
    try:
        with alone(home, trash, name):
            pass
    finally:
        os.close(trash)
    assert roots.stat().st_uid == 0
