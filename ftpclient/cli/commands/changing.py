"""Changing the remote tree: mkdir, rmdir, rm, mv, cp, ln."""

from __future__ import annotations

from collections.abc import Callable

import click

from ftpclient.cli.app import App, UsageError
from ftpclient.cli.commands.browsing import for_each
from ftpclient.cli.group import raise_for, remote_command
from ftpwire import paths
from ftpwire.errors import AlreadyExists, CommandError, InvalidPath, NotADirectory, NotFound
from ftpwire.messages import Failed
from ftpwire.paths import RemotePath


@remote_command("mkdir")
@click.argument("names", metavar="PATH...", nargs=-1, required=True)
@click.option("-p", "parents", is_flag=True, help="Parents too; content when it exists.")
@click.option("-m", "mode", default="755", metavar="OCTAL", help="Mode. Default: 755.")
def mkdir_command(app: App, names: tuple[str, ...], parents: bool, mode: str) -> None:
    """Make directories."""
    try:
        bits = int(mode, 8)
    except ValueError:
        raise UsageError(f"{mode!r} is not an octal mode") from None

    def make(path: RemotePath) -> None:
        app.client.make_dir(path, parents=parents, mode=bits)

    raise_for(_for_each_exactly(app, names, make))


def _for_each_exactly(
    app: App, names: tuple[str, ...], action: Callable[[RemotePath], None]
) -> int:
    """As `for_each`, with names that are no patterns."""
    status = 0
    client = app.client
    for name in names:
        try:
            action(client.resolve(name))
        except CommandError as error:
            app.complain(error)
            status = error.exit_code if len(names) == 1 else 1
        else:
            app.flush()
    return status


@remote_command("rm", meant={"-i": "ls first: rm asks nothing", "-d": "rmdir"})
@click.argument("patterns", metavar="PATH...", nargs=-1, required=True)
@click.option("-r", "-R", "--recursive", is_flag=True, help="Directories with their contents.")
@click.option("-f", "--force", is_flag=True, help="Content when it doesn't exist.")
def rm_command(app: App, patterns: tuple[str, ...], recursive: bool, force: bool) -> None:
    """Remove files and empty directories, or whole trees with -r."""

    def remove(path: RemotePath) -> None:
        try:
            removed = app.client.remove(path, recursive=recursive)
        except NotFound:
            if not force:
                raise
            return
        if app.verbose:
            count = removed.files + removed.directories
            app.print(f"removed {paths.show(path)} ({count} in all)")

    if force:
        patterns = tuple(one for one in patterns if _matches(app, one))
    raise_for(for_each(app, patterns, remove))


def _matches(app: App, pattern: str) -> bool:
    try:
        return bool(app.client.glob(app.pattern(pattern)))
    except NotFound:
        return False


@remote_command("rmdir")
@click.argument("patterns", metavar="DIR...", nargs=-1, required=True)
def rmdir_command(app: App, patterns: tuple[str, ...]) -> None:
    """Remove empty directories."""

    def remove(path: RemotePath) -> None:
        if app.client.stat(path).type != "dir":
            raise NotADirectory(f"{paths.show(path)}: not a directory (rm removes files)")
        app.client.remove(path)
        if app.verbose:
            app.print(f"removed {paths.show(path)}")

    raise_for(for_each(app, patterns, remove))


@remote_command("mv", meant={"-i": "-n", "-u": "cp, or sync --update", "-t": "DIR as the last"})
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("target")
@click.option("-n", "--no-clobber", is_flag=True, help="Never replace a file.")
@click.option("-f", "--force", is_flag=True, hidden=True)
def mv_command(
    app: App, sources: tuple[str, ...], target: str, no_clobber: bool, force: bool
) -> None:
    """Rename, or move into a directory."""

    def move(source: RemotePath, to: RemotePath) -> None:
        try:
            app.client.move(source, to, overwrite=not no_clobber)
        except AlreadyExists:
            if not no_clobber:
                raise
            app.say(f"ftp: skipped: {paths.show(to)}: exists")

    raise_for(_for_each_into(app, sources, target, move))


@remote_command("cp", meant={"-i": "-n", "-u": "sync --update", "-t": "DIR as the last"})
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("target")
@click.option(
    "-r",
    "-R",
    "-a",
    "--recursive",
    "--archive",
    is_flag=True,
    help="Directories with their contents.",
)
@click.option("-n", "--no-clobber", is_flag=True, help="Never replace a file.")
@click.option("-f", "-p", "--force", is_flag=True, hidden=True)
def cp_command(
    app: App,
    sources: tuple[str, ...],
    target: str,
    recursive: bool,
    no_clobber: bool,
    force: bool,
) -> None:
    """Copy on the server."""

    def copy(source: RemotePath, to: RemotePath) -> None:
        try:
            copied = app.client.copy(source, to, recursive=recursive, overwrite=not no_clobber)
        except AlreadyExists:
            if not no_clobber:
                raise
            app.say(f"ftp: skipped: {paths.show(to)}: exists")
            return
        failed = [p for p in copied.problems if not (no_clobber and p.code == "exists")]
        for problem in failed:
            app.complain(Failed(problem.code, problem.message).to_error())
        if failed:
            raise CommandError(f"{paths.show(source)}: not all of it could be copied")

    raise_for(_for_each_into(app, sources, target, copy))


@remote_command("ln", meant={"-r": "-s, and a TARGET relative to NAME's directory"})
@click.argument("arguments", metavar="TARGET... NAME", nargs=-1, required=True)
@click.option("-s", "--symbolic", is_flag=True, help="Make symbolic links: the only ones here.")
@click.option("-f", "--force", is_flag=True, help="Replace a file or link that is there.")
@click.option(
    "-n", "-T", "--no-dereference", "exactly", is_flag=True, help="NAME exactly, never inside it."
)
def ln_command(
    app: App, arguments: tuple[str, ...], symbolic: bool, force: bool, exactly: bool
) -> None:
    """Make symbolic links to TARGET.

    The link is NAME, or goes into the directory NAME. TARGET is stored as it is written, and
    looked up when the link is used: from its directory, or from your home if it begins with /.
    """
    if not symbolic:
        raise UsageError("there are no hard links here: ln -s makes a symbolic link, cp a copy")
    *targets, name = arguments if len(arguments) > 1 else (*arguments, ".")
    client = app.client
    into = not exactly and client.is_directory(name)
    if len(targets) > 1 and not into:
        raise NotADirectory(f"{paths.show(name)}: not a directory")

    def link(target: str) -> None:
        text = paths.from_text(target)
        place = client.resolve(name)
        if into:
            if paths.name_of(text) in (b"", b".", b".."):
                raise InvalidPath(f"{paths.show(text)}: give the link a name")
            place = paths.child(place, paths.name_of(text))
        try:
            client.make_link(place, text, overwrite=force)
        except AlreadyExists:
            raise AlreadyExists(f"{paths.show(place)}: exists (-f replaces it)") from None
        if app.verbose:
            app.print(f"{paths.show(place)} -> {paths.show(text)}")

    status = 0
    for target in targets:
        try:
            link(target)
        except CommandError as error:
            app.complain(error)
            status = error.exit_code if len(targets) == 1 else 1
    raise_for(status)


def _for_each_into(
    app: App,
    sources: tuple[str, ...],
    target: str,
    action: Callable[[RemotePath, RemotePath], None],
) -> int:
    client = app.client
    found = [path for source in sources for path in client.glob(app.pattern(source))]
    into = client.make_target(target, several=len(found) > 1)
    status = 0
    for source in found:
        try:
            action(source, client.place_for(source, target, into=into))
        except CommandError as error:
            app.complain(error)
            status = error.exit_code if len(found) == 1 else 1
        else:
            app.flush()
    return status
