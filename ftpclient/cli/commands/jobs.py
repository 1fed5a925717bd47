"""Commands of the shell about its jobs: jobs, wait, kill, fg, bg."""

from __future__ import annotations

import sys

import click

from ftpclient.cli import job_display, job_lines, records
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import raise_for, remote_command
from ftpclient.cli.jobs import Job
from ftpwire.cells import columns_of
from ftpwire.errors import NotFound


def _number(text: str) -> int:
    """Convert the number of a job, as ``2`` or ``%2``."""
    number = text.removeprefix("%")
    if not (number.isascii() and number.isdigit()):
        raise click.BadParameter(f"{text!r} is not the number of a job")
    return int(number)


_NUMBERS = click.argument("numbers", metavar="[N]...", nargs=-1, type=_number)


def _found(app: App, number: int) -> Job:
    if app.shell.jobs is None:
        raise NotFound(f"no job {number} (jobs lists them)")
    return app.shell.jobs.find(number)


def _active(app: App) -> list[Job]:
    return [] if app.shell.jobs is None else app.shell.jobs.active()


@remote_command("jobs")
@click.option(
    "-o", "--output", "number", type=_number, metavar="N", help="Print the output of job N."
)
def jobs_command(app: App, number: int | None) -> None:
    """List the jobs of this shell.

    `COMMAND &` starts a job. One that has ended is listed once. Of a job's output, the last MiB is
    kept.
    """
    if number is not None:
        if app.as_json:
            raise UsageError("jobs: -o and --json cannot be used together")
        job_display.show_output(app, _found(app, number))
        return
    jobs = [] if app.shell.jobs is None else app.shell.jobs.listed()
    if app.as_json:
        for job in jobs:
            app.print_json(records.job_record(job))
    elif jobs:
        width = columns_of(sys.stdout)
        if sys.stdout.isatty():
            app.print(job_lines.heading(width))
        for job in jobs:
            app.print(job_lines.row(job, width))
    elif sys.stdout.isatty():
        app.say("no jobs")


@remote_command("wait")
@_NUMBERS
@click.option("-a", "--all", "everything", is_flag=True, help="Wait for all jobs (default).")
def wait_command(app: App, numbers: tuple[int, ...], everything: bool) -> None:
    """Wait until jobs have ended.

    The exit status is that of the last job that failed, or 0. Ctrl-C ends the waiting; the jobs
    go on.
    """
    if everything and numbers:
        raise UsageError("wait: --all and N cannot be used together")
    if numbers:
        jobs = [_found(app, number) for number in numbers]
    else:
        jobs = [] if app.shell.jobs is None else app.shell.jobs.unseen()
    if jobs:
        job_display.wait_for(app, jobs)
    raise_for(next((job.status for job in reversed(jobs) if job.status), 0))


@remote_command("kill")
@_NUMBERS
@click.option("-a", "--all", "everything", is_flag=True, help="Stop all jobs.")
def kill_command(app: App, numbers: tuple[int, ...], everything: bool) -> None:
    """Stop jobs, as Ctrl-C stops a command.

    What put, get and sync transferred is kept, and the same command resumes it. A second kill
    ends a job that doesn't stop.
    """
    if everything == bool(numbers):
        raise UsageError("kill: name the jobs, or use --all")
    jobs = _active(app) if everything else [_found(app, number) for number in numbers]
    for job in jobs:
        if not job.is_active:
            raise NotFound(f"job {job.number} has ended already")
    for job in jobs:
        assert app.shell.jobs is not None, "it has the job"
        app.shell.jobs.stop(job)


@remote_command("fg")
@click.argument("number", metavar="[N]", required=False, type=_number)
def fg_command(app: App, number: int | None) -> None:
    """Show a job in the foreground until it ends.

    Without N, the one that was started last. Ctrl-C stops the job, and Ctrl-Z leaves it in the
    background. Of a job that has ended, print the output and the result. The exit status is that
    of the job.
    """
    if number is not None:
        job = _found(app, number)
    elif unseen := [] if app.shell.jobs is None else app.shell.jobs.unseen():
        job = max(unseen, key=lambda one: one.started)
    else:
        raise NotFound("fg: no job runs (fg N shows one that has ended)")
    raise_for(job_display.show(app, job))


@remote_command("bg")
@click.argument("numbers", metavar="[N]...", nargs=-1, type=_number)
def bg_command(app: App, numbers: tuple[int, ...]) -> None:
    """Do nothing: jobs always run in the background; fg shows one."""
    for number in numbers:
        _found(app, number)
    app.say("jobs run in the background already: fg shows one")
