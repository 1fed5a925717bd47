"""A disk that doesn't answer: what waits for it waits, and nobody else does."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Found, Put, Sent, Stat, Stored, WhoAmI
from tests.peer import Peer
from tests.system.programs import PATIENCE, User, add_account

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"),
    pytest.mark.needs("one-process"),
]

HANGING = 6
"""Sessions that ask for something on the disk that doesn't answer."""
BUSY = 4
"""Sessions that put small files meanwhile."""
ASKED = 200
STORED = 200
"""Files that each of them stores at least."""
GENEROUS = 20.0
"""Seconds for one answer. A session that is stopped by those that hang gets none at all."""
_SAFELY = 2 | 4  # MS_NOSUID, MS_NODEV


@pytest.fixture
def hang() -> Iterator[Callable[[Path], Callable[[], None]]]:
    """Mounts a file system that never answers; what is returned ends that, with an error for all
    who wait: FUSE without anybody behind it."""
    with ExitStack() as stack:

        def mounted(point: Path) -> Callable[[], None]:
            try:
                device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                pytest.skip(f"no FUSE here: {error}")
            ends = stack.enter_context(ExitStack())
            ends.callback(os.close, device)
            libc = ctypes.CDLL(None, use_errno=True)
            options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
            if libc.mount(b"hanging", os.fsencode(point), b"fuse", _SAFELY, options):
                if ctypes.get_errno() not in (errno.EPERM, errno.ENODEV, errno.EACCES):
                    raise OSError(ctypes.get_errno(), "mount")
                pytest.skip("nothing can be mounted here")
            stack.callback(subprocess.run, ["umount", "-l", str(point)], check=True)
            return ends.close

        yield mounted


@pytest.mark.parametrize("threads", ["256", "0"], ids=["threads", "a-thread-each"])
def test_a_home_that_hangs_stops_nobody_else(start_server, programs, hang, threads):
    """One thread of a process works off small requests at a time; one that hangs doesn't count."""
    server = start_server("--threads", threads, plaintext=True)
    carol, bob = (add_account(server, programs, name) for name in ("carol", "bob"))
    with ExitStack() as stack:

        def session(user: User) -> Peer:
            peer = stack.enter_context(Peer.connect(("127.0.0.1", server.port)))
            peer.log_in(user.name, user.password)
            return peer

        hanging = [session(bob) for _ in range(HANGING)]
        busy = [session(carol) for _ in range(BUSY)]
        asking = session(carol)
        end = hang(server.home("bob"))
        for peer in hanging:
            peer.request(Stat(b"/"))
        over = threading.Event()
        stored = [0] * BUSY
        putting = [
            threading.Thread(target=_put_files, args=(peer, number, over, stored))
            for number, peer in enumerate(busy)
        ]
        for thread in putting:
            thread.start()
        try:
            waited: list[float] = []
            while len(waited) < ASKED or min(stored) < STORED:
                waited.append(_answer_time(asking, len(waited)))
                assert sum(waited) < PATIENCE, "a session that puts files was stopped"
        finally:
            over.set()
            for thread in putting:
                thread.join()
        assert max(waited) < GENEROUS
        end()
        for peer in hanging:
            assert peer.read().kind == Kind.ERROR
            assert peer.ask(WhoAmI()).user == "bob"
    waited.sort()
    middle, late, last = (1000 * waited[int(len(waited) * part) - 1] for part in (0.5, 0.99, 1))
    print(
        f"{len(waited)} answers beside {HANGING} sessions that hang and {BUSY} that stored "
        f"{sum(stored)} files: {middle:.1f} ms, 99 % in {late:.1f} ms, all in {last:.1f} ms"
    )


def _answer_time(peer: Peer, number: int) -> float:
    began = time.monotonic()
    path = b"/" if number % 2 else b"/0"
    peer.request(Stat(path))
    answer = peer.read()
    assert answer.kind in (Kind.REPLY, Kind.ERROR), answer  # nothing may be stored yet
    if answer.kind == Kind.REPLY:
        assert isinstance(answer.message, Found)
    return time.monotonic() - began


def _put_files(peer: Peer, number: int, over: threading.Event, stored: list[int]) -> None:
    data = bytes(1000)
    sent = Sent(len(data), digests.digest(data))
    while not over.is_set():
        for name in range(20):
            request = peer.request(Put(b"/%d/%d" % (number, name), len(data), parents=True))
            peer.frame(Kind.DATA, request, data)
            peer.frame(Kind.END, request, sent)
        for _ in range(20):
            assert peer.read().message == Stored(len(data))
            stored[number] += 1
