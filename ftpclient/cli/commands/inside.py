"""Commands that exist in the shell only: cd, lcd, lpwd, lls, lmkdir, source, exit."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ftpclient.cli import job_display, obstacles, records
from ftpclient.cli.app import App, Script, UsageError
from ftpclient.cli.changes import Changes
from ftpclient.cli.group import RemoteArgument, raise_for, remote_command
from ftpwire import paths
from ftpwire.command_help import Command
from ftpwire.errors import AlreadyExists, CommandError, NotFound, from_oserror
from ftpwire.foreground import run_program


@remote_command("cd")
@click.argument("directory", cls=RemoteArgument, default="/", metavar="[DIR]")
def cd_command(app: App, directory: str) -> None:
    """Change the remote directory.

    Without DIR, change to /, which is your home on the server.
    """
    client = app.client
    before = client.cwd
    if directory == "-":
        if app.shell.previous is None:
            raise CommandError("cd: no previous directory")
        app.print(paths.show(client.change_dir(app.shell.previous)))
    else:
        found = client.glob(app.pattern(directory))
        if len(found) > 1:
            raise UsageError(f"cd: {paths.show(directory)} matches {len(found)} paths")
        client.change_dir(found[0])
    app.shell.previous = before


@remote_command("lcd")
@click.argument("directory", default="~", metavar="[DIR]")
def lcd_command(app: App, directory: str) -> None:
    """Change the local directory.

    Without DIR, change to your home.
    """
    os.chdir(os.path.expanduser(directory))


@remote_command("lpwd")
def lpwd_command(app: App) -> None:
    """Print the local directory."""
    here = Path.cwd()
    if app.as_json:
        app.print_json(records.path_record("path", os.fsencode(here)))
    else:
        app.print(paths.show(str(here)))


@click.command(
    "lls",
    cls=Command,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("arguments", metavar="[PATH]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def lls_command(app: App, arguments: tuple[str, ...]) -> None:
    """List local directories with the system's ls."""
    words = [match for one in arguments for match in app.expand(one)]
    raise_for(run_program(["ls", *words], with_stdin=False))


@remote_command("lmkdir")
@click.argument("names", metavar="DIR...", nargs=-1, required=True)
@click.option(
    "-p", "parents", is_flag=True, help="Create missing parents; accept existing directories."
)
def lmkdir_command(app: App, names: tuple[str, ...], parents: bool) -> None:
    """Create local directories."""
    status = 0
    changes = Changes(app, "lmkdir")
    for name in names:
        path = os.path.expanduser(name)
        try:
            if parents:
                os.makedirs(path, exist_ok=True)
            else:
                os.mkdir(path)
        except OSError as error:
            failure = _explained(error, path)
            changes.failed(os.fsencode(path), failure, exit_code=1)
            status = 1
        else:
            changes.done(os.fsencode(path))
    changes.finish(status)


def _explained(error: OSError, path: str) -> CommandError:
    """Return the error of creating a local directory; it names what prevents that."""
    failure = from_oserror(error, paths.show(path))
    above = os.path.dirname(path)
    if isinstance(failure, AlreadyExists):
        kind = "a directory" if os.path.isdir(path) else "not a directory"
        return failure.with_text(f"{paths.show(path)}: already exists ({kind})")
    if isinstance(failure, NotFound):
        while (further := os.path.dirname(above)) and not os.path.exists(further):
            above = further
        return failure.with_text(obstacles.no_directory(paths.show(above), "lmkdir -p creates it"))
    return failure


@remote_command("source")
@click.argument("file", metavar="FILE")
def source_command(app: App, file: str) -> None:
    """Run the lines of a local file until one fails."""
    raise_for(app.run_shell(app, Script(path=file)))


@remote_command("exit")
@click.argument("status", metavar="[STATUS]", type=click.IntRange(0, 255), default=0)
@click.option("-w", "--wait", is_flag=True, help="Wait for all jobs first.")
def exit_command(app: App, status: int, wait: bool) -> None:
    """Leave the shell; quit, bye and Ctrl-D do the same.

    While jobs run, a second exit is needed, which stops them. A script waits for its jobs.
    """
    if wait and app.shell.jobs is not None:
        job_display.wait_for(app, app.shell.jobs.unseen())
    if not job_display.may_leave(app):
        raise_for(1)
    app.shell.leaving = True
    app.shell.status = status
    raise_for(status)
