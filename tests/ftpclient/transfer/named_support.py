"""For tests of named sources and targets: both clients, readers and writers of FIFOs, nodes."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpclient.client import Client
from ftpclient.transfer.report import Listener
from tests.ftpclient.aio.async_support import Blocking

BOTH = [pytest.param(Client, id="Client"), pytest.param(Blocking, id="AsyncClient")]
STRANGER = 54321
"""The uid of somebody else."""
SECONDS = 60.0
"""Until a test that hangs is given up."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes nodes and other users' links")


class Recording(Listener):
    """Remembers every result and remark."""

    def __init__(self) -> None:
        self.results = []
        self.remarks = []

    def finished(self, result) -> None:
        self.results.append(result)

    def remark(self, text: str) -> None:
        self.remarks.append(text)


def errors(reported: Recording) -> list[str]:
    """The words of what failed."""
    return [str(one.error) for one in reported.results if one.status == "failed"]


class Reading:
    """Reads from a FIFO to its end, in a thread."""

    def __init__(self, fifo: Path) -> None:
        self._fifo = fifo
        self.data = b""
        self._thread = threading.Thread(target=self._run, name="reader")
        self._thread.start()

    def _run(self) -> None:
        self.data = self._fifo.read_bytes()

    def result(self) -> bytes:
        """All that came."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the FIFO was not closed"
        return self.data


@contextmanager
def writing(fifo: Path, data: bytes) -> Iterator[None]:
    """Writes into a FIFO, in a thread."""
    thread = threading.Thread(target=fifo.write_bytes, args=(data,), name="writer")
    thread.start()
    yield
    thread.join(SECONDS)
    assert not thread.is_alive(), "nobody read from the FIFO"


def make_null(path: Path) -> Path:
    """A device that takes everything, as /dev/null does."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return path


def usable(device: Path) -> bool:
    """Whether devices can be opened where tests have their files."""
    try:
        os.close(os.open(device, os.O_WRONLY))
    except OSError:
        return False
    return True


def unauthenticated(link: Path, target: str | Path, *, below: int = 0o777) -> Path:
    """A link of somebody else, in a directory that others write to."""
    link.parent.mkdir(exist_ok=True)
    link.parent.chmod(below)
    link.symlink_to(target)
    os.lchown(link, STRANGER, STRANGER)
    return link


def in_thread(action: Callable[[], object]) -> Callable[[], None]:
    """Start something; what is returned waits for its end and raises what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="action")
    thread.start()

    def wait() -> None:
        thread.join(SECONDS)
        assert not thread.is_alive()
        if raised:
            raise raised[0]

    return wait
