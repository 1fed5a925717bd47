"""Servers as child processes: starting and stopping them, their CPU time and their memory.

Lives here: everything that is read from /proc, and stopping every server that was started.
Lives elsewhere: which servers (peers/), running the timed clients (measure.py).

Only processes that were started here are ever signalled, by their ID: the child itself, and
descendants that are still the same processes after it has ended.
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
"""The share of one core that other processes may use in CALM_SECONDS on a calm machine."""


class Unavailable(Exception):
    """A peer cannot take part. The text says why, in one line."""


@dataclass(frozen=True)
class Stat:
    """The state of a process in /proc/PID/stat.

    Attributes:
        cpu: CPU seconds of its own, and of its children that it has waited for.
        started: Ticks since boot; together with the ID this identifies a process.
    """

    pid: int
    parent: int
    cpu: float
    started: int


def parse_stat(text: str) -> Stat:
    """Parse a line of /proc/PID/stat. The program's name may contain anything."""
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
    """Return a process and all its living descendants."""
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
    """Return the CPU seconds that all cores have not been idle, from the text of /proc/stat.

    Time that the hypervisor took away counts, too: it is not available to us either.
    """
    values = [int(value) for value in text.splitlines()[0].split()[1:9]]
    idle = values[3] + values[4]  # idle, iowait
    return (sum(values) - idle) * TICK


def busy() -> float:
    """Return the CPU seconds that the whole machine has spent so far."""
    return parse_busy(Path("/proc/stat").read_text())


def wait_for_calm(patience: float) -> None:
    """Wait until the machine is nearly idle, or ``patience`` seconds have passed."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = busy()
        time.sleep(CALM_SECONDS)
        if busy() - before < CALM_SHARE * CALM_SECONDS:
            return


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree in bytes: resident, and with shared pages divided up."""

    resident: int
    proportional: int


def parse_kilobytes(text: str, name: str) -> int:
    """Return the bytes in the line ``Name:   123 kB`` of a file in /proc; 0 without such a line."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def memory(pids: Sequence[int]) -> Memory:
    """Return the memory of these processes together."""
    resident = proportional = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # the process has just ended
        resident += parse_kilobytes(text, "Rss")
        proportional += parse_kilobytes(text, "Pss")
    return Memory(resident, proportional)


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without settings of the caller that affect the programs."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FTP_", "FTPD_", "XDG_", "RSYNC_", "RCLONE_", "SSH_"))
        and name != "PYTHONDONTWRITEBYTECODE"  # an installed program has compiled modules
        and not name.lower().endswith("_proxy")
    }
    return kept | {"LC_ALL": "C.UTF-8"} | dict(more or {})


class Server:
    """A running server. The constructor starts it, ``stop`` stops it.

    Args:
        log: File for all three standard streams; vsftpd complains on standard input.
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
                start_new_session=True,  # Ctrl-C goes to us only: servers are ended by stop()
            )

    @property
    def pid(self) -> int:
        """The ID of its first process."""
        return self._process.pid

    def wait_for_port(self, port: int) -> None:
        """Wait until it accepts connections. Raises Unavailable if it ends or takes too long."""
        for _ in self._trying(f"did not listen on port {port}"):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                continue
        self.note_idle()

    def wait_for_line(self, start: str) -> str:
        """Wait until it has printed a line with this start. Return the rest of that line."""
        for _ in self._trying(f"did not print {start!r}"):
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
        """The last line that it has printed."""
        return last_line(self.log)

    def note_idle(self) -> None:
        """Remember the number of its processes while no client is connected."""
        time.sleep(0.1)
        self._idle = len(tree(self.pid))

    def settle(self) -> list[Stat]:
        """Wait until the processes of ended sessions are gone. Return the others.

        Processes that do not end are counted as the server's own from then on: it may start more
        workers when it has more to do.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while len(found := tree(self.pid)) > self._idle and time.monotonic() < deadline:
            time.sleep(0.005)
        self._idle = max(self._idle, len(found))
        return found

    def cpu(self) -> float:
        """Return the CPU seconds used so far, including those of ended children."""
        return sum(stat.cpu for stat in self.settle())

    def memory(self) -> Memory:
        """Return the memory of all its processes together."""
        return memory([stat.pid for stat in tree(self.pid)])

    def reset_peak(self) -> None:
        """Restart the measurement of the peak memory."""
        for stat in tree(self.pid):
            try:
                Path(f"/proc/{stat.pid}/clear_refs").write_text("5")
            except OSError:
                pass  # it has ended; or the kernel is older, and the peak is that of its lifetime

    def peak(self) -> int:
        """Return the most bytes that were resident since ``reset_peak``.

        For several processes this is the sum of their peaks, with shared pages counted for each of
        them: an upper bound.
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
        """Stop it and all processes that it has started. Can be called twice."""
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
                    pass  # it has just ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def free_port() -> int:
    """Return a port on loopback that is not in use now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
