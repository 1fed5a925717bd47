"""The task of the process of a job.

Lives here: the task, and the orders after it. Lives elsewhere: creating it (background.py), sending
it (job_processes.py), doing it (job_child.py).
"""

from __future__ import annotations

import json

import msgspec

from ftpclient.connection.credentials import Credential
from ftpclient.connection.servers import Server

STOP = b"s"
"""The order to stop as after Ctrl-C."""


class Task(msgspec.Struct):
    """The work of a job's process, and all that it needs for that.

    Attributes:
        text: The line of the shell.
        server: The server.
        credential: What to log in with.
        remote_directory: The remote directory.
        reports: The descriptor to which it writes reports.
        flags: Attributes of `App` and their values.
        settings: The values changed by `set`.
        aliases: The aliases.
        where: File and line of the line in a script.
        is_noted: True if `resume` lists the transfer while it is unfinished.
    """

    text: str
    server: Server
    credential: Credential
    remote_directory: bytes
    flags: dict[str, str | bool | None]
    settings: dict[str, str]
    aliases: dict[str, str]
    where: tuple[str, int] | None = None
    is_noted: bool = False
    reports: int = -1


def encoded(task: Task) -> bytes:
    """Return a task as one line. (msgspec's JSON cannot hold names that aren't UTF-8.)"""
    return json.dumps(msgspec.to_builtins(task)).encode("ascii") + b"\n"


def decoded(line: bytes) -> Task:
    """Return the task in a line."""
    return msgspec.convert(json.loads(line), Task)
