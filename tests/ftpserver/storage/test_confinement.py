"""No request reaches anything outside of the home: by path, by link, by race."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from ftpserver.storage import open_home
from ftpserver.storage.batch import Uploads
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpwire import beneath, digests, messages
from ftpwire.errors import CommandError
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copy,
    EndTree,
    Get,
    Hash,
    List,
    MakeDir,
    MakeLink,
    Move,
    Put,
    Remove,
    Sent,
    SetAttributes,
    Stat,
)
from tests.peer import Peer

SECRET = b"not yours"

REQUESTS = [
    lambda path: Stat(path),
    lambda path: Stat(path, follow=True, digest=True),
    lambda path: List(path),
    lambda path: List(path, recursive=True, follow=True, digest=True),
    lambda path: Hash(path),
    lambda path: Get(path),
    lambda path: Get(path, 3),
    lambda path: Put(path, 5),
    lambda path: Put(path, 5, overwrite="older", mtime_ns=2**62),
    lambda path: Put(path + b"/made", 5, parents=True),
    lambda path: Put(path + b"/made", None, ask=True),
    lambda path: MakeDir(path + b"/made"),
    lambda path: MakeDir(path + b"/made/deeper", parents=True),
    lambda path: MakeLink(path, b"/secret"),
    lambda path: MakeLink(path + b"/made-link", b"secret"),
    lambda path: SetAttributes(path, 0o777, 0),
    lambda path: Copy(path, b"/copied"),
    lambda path: Copy(path, b"/copied-tree", recursive=True),
    lambda path: Copy(b"/own", path),
    lambda path: Copy(b"/own", path + b"/copied-in"),
    lambda path: Copy(b"/own-dir", path + b"/copied-tree-in", recursive=True),
    lambda path: Move(b"/own", path),
    lambda path: Move(b"/own", path + b"/moved-in"),
    lambda path: Move(path, b"/moved"),
    lambda path: BeginTree(path),
    lambda path: Remove(path),
    lambda path: Remove(path + b"/secret"),
    lambda path: Remove(path, recursive=True),
]

PATHS = {
    "dotdot": "/..",
    "dotdot-deep": "/../../../../../..",
    "dotdot-inside": "/own-dir/../..",
    "dotdot-canary": "/../../canary",
    "dotdot-secret": "/../../canary/secret",
    "dotdot-bob": "/../bob",
    "dotdot-slashes": "//..//..//canary//secret",
    "dot-dotdot": "/./.././../canary/secret",
    "absolute": "{canary}",
    "absolute-secret": "{canary}/secret",
    "state": "/../.ftpd/state.db",
    "link-absolute": "/absolute",
    "link-absolute-secret": "/absolute/secret",
    "link-relative": "/relative",
    "link-relative-secret": "/relative/secret",
    "link-to-secret": "/to-secret",
    "link-relative-to-secret": "/relative-to-secret",
    "link-up": "/up",
    "link-up-bob": "/up/bob/secret",
    "link-chain": "/chain-1",
    "link-chain-secret": "/chain-1/secret",
    "link-deep": "/own-dir/deep/secret",
    "link-dotdot-behind": "/own-dir/deep/../secret",
    "link-loop": "/loop/secret",
    "link-proc-root": "/proc-root{canary}/secret",
    "link-proc-cwd": "/proc-cwd/secret",
    "link-proc-fd": "/proc-fd/secret",
}


@pytest.fixture
def server(start_server):
    return start_server(durable=False)


@pytest.fixture
def furnished(server, canary, monkeypatch) -> Path:
    """Alice's home with links that want to lead out, and bob's home beside it."""
    monkeypatch.chdir(canary)  # where a path that is looked up in the wrong place would be found
    home = server.settings.root / "alice"
    bob = server.settings.root / "bob"
    bob.mkdir()
    (bob / "secret").write_bytes(SECRET)
    furnish(home, canary)
    return home


def links_out(canary: Path) -> dict[str, object]:
    return {
        "absolute": canary,
        "relative": "../../canary",
        "to-secret": canary / "secret",
        "relative-to-secret": "../../canary/secret",
        "up": "..",
        "chain-1": "chain-2",
        "chain-2": "own-dir/chain-3",
        "own-dir/chain-3": "../absolute",
        "own-dir/deep": "../../../../../../../../../.." + str(canary),
        "loop": "loop",
        "proc-root": "/proc/self/root",
        "proc-cwd": "/proc/self/cwd",
        "proc-fd": "/proc/self/fd",
    }


def furnish(home: Path, canary: Path) -> None:
    """Have the home as it should be, whatever was done to it."""
    links = links_out(canary)
    for name in {*links, *os.listdir(home)} - {"own", "own-dir", ".ftpd-staging"}:
        if name in links and os.path.islink(home / name):
            if os.readlink(home / name) == str(links[name]):
                continue
        remove(home / name)
    own = home / "own-dir"
    if own.is_symlink() or not own.is_dir() or set(os.listdir(own)) != OWN:
        remove(own)
    (home / "own-dir").mkdir(exist_ok=True)
    for name in ("own", "own-dir/file"):
        if not (home / name).is_file():
            remove(home / name)
        (home / name).write_bytes(b"mine")
    for name, target in links.items():
        if not os.path.lexists(home / name):
            (home / name).symlink_to(target)


OWN = {"file", "chain-3", "deep"}


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def all_answers(peer: Peer, request) -> bytes:
    """Ask, send what belongs to it, and take all that comes of it; every byte of that."""
    number = peer.request(request)
    if isinstance(request, Put):
        peer.frame(Kind.DATA, number, b"bytes")
        peer.frame(Kind.END, number, Sent(5, digests.digest(b"bytes")))
    if isinstance(request, BeginTree):
        tree = number
        number = peer.request(Put(request.path + b"/in-tree", 0, parents=True))
        peer.frame(Kind.END, number, Sent(0))
        number = peer.request(EndTree())
        assert tree < number
    last = peer.request(messages.WhoAmI())
    received = b""
    while (answer := peer.answer()).request_id != last:
        received += answer.payload
    return received


def try_everything(peer: Peer, path: bytes, home: Path, canary: Path) -> bytes:
    answers = b""
    for make in REQUESTS:
        furnish(home, canary)
        answers += all_answers(peer, make(path))
    return answers


def bytes_of(path: str, canary: Path) -> bytes:
    return os.fsencode(path.format(canary=canary))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_nothing_leads_out(server, dial, furnished, canary, path):
    """(The canary's own fixture sees whether it was read, made, changed or removed.)"""
    answers = try_everything(dial(server), bytes_of(path, canary), furnished, canary)
    assert SECRET not in answers
    assert (server.settings.root / "bob" / "secret").read_bytes() == SECRET
    assert os.listdir(server.settings.root / "bob") == ["secret"]
    assert sorted(os.listdir(server.settings.root)) == [".ftpd", "alice", "bob"]


def test_nothing_leads_out_where_there_is_no_openat2(server, dial, furnished, canary, monkeypatch):
    tree = beneath.Tree

    class Walking(tree):
        def __init__(self, fd, *, follow):
            super().__init__(fd, follow=follow, kernel=False)

    monkeypatch.setattr(open_home, "Tree", Walking)
    peer = dial(server)
    for path in ("dotdot-secret", "link-absolute-secret", "link-up-bob", "link-proc-root"):
        answers = try_everything(peer, bytes_of(PATHS[path], canary), furnished, canary)
        assert SECRET not in answers, path
    assert (server.settings.root / "bob" / "secret").read_bytes() == SECRET


class Naive(beneath.Tree):
    """Checks nothing and follows everything, as a server does that joins paths."""

    def open(self, parts, flags, mode=0):
        return os.open(b"/".join(parts) or b".", flags, mode, dir_fd=self.fd)


def test_a_naive_server_would_be_caught(server, dial, furnished, tmp_path, monkeypatch):
    """The positive control: these links do lead out of a home that nobody guards."""
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("secret", "to-be-removed"):
        (victim / name).write_bytes(SECRET)
    monkeypatch.setattr(open_home, "Tree", Naive)
    peer = dial(server)
    answers = try_everything(peer, b"/absolute/secret", furnished, victim)
    try_everything(peer, b"/absolute", furnished, victim)
    assert SECRET in answers
    assert "made" in os.listdir(victim)
    assert not (victim / "secret").exists()


# the reserved name -------------------------------------------------------------------------

RESERVED = [b"/.ftpd-staging", b"/.ftpd-staging/lock", b"/own-dir/../.ftpd-staging/lock"]


@pytest.mark.parametrize("path", RESERVED)
def test_staging_can_not_be_named(server, dial, furnished, path):
    peer = dial(server)
    for make in REQUESTS:
        answers = all_answers(peer, make(path))
        assert b"invalid-path" in answers, make(path)
    assert os.listdir(furnished / ".ftpd-staging") == ["lock"]


@pytest.mark.parametrize(
    "target",
    [".ftpd-staging", "/.ftpd-staging", "own-dir/../.ftpd-staging/lock", "./.ftpd-staging/."],
)
def test_no_link_leads_to_staging(server, dial, furnished, target):
    peer = dial(server)
    assert peer.ask(MakeLink(b"/link", target.encode())).code == "invalid-path"
    assert not os.path.lexists(furnished / "link")


def test_no_copy_or_move_makes_a_link_to_staging(server, dial, furnished):
    """Whoever set the home up may have left one; it is not multiplied."""
    peer = dial(server)
    peer.ask(Stat(b"/"))
    (furnished / "own-dir" / "link").symlink_to("../.ftpd-staging")
    answer = peer.ask(Copy(b"/own-dir", b"/copy", recursive=True))
    assert [problem.code for problem in answer.problems] == ["invalid-path"]
    assert not os.path.lexists(furnished / "copy" / "link")


def test_a_directory_of_that_name_elsewhere_is_hidden(server, dial, furnished):
    (furnished / "own-dir" / ".ftpd-staging").mkdir()
    (furnished / "own-dir" / ".ftpd-staging" / "x").write_bytes(SECRET)
    peer = dial(server)
    answers = all_answers(peer, List(b"/", recursive=True))
    assert b".ftpd-staging" not in answers
    links = [path for path in (furnished / "own-dir").iterdir() if path.is_symlink()]
    size = sum(path.lstat().st_size for path in links)
    removed = peer.ask(Remove(b"/own-dir", recursive=True, final=True))
    assert removed.size_bytes == len(SECRET) + 4 + size


# what is no file ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_file_is_never_opened(server, dial, furnished, kind):
    """Opening a FIFO would block, opening a device can do anything."""
    import socket

    path = furnished / "special"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(path))
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: it never ends
        except PermissionError:
            pytest.skip("no devices can be made here")
    (furnished / "own-dir" / "link").symlink_to("../special")
    peer = dial(server)
    for name in (b"/special", b"/own-dir/link"):
        for request in (
            Hash(name),
            Get(name),
            Copy(name, b"/copied"),
            SetAttributes(name, 0o777),
        ):
            assert peer.ask(request).code == "not-regular", request
        assert peer.ask(Stat(name, follow=True)).entry.type == "other"
    assert peer.ask(Copy(b"/own-dir", b"/copy", recursive=True)).problems == []
    (furnished / "own-dir" / "link").unlink()
    path.rename(furnished / "own-dir" / "special")
    problems = peer.ask(Copy(b"/own-dir", b"/copy", recursive=True)).problems
    assert [(one.path, one.code) for one in problems] == [(b"special", "not-regular")]
    assert not (furnished / "copy" / "special").exists()


# races -------------------------------------------------------------------------------------

ROUNDS = [
    pytest.param(25, id="short"),
    pytest.param(2000, id="long", marks=pytest.mark.long),
]


class Swapper:
    """Exchanges a directory of the home with a link that leads out, over and over."""

    def __init__(self, home: Path, outside: Path) -> None:
        (home / "swapped").mkdir()
        (home / "other").symlink_to(outside)
        self._fd = os.open(home, os.O_RDONLY)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper")
        self.count = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(FileNotFoundError):  # the other one has just removed something
                beneath.exchange(self._fd, b"swapped", self._fd, b"other")
                self.count += 1

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._fd)


@pytest.fixture
def raced(open_home, root, accounts, engine):
    home = open_home()
    account = accounts.add("alice", "secret", home=root / "alice")
    return home, Uploads(home, Ledger(engine), account.id, durable=False)


def deeds(home: Home, uploads: Uploads) -> None:
    """All that a session can do below a directory whose place is contested."""
    for path in (b"/swapped/secret", b"/swapped/inside/deeper"):
        data = b"put by alice"
        with suppress(CommandError, OSError):
            uploads.check(Put(path))
        uploads.stage_small(1, Put(path, len(data)), data, Sent(len(data), digests.digest(data)))
        uploads.add_change(2, MakeDir(b"/swapped/inside/made", parents=True))
        uploads.add_change(3, MakeLink(b"/swapped/link", b"secret"))
        uploads.add_change(4, SetAttributes(path, 0o777, 0))
        uploads.commit()
        with suppress(CommandError, OSError):
            fd, _ = home.tree.open_file(tuple(path.split(b"/")[1:]))
            try:
                assert not os.pread(fd, 100, 0).startswith(SECRET)
            finally:
                os.close(fd)
        with suppress(CommandError, OSError):
            home.move(path, b"/swapped/moved", replace=True)
        with suppress(CommandError, OSError):
            home.move(b"/swapped/moved", b"/taken", replace=True)
        for target in (path, b"/swapped/inside"):
            with suppress(CommandError, OSError):
                home.remove(target, recursive=True, tick=lambda: None)
        for _, item in home.list(b"/", recursive=True, follow=True, digest=True):
            assert item is None or not item.path.startswith(b"deeper") or item.size == 12


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_swapped_directory_leads_nowhere(raced, root, canary, rounds):
    home, uploads = raced
    with Swapper(root / "alice", canary) as swapper:
        for _ in range(rounds):
            deeds(home, uploads)
        while swapper.count <= 10:  # there has to be something to race with
            deeds(home, uploads)


def test_a_naive_removal_loses_the_race(root, tmp_path):
    """The positive control: looking first and removing then reaches what is outside."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (root / "alice").mkdir()
    with Swapper(root / "alice", victim):
        contested = root / "alice" / "swapped"
        for _ in range(200_000):
            if not (victim / "secret").exists():
                (victim / "secret").write_bytes(SECRET)
            with suppress(OSError):
                if not stat.S_ISLNK(os.lstat(contested).st_mode):
                    os.unlink(contested / "secret")
            if not (victim / "secret").exists():
                return
    pytest.fail("nothing was lost: this race is no race")
