"""Starting jobs from a line of the shell, and leaving a shell that has some.

Lives here: which commands can be jobs, what a job takes over from the shell, the end of a shell or
a script. Lives elsewhere: the table of jobs (cli/jobs.py), their processes (job_processes.py),
printing (cli/job_display.py), notices above a prompt (above_prompt.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

import click

from ftpclient.cli import job_display, job_lines, main
from ftpclient.cli.aliases import ALIASES
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import RESUMED, WITHOUT_OUTPUT
from ftpclient.cli.jobs import LINES_AT_ONCE, LINES_OF_A_SCRIPT, Jobs
from ftpclient.cli.unfinished import Transfer
from ftpclient.client import Client
from ftpclient.connection.servers import Server
from ftpclient.shell import grammar
from ftpclient.shell.expansion import expanded
from ftpclient.shell.grammar import AndOr, Pipe
from ftpclient.shell.job_processes import JobProcesses, launcher
from ftpclient.shell.job_task import Task
from ftpclient.shell.lexer import Mistake
from ftpwire import paths, standard
from ftpwire.errors import CommandError, Interrupted

_ALLOWED = (
    *("put", "get", "sync", "check", "cp", "mv", "rm"),
    *("find", "du", "ls", "hash", "cat"),
)
_WITH_TARGET = frozenset({"put", "get", "sync", "cp", "mv"})
"""Commands with a source and a target."""
_TARGET_OPTIONS = frozenset({"-t", "--target-directory"})
_START_OVER = frozenset({"--atomic", "--no-resume", "-"})
"""Words with which a transfer does not resume; ``-`` is standard output."""
_FLAGS = ("as_json", "quiet", "verbose", "debug", "accept_key", "ca", "no_verify")
_ENDED_BY = {signal.SIGTERM: 130, signal.SIGHUP: 129}
"""Signals that end the shell, and its exit status then if they stop jobs."""


# starting -----------------------------------------------------------------------------------


def check(app: App, pipe: Pipe, name: str) -> None:
    """Refuse a command that cannot be a job. Raises UsageError.

    Args:
        name: The command's name, which isn't an alias.
    """
    if app.shell.in_rc:
        raise UsageError("an rc file cannot start jobs")
    if app.shell.job is not None:
        raise UsageError("a job cannot start jobs")
    if name in ("edit", "less"):
        raise UsageError(f"{name} {WITHOUT_OUTPUT[name].removeprefix('it ')}: it cannot be a job")
    if name not in _ALLOWED:
        raise UsageError(f"{name} cannot be a job; these can: {' '.join(_ALLOWED)}")
    if name == "cat" and pipe.redirect is None and pipe.local is None:
        raise UsageError("cat can only be a job with > FILE or | LOCAL")


def start(app: App, item: AndOr, *, is_forgiven: bool) -> None:
    """Start a job, or queue it.

    Args:
        is_forgiven: True if its failure doesn't count in a batch.

    Raises:
        UsageError, SameJob: It cannot be started.
        FtpError: Connecting, which is only done before the first log-in.
    """
    directory = bytes(_client(app).cwd)
    _start(
        app,
        item,
        directory,
        os.getcwd(),
        app.shell.aliases,
        is_forgiven=is_forgiven,
        is_noted=not app.shell.batch,
    )


def resume(app: App, transfer: Transfer) -> None:
    """Start an unfinished transfer as a job. Raises as `start`."""
    try:
        (item,) = grammar.parse(transfer.words).items
    except (Mistake, ValueError):
        raise CommandError(f"{paths.printable(transfer.words)}: is no command any more") from None
    directory = paths.from_text(transfer.directory)
    _start(app, item, directory, transfer.local_directory, transfer.aliases, is_noted=True)


def _client(app: App) -> Client:
    """Return the client, which has logged in; that may ask for the password."""
    client = app.known_client
    return app.client if client is None or client.credential is None else client


def _start(
    app: App,
    item: AndOr,
    directory: bytes,
    local_directory: str,
    aliases: Mapping[str, str],
    *,
    is_forgiven: bool = False,
    is_noted: bool,
) -> None:
    jobs = app.shell.jobs
    if jobs is None:
        raise UsageError("jobs can only be started in a shell")
    client = _client(app)
    assert client.credential is not None, "it has logged in"
    address = client.address._replace(user=client.user)
    holds_password = app.holds_password(item.text)
    where = app.shell.where
    task = Task(
        item.text,
        Server(address, app.chosen.plaintext),
        client.credential,
        directory,
        {name: getattr(app, name) for name in _FLAGS} | {"ca": app.ca and os.path.abspath(app.ca)},
        dict(app.shell.settings),
        dict(aliases),
        None if where is None else (where.file, where.line),
        is_noted=is_noted and not holds_password,
    )
    job = jobs.add(
        f"{item.first.name} …" if holds_password else item.text,
        launcher(task, local_directory),
        keys=_keys(app, item, aliases, (str(address), directory, local_directory)),
        is_forgiven=is_forgiven,
        resumes=any(_resumes(aliases, pipe) for pipe in item.pipes),
    )
    if job_display.tells_all(app):
        app.say(job_lines.started(job))


def _resumes(aliases: Mapping[str, str], pipe: Pipe) -> bool:
    """Return whether a command goes on where it was interrupted, if it is given again."""
    first, *others = (word.text for word in expanded(aliases, pipe.words))
    return ALIASES.get(first, first) in RESUMED and _START_OVER.isdisjoint(others)


def _keys(
    app: App, item: AndOr, aliases: Mapping[str, str], place: tuple[object, ...]
) -> Iterator[object]:
    """Yield what identifies the source and the target of each command."""
    for pipe in item.pipes:
        first, *others = (word.text for word in expanded(aliases, pipe.words))
        name = ALIASES.get(first, first)
        if name in _WITH_TARGET:
            yield (name, *_operands(app, name, others), *place)


def _operands(app: App, name: str, words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command that aren't options or their values, except a target's."""
    command = main.remote.get_command(click.Context(main.remote, info_name="", obj=app), name)
    assert command is not None
    of_values = {
        option
        for param in command.params
        if isinstance(param, click.Option) and not param.is_flag
        for option in param.opts
    }
    is_value = False
    for word in words:
        if not is_value and not word.startswith("-"):
            yield word
        is_value = not is_value and word in of_values - _TARGET_OPTIONS


# a shell or a script with jobs ---------------------------------------------------------------


@contextmanager
def running(app: App) -> Iterator[Jobs]:
    """Let the lines inside start jobs. At the end, stop those that still run."""
    with ExitStack() as stack:

        def open_processes() -> None:
            processes = JobProcesses(jobs)
            stack.callback(_close, app, processes)
            stack.enter_context(_ended_by_signals(jobs))

        jobs = Jobs(
            lambda: int(app.shell.settings["jobs"]),
            most_lines=LINES_OF_A_SCRIPT if app.shell.batch or app.as_json else LINES_AT_ONCE,
            operations=app.shell.operations,
            before_first=open_processes,
        )
        app.shell.jobs = jobs
        app.shell.guards_jobs = not app.shell.batch  # also in files that it sources
        app.shell.resume = lambda transfer: resume(app, transfer)
        yield jobs


def _close(app: App, processes: JobProcesses) -> None:
    try:
        processes.close()
    finally:
        job_display.print_notices(app)
        app.shell.jobs = None


@contextmanager
def _ended_by_signals(jobs: Jobs) -> Iterator[None]:
    """Let signals that end the shell stop its jobs first."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if not jobs.active():
            os.kill(os.getpid(), number)
        raise SystemExit(_ENDED_BY[signal.Signals(number)])

    caught = [number for number in _ENDED_BY if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def finish(app: App, status: int) -> int:
    """Wait for the jobs of a script; return its exit status.

    It is that of the line that failed, else that of the first job that failed and that no `wait`
    or `jobs` has reported. Ctrl-C stops the jobs.
    """
    jobs = app.shell.jobs
    if jobs is None or status in (Interrupted.exit_code, standard.READER_LEFT):
        return status  # jobs that run are stopped
    left = jobs.unseen()
    if left:
        app.close()  # the server may allow few sessions
        waited = main.guarded(app, lambda: job_display.wait_for(app, left))
        if waited:
            return status or waited
    for job in jobs.with_results():  # also of those for which a `wait` has waited
        job_display.show_rest(app, job)
    failed = [job.status for job in left if job.status and not job.is_forgiven]
    return status or (failed[0] if failed and failed[0] is not None else 0)
