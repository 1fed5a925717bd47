"""Unfinished transfers of the shell: those that were stopped, or lost with their process.

Lives here: the file, noting a transfer while it runs, the reminder when a shell starts.
Lives elsewhere: the command (commands/unfinished.py), running one as a job (shell/background.py);
kept uploads, which are the server's (commands/kept.py); notes about the targets of directories
(transfer/resume_notes.py).

The file has one JSON object per line, without secrets. A transfer of more than 4 MiB is written
there when it begins, and removed when it ends, unless it was stopped or lost its connection. The
same command on the same server and directories is the same transfer, so repeating it replaces
the entry, and removes it when it is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ftpclient.connection import files
from ftpwire import paths
from ftpwire.errors import ConnectionLost, Interrupted

if TYPE_CHECKING:
    from ftpclient.client import Client

LARGE = 4 * 1024 * 1024
"""Bytes from which on a transfer is noted."""
MOST = 100
"""The number of transfers that are kept; the oldest go first."""
_DAYS = 30
_RESUMABLE = (ConnectionLost.exit_code, Interrupted.exit_code)
"""Exit statuses after which the same command goes on."""
_NOTHING_DONE = 2
"""The exit status of a command that was refused, e.g. because a job cannot ask its question."""


class Transfer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An unfinished transfer.

    Attributes:
        server: The address, with the user.
        plaintext: True if it is without TLS.
        directory: The remote directory.
        local_directory: The local directory.
        words: The line of the shell.
        when: When it began, in seconds since 1970.
        aliases: The aliases of the shell.
        process: The process that runs it; 0 if it has ended.
        born: What tells this process from a later one with the same number.
        number: Its number in the list, which it keeps; 0 before it is added.
    """

    server: str
    directory: str
    local_directory: str
    words: str
    when: int
    plaintext: bool = False
    aliases: dict[str, str] = {}
    process: int = 0
    born: str = ""
    number: int = 0

    def __post_init__(self) -> None:
        # msgspec reports this as an invalid line: a damaged file must not stop the shell
        for text in (self.server, self.directory, self.local_directory, self.words):
            if b"\0" in os.fsencode(text):
                raise ValueError("a NUL byte")
        date.fromtimestamp(self.when)

    @property
    def key(self) -> str:
        """The same for transfers by the same command."""
        parts = (self.server, self.directory, self.local_directory, self.words)
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def is_running(self) -> bool:
        """True if its process still runs."""
        return self.process != 0 and _born(self.process) == self.born != ""


def _born(process: int) -> str:
    """Return when a process was started, as text; empty if there is none, or no /proc."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Transfers:
    """The file of unfinished transfers. Several shells and jobs may change it at the same time.

    Args:
        path: The file; None for the user's own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or files.state_directory() / "unfinished.jsonl"

    def unfinished(self) -> list[Transfer]:
        """Return those that don't run, oldest first."""
        return [one for one in self._read() if not one.is_running]

    def add(self, transfer: Transfer) -> None:
        """Add or replace a transfer, unless another process runs it now. Raises OSError."""

        def added(known: list[Transfer]) -> list[Transfer]:
            others = (one for one in known if one.process not in (transfer.process, os.getpid()))
            if any(one.key == transfer.key and one.is_running for one in others):
                return known
            number = next((one.number for one in known if one.key == transfer.key), 0)
            new = msgspec.structs.replace(transfer, number=number or _next_number(known))
            return [*_without(known, transfer), new]

        self._change(added)

    def remove(self, transfer: Transfer) -> None:
        """Remove a transfer, if it is there. Raises OSError."""
        if any(one.key == transfer.key for one in self._read()):
            self._change(lambda known: _without(known, transfer))

    def _change(self, change: Callable[[list[Transfer]], list[Transfer]]) -> None:
        with files.locked(self._path):
            wanted = change(self._read())[-MOST:]
            lines = (json.dumps(msgspec.to_builtins(one)) + "\n" for one in wanted)
            files.write_private(self._path, "".join(lines))

    def _read(self) -> list[Transfer]:
        try:
            if not files.is_private(self._path.stat()):
                return []  # others may have written commands into it
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return []
        oldest = time.time() - _DAYS * 86400
        parsed = [one for one in map(_parsed, lines) if one is not None and one.when >= oldest]
        return _numbered(parsed)


def _without(known: list[Transfer], transfer: Transfer) -> list[Transfer]:
    return [one for one in known if one.key != transfer.key]


def _next_number(known: list[Transfer]) -> int:
    """Return a number that no transfer of the list has."""
    return 1 + max((one.number for one in known), default=0)


def _numbered(found: list[Transfer]) -> list[Transfer]:
    """Return the transfers, with new numbers for those that have none of their own."""
    known: list[Transfer] = []
    for one in found:
        if one.number < 1 or any(one.number == other.number for other in known):
            one = msgspec.structs.replace(one, number=_next_number(found + known))
        known.append(one)
    return known


def _parsed(line: bytes) -> Transfer | None:
    """Return the transfer in a line; None for a line that is damaged, or only in part there."""
    try:
        return msgspec.convert(json.loads(line), Transfer)
    except (ValueError, OverflowError, OSError, msgspec.ValidationError):
        return None


class Note:
    """The note about one command while it runs.

    Args:
        transfer: What would be unfinished.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._has_begun = False

    def begin(self, size: int) -> None:
        """Note the transfer if it is large. Any thread may call this."""
        if size <= LARGE or self._has_begun:
            return
        self._has_begun = True
        process = os.getpid()
        running = msgspec.structs.replace(self._transfer, process=process, born=_born(process))
        try:
            Transfers().add(running)
        except OSError:
            pass  # nothing can be written there: the transfer itself is not affected

    def end(self, status: int) -> None:
        """Note the end of the command."""
        if status == _NOTHING_DONE:
            return
        is_resumable = status in _RESUMABLE
        try:
            if is_resumable and self._has_begun:
                Transfers().add(self._transfer)
            elif not is_resumable:
                Transfers().remove(self._transfer)
        except OSError:
            pass  # as above


def note(client: Client, plaintext: bool, words: str, aliases: Mapping[str, str]) -> Note:
    """Return a note about a line with a transfer, without a password."""
    transfer = Transfer(
        server=_server_of(client),
        plaintext=plaintext,
        directory=paths.to_text(client.cwd),
        local_directory=os.getcwd(),
        words=words,
        when=int(time.time()),
        aliases=dict(aliases),
    )
    return Note(transfer)


def _server_of(client: Client) -> str:
    return str(client.address._replace(user=client.user))


def is_of(client: Client | None, transfer: Transfer) -> bool:
    """Return whether a transfer belongs to the server and the user of a client."""
    return client is not None and transfer.server == _server_of(client)


def reminder(client: Client) -> str:
    """Return how many transfers to a server are unfinished, as text; empty if none is."""
    found = [one for one in Transfers().unfinished() if is_of(client, one)]
    if not found:
        return ""
    days = {date.fromtimestamp(one.when) for one in found}
    of_day = f" of {_day(days.pop())}" if len(days) == 1 else ""
    if len(found) == 1:
        return f"1 transfer{of_day} isn't finished: resume"
    return f"{len(found)} transfers{of_day} aren't finished: resume"


def _day(day: date) -> str:
    days = (date.today() - day).days
    return {0: "today", 1: "yesterday"}.get(days, f"{day:%b} {day.day}")
