"""A disk that syncs when it is told to, and sessions that wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ftpserver.storage.group_sync import Syncs

PATIENCE = 30.0


class Stopped(BaseException):
    """Ends a thread in the middle of something, as no error does."""


class Disk:
    """Does syncs when it is told to, and records them.

    Attributes:
        begun: The files of each sync that has begun, and the thread that does it.
        endings: What each of them ends with, in order; None: well. When it isn't known yet, the
            sync waits for it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.begun: list[tuple[list[int], threading.Thread]] = []
        self.endings: list[BaseException | None] = []

    def sync(self, fds: Sequence[int]) -> None:
        with self._changed:
            self.begun.append((list(fds), threading.current_thread()))
            number = len(self.begun)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: len(self.endings) >= number, PATIENCE)
            ending = self.endings[number - 1]
        if ending is not None:
            raise ending

    def end(self, ending: BaseException | None = None) -> None:
        """Have the next sync end, the one under way or one to come."""
        with self._changed:
            self.endings.append(ending)
            self._changed.notify_all()

    def end_all(self) -> None:
        """Have all syncs end well from now on."""
        with self._changed:
            self.endings += [None] * 100
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[int]:
        """Until so many syncs have begun; the files of the last."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, PATIENCE)
            return self.begun[count - 1][0]

    @property
    def files(self) -> list[list[int]]:
        return [sorted(fds) for fds, _ in self.begun]


class Client(threading.Thread):
    """Asks for one sync."""

    def __init__(self, syncs: Syncs, *fds: int) -> None:
        super().__init__(daemon=True)
        self._syncs = syncs
        self._fds = fds
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._syncs.sync(self._fds)
        except BaseException as error:
            self.error = error

    def ended(self) -> BaseException | None:
        """What it ended with, once it has."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.error


class Scene:
    """Syncs on a disk that does what it is told, and who waits for it."""

    def __init__(self, syncs: Callable[[Callable[[Sequence[int]], None]], Syncs] = Syncs) -> None:
        self.disk = Disk()
        self.syncs = syncs(self.disk.sync)
        self._waits = threading.Semaphore(0)
        self.syncs.before_wait = self._waits.release

    def lead(self, *fds: int) -> Client:
        """Somebody whose sync is under way."""
        count = len(self.disk.begun)
        client = Client(self.syncs, *fds)
        assert self.disk.wait_for(count + 1) == list(fds)
        return client

    def join(self, *fds: int) -> Client:
        """Somebody who waits for a sync to come."""
        while self._waits.acquire(blocking=False):
            pass  # of somebody who led
        client = Client(self.syncs, *fds)
        self.wait_for_one_more()
        return client

    def wait_for_one_more(self) -> None:
        """Until one more than before waits for a sync to come."""
        assert self._waits.acquire(timeout=PATIENCE)
