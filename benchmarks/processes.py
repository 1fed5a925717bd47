"""Servers as child processes: starting and stopping them, their CPU time and their memory.

Lives here: everything that is read from /proc, and the promise that no server outlives us.
Lives elsewhere: which servers (peers/), running the clients that are timed (measure.py).

Only processes that were started here are ever signalled, by their id: the child itself, and
those of its descendants that are still the same processes when it has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICK = 1 / os.sysconf("SC_CLK_TCK")
START_SECONDS = 20.0
STOP_SECONDS = 10.0
_SETTLE_SECONDS = 3.0
CALM_SECONDS = 0.4
CALM_SHARE = 0.15
"""Of one core: what others may use in CALM_SECONDS for the machine to be calm."""


class Unavailable(Exception):
    """Somebody can't take part; the text says why, in one line."""


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat says about a process.

    Attributes:
        cpu: Seconds, its own and those of its children that it has waited for.
        started: Ticks since the machine started: together with the id it names one process.
    """

    pid: int
    parent: int
    cpu: float
    started: int


def parse_stat(text: str) -> Stat:
    """Read a line of /proc/PID/stat. The program's name may contain anything."""
    before, _, after = text.rpartition(")")
    fields = after.split()
    used = sum(int(fields[index]) for index in range(11, 15))  # utime stime cutime cstime
    return Stat(int(before.split(None, 1)[0]), int(fields[1]), used * TICK, int(fields[19]))


def _stat(pid: int | str) -> Stat | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def _all() -> Iterator[Stat]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(name)) is not None:
            yield stat


def tree(root: int) -> list[Stat]:
    """A process and all its living descendants."""
    children: dict[int, list[Stat]] = {}
    found = []
    for stat in _all():
        children.setdefault(stat.parent, []).append(stat)
        if stat.pid == root:
            found.append(stat)
    for stat in found:
        found += children.get(stat.pid, [])
    return found


def parse_busy(text: str) -> float:
    """Seconds of CPU that all cores have spent so far other than idle, out of /proc/stat.

    What a hypervisor took away counts too: it is just as little ours.
    """
    values = [int(value) for value in text.splitlines()[0].split()[1:9]]
    idle = values[3] + values[4]  # idle, iowait
    return (sum(values) - idle) * TICK


def busy() -> float:
    """Seconds of CPU that the whole machine has spent so far."""
    return parse_busy(Path("/proc/stat").read_text())


def wait_for_calm(patience: float) -> None:
    """Until the machine has nearly nothing else to do, or ``patience`` seconds have passed."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = busy()
        time.sleep(CALM_SECONDS)
        if busy() - before < CALM_SHARE * CALM_SECONDS:
            return


@dataclass(frozen=True)
class Memory:
    """Bytes that a process tree occupies: resident, and with what is shared split up."""

    resident: int
    proportional: int


def parse_kilobytes(text: str, name: str) -> int:
    """The bytes of one line ``Name:   123 kB`` of a file in /proc; 0 without such a line."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def memory(pids: Sequence[int]) -> Memory:
    """What these processes occupy together."""
    resident = proportional = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        resident += parse_kilobytes(text, "Rss")
        proportional += parse_kilobytes(text, "Pss")
    return Memory(resident, proportional)


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which nothing of the caller's own set-up counts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FTP_", "FTPD_", "XDG_", "RSYNC_", "RCLONE_", "SSH_"))
        and name != "PYTHONDONTWRITEBYTECODE"  # an installed program isn't compiled at each start
        and not name.lower().endswith("_proxy")
    }
    return kept | {"LC_ALL": "C.UTF-8"} | dict(more or {})


class Server:
    """A running server. Started by the constructor, ended by ``stop``.

    Args:
        log: Takes its standard streams; all three, because vsftpd complains on its first.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        self._idle = 0
        with open(log, "w+b") as streams:
            self._process = subprocess.Popen(
                argv,
                stdin=streams,
                stdout=streams,
                stderr=streams,
                env=clean_environment(env),
                cwd=cwd or log.parent,
                start_new_session=True,  # Ctrl-C is for us: servers end by stop()
            )

    @property
    def pid(self) -> int:
        """The id of its first process."""
        return self._process.pid

    def wait_for_port(self, port: int) -> None:
        """Until it accepts connections. Raises Unavailable when it ends or takes too long."""
        for _ in self._trying(f"did not listen on port {port}"):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                continue
        self.note_idle()

    def wait_for_line(self, start: str) -> str:
        """Until it has printed a line that begins so; the rest of that line."""
        for _ in self._trying(f"did not say {start!r}"):
            for line in self.log.read_text(errors="replace").splitlines():
                if line.startswith(start):
                    self.note_idle()
                    return line[len(start) :].strip()
        raise AssertionError("never reached")

    def _trying(self, failure: str) -> Iterator[None]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            yield
            if self._process.poll() is not None:
                raise Unavailable(f"ended with status {self._process.returncode}: {self.complaint}")
            time.sleep(0.02)
        raise Unavailable(f"{failure} within {START_SECONDS:.0f} s")

    @property
    def complaint(self) -> str:
        """The last line it has printed."""
        return last_line(self.log)

    def note_idle(self) -> None:
        """Remember how many processes it has while nobody is connected."""
        time.sleep(0.1)
        self._idle = len(tree(self.pid))

    def settle(self) -> list[Stat]:
        """Its processes, once those of ended sessions are gone.

        Those that don't go belong to it from now on: a server may start more workers when it has
        more to do.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while len(found := tree(self.pid)) > self._idle and time.monotonic() < deadline:
            time.sleep(0.005)
        self._idle = max(self._idle, len(found))
        return found

    def cpu(self) -> float:
        """Seconds of CPU that it has used so far, with all its children that have ended."""
        return sum(stat.cpu for stat in self.settle())

    def memory(self) -> Memory:
        """What it occupies, all its processes together."""
        return memory([stat.pid for stat in tree(self.pid)])

    def reset_peak(self) -> None:
        """Begin anew to measure the most that it has occupied."""
        for stat in tree(self.pid):
            try:
                Path(f"/proc/{stat.pid}/clear_refs").write_text("5")
            except OSError:
                pass  # it has ended; or an older kernel, and the peak is that of its whole life

    def peak(self) -> int:
        """The most bytes that it had resident since ``reset_peak``.

        Of several processes it is the sum of what each had at most, shared pages counted for each:
        no less than the truth.
        """
        found = 0
        for stat in tree(self.pid):
            try:
                status = Path(f"/proc/{stat.pid}/status").read_text()
            except OSError:
                continue  # it has just ended
            found += parse_kilobytes(status, "VmHWM")
        return found

    def stop(self) -> None:
        """End it and whatever it has started. Can be called twice."""
        if self._process.returncode is not None:
            return
        below = tree(self.pid)[1:]
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stat in below:
            still = _stat(stat.pid)
            if still is not None and still.started == stat.started:
                try:
                    os.kill(stat.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass  # just now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
