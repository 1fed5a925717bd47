"""Printing about jobs, and waiting for them in the foreground.

Lives here: what is printed when. Lives elsewhere: the texts (job_lines.py), the table of jobs
(jobs.py), printing while a line is typed (shell/above_prompt.py).
"""

from __future__ import annotations

import codecs
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ftpclient.cli import headway, job_lines, records
from ftpclient.cli.app import App
from ftpclient.cli.jobs import Job, Notice, State
from ftpclient.cli.status_line import StatusLine
from ftpwire.cells import may_color
from ftpwire.errors import CommandError, Interrupted
from ftpwire.units import human

_ROUND_SECONDS = 0.2
"""Interval for output of a job in the foreground."""


def tells_all(app: App) -> bool:
    """Return whether starts and successful ends of jobs are printed: to a user, not to a script."""
    quiet = app.quiet or app.as_json
    return not quiet and (not app.shell.batch or sys.stderr.isatty())


def print_notices(app: App) -> None:
    """Print the notices about jobs. Raises ReaderLeft with --json."""
    if app.shell.jobs is None:
        return
    for one in app.shell.jobs.take_notices(ends_are_seen=not app.shell.batch):
        print_notice(app, one)


def print_notice(app: App, one: Notice) -> None:
    """Print one notice. Raises ReaderLeft with --json."""
    if one.line or one.left_out:
        # a message with --json is an object, which a prefix would spoil
        text = one.line if app.as_json and one.line else job_lines.notice(one)
        print(text, file=sys.stderr)
    elif app.as_json:
        app.print_json(records.job_record(one.job))
    elif tells_all(app) or one.job.state is not State.DONE:
        rings = app.shell.settings.is_on("bell") and sys.stderr.isatty()
        print(job_lines.notice(one), end="\a\n" if rings else "\n", file=sys.stderr)


def show_rest(app: App, job: Job) -> None:
    """Print the results of a job that weren't shown yet. Raises ReaderLeft."""
    _print_output(app, job, job.shown, messages=False)


def show_output(app: App, job: Job) -> None:
    """Print all output of a job that is kept. Raises ReaderLeft."""
    _print_output(app, job, 0, messages=True)


def _print_output(app: App, job: Job, offset: int, *, messages: bool) -> None:
    jobs = app.shell.jobs
    assert jobs is not None, "it has the job"
    with jobs.changed:
        pieces = list(job.output.since(offset))
        missing = max(0, job.output.dropped - offset)
        job.shown = job.output.end
    if missing:
        app.remark(
            f"job {job.number}: only the last {human(job.output.end - job.output.dropped)} of its "
            "output are kept (COMMAND > FILE & keeps all)"
        )
    for is_error, data in pieces:
        if not is_error:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
        elif messages:
            sys.stdout.flush()
            sys.stderr.write(data.decode("utf-8", "backslashreplace"))
    sys.stdout.flush()


# waiting ------------------------------------------------------------------------------------


def wait_for(app: App, wanted: Sequence[Job]) -> None:
    """Wait until jobs have ended, with a line about those that run, and print notices meanwhile.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed. It doesn't reach the jobs.
    """
    jobs = app.shell.jobs
    assert jobs is not None, "it has the jobs"
    with _line(app, lambda width: job_lines.below_prompt(jobs.active(), width)):
        is_over = False
        while not is_over:
            with app.interrupt.at_once():
                is_over = jobs.wait(wanted, _ROUND_SECONDS)
            print_notices(app)
    for job in wanted:
        jobs.seen(job)


def show(app: App, job: Job) -> int:
    """Show a job in the foreground until it ends; return its status.

    Ctrl-C stops the job. With Ctrl-Z it goes on in the background, and the status is 0. Of a job
    that has ended already, print all output and the result.
    """
    jobs = app.shell.jobs
    assert jobs is not None, "it has the job"
    if not job.is_active:
        return _show_ended(app, job)
    print_notices(app)
    with jobs.changed:
        messages_from, offset = job.output.end, job.shown

    decoders = {is_error: _decoder() for is_error in (False, True)}

    def print_new() -> None:
        nonlocal offset
        at = max(offset, job.output.dropped)
        for is_error, data in jobs.take_output(job, offset):
            at += len(data)
            if not is_error or at > messages_from:
                stream = sys.stderr if is_error else sys.stdout
                stream.write(decoders[is_error].decode(data))
                stream.flush()
        offset = job.shown = at

    def text(width: int) -> str:
        known = job.headway
        return "" if known is None else headway.line(known, width, colored=has_colors)

    has_colors = app.shell.settings["color"] != "never" and may_color()
    with _ctrl_z() as back, _line(app, text):
        is_over = False
        while not is_over:
            try:
                with app.interrupt.at_once():
                    is_over = jobs.wait([job], _ROUND_SECONDS)
            except KeyboardInterrupt:
                jobs.stop(job)
            print_new()
            if back and not is_over:
                break
    if not is_over:
        app.say(job_lines.started(job))
        return 0
    jobs.seen(job)
    if job.stops > 1 and job.state is State.STOPPED:
        app.complain(Interrupted(f"job {job.number} was ended"))  # it couldn't say so itself
    elif job.state is State.DONE and job.summary:
        app.say(job.summary)
    assert job.status is not None
    return job.status


def _show_ended(app: App, job: Job) -> int:
    """Print all output that is kept of a job that has ended, and its result; return its status."""
    jobs = app.shell.jobs
    assert jobs is not None, "it has the job"
    jobs.take_output(job, job.output.end)  # its notices would repeat what follows
    print_notices(app)
    show_output(app, job)
    jobs.seen(job)
    if not app.as_json and (tells_all(app) or job.state is not State.DONE):
        print(job_lines.ended(job), file=sys.stderr)
    assert job.status is not None
    return job.status


def _decoder() -> codecs.IncrementalDecoder:
    """Return a decoder for pieces of output, which may end within a character."""
    return codecs.getincrementaldecoder("utf-8")("backslashreplace")


@contextmanager
def _ctrl_z() -> Iterator[list[int]]:
    """Yield a list that has an item once Ctrl-Z was pressed, which doesn't stop the shell then."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGTSTP, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGTSTP, before)


@contextmanager
def _line(app: App, text: Callable[[int], str]) -> Iterator[None]:
    """Draw a line below the output, if that is for a user at a terminal."""
    draws = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "")
    if app.quiet or app.as_json or not draws:
        yield
        return
    with StatusLine(text):
        yield


# leaving ------------------------------------------------------------------------------------


def may_leave(app: App) -> bool:
    """Return whether the shell can be left; if that would stop jobs, it has to be asked twice."""
    jobs = [] if app.shell.jobs is None else app.shell.jobs.active()
    if not jobs or not app.shell.guards_jobs or app.shell.warned_before:
        return True
    app.shell.warned = True
    app.complain(CommandError(job_lines.warning(jobs)))
    return False
