"""The process that runs a job of the shell.

Lives here: all that the process does around its task. Lives elsewhere: the task (job_task.py);
starting the process, and reading what it writes (job_processes.py); running a line (running.py).

A job is a process, not a thread, because much of what a command uses belongs to the process: the
local directory, standard output, Ctrl-C, and the connection, which an interrupt stops. A job's
process has its own, can be killed at any time, and cannot take the shell with it.

It gets its task on standard input, where no other user can read it: the task contains the password
or token. After the task come orders, one byte each. The end of standard input means that the shell
has exited or was killed. The process is the leader of a session of its own, so the terminal's
Ctrl-C and Ctrl-Z don't reach it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import msgspec

from ftpclient.cli import unfinished
from ftpclient.cli.app import App, ShellState, Where
from ftpclient.cli.jobs import Report
from ftpclient.shell.job_task import Task, decoded
from ftpwire.errors import FtpError, TooMany
from ftpwire.paths import RemotePath

_STOP_SECONDS = 5.0
"""Seconds that a job gets to stop after the shell has ended."""


def main() -> None:
    """Run the job that standard input describes, and exit with its status."""
    from ftpclient import light_imports
    from ftpclient.cli import main as command_line
    from ftpwire import standard

    light_imports.load()
    orders = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    standard.open_standard_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    data = _first_line(orders)
    if not data:
        return  # the shell has ended already
    task = decoded(data)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    app = App(interactive=True)
    with app.interrupt.on_ctrl_c():
        threading.Thread(target=_follow_orders, args=(orders,), name="orders", daemon=True).start()
        status = command_line.guarded(app, lambda: _run(app, task))
    app.close()
    sys.exit(command_line.ended(app, status))


def _first_line(fd: int) -> bytes:
    """Read exactly one line: orders follow it."""
    line = bytearray()
    while (byte := os.read(fd, 1)) and byte != b"\n":
        line += byte
    return bytes(line) if byte else b""


def _follow_orders(fd: int) -> None:
    """Carry out orders until the shell has ended."""
    while os.read(fd, 1):
        _stop()
    _stop()
    time.sleep(_STOP_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _stop() -> None:
    """Interrupt this process and the local command that it runs, as Ctrl-C at a terminal does."""
    os.killpg(0, signal.SIGINT)


def _run(app: App, task: Task) -> int:
    from ftpclient.shell.expansion import check_command
    from ftpclient.shell.running import run_line

    app.shell = ShellState(batch=True, on_stdin=True, check_command=check_command)
    for name, value in task.flags.items():
        setattr(app, name, value)
    for name, text in task.settings.items():
        app.shell.settings.set(name, text)
    app.shell.aliases = task.aliases
    app.shell.where = None if task.where is None else Where(*task.where)
    reports = _Reports(task.reports)
    app.shell.job = reports.send
    app.use_address(task.server)
    client = app.new_client(saved_token=False)
    try:
        client.log_in(task.credential)
    except TooMany:
        reports.send(Report(is_busy=True))
        return FtpError.exit_code
    client.cwd = RemotePath(task.remote_directory)
    if task.is_noted:
        plaintext, aliases = task.server.plaintext, task.aliases
        app.shell.note = unfinished.note(client, plaintext, task.text, aliases)
    status = run_line(app, task.text)
    if app.shell.note is not None:
        app.shell.note.end(status)
    for operation in app.shell.operations:
        reports.send(Report(operation=operation))
    return status


class _Reports:
    """Sends reports to the shell. Several threads may do so.

    Args:
        fd: The descriptor to write to.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        os.set_inheritable(
            fd, False
        )  # no local command may keep it open: its end reports the end of this process

    def send(self, report: Report) -> None:
        """Send a report, unless the shell has ended."""
        data = msgspec.json.encode(report) + b"\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except BrokenPipeError:
                pass  # `_follow_orders` ends this process
