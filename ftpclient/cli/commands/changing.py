"""Commands that change the remote tree: mkdir, rmdir, rm, mv, cp, ln."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from ftpclient.cli import locations, obstacles, operands, operations
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.changes import Changes
from ftpclient.cli.commands.browsing import status_of
from ftpclient.cli.group import RemoteArgument, offers, raise_for, remote_command
from ftpclient.cli.rehearsal import dry_run_option
from ftpclient.transfer.sources import Sources, check_name, each_once
from ftpwire import paths
from ftpwire.command_help import Option
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotFound,
    SafetyLimit,
)
from ftpwire.job_end import CANCELLED
from ftpwire.messages import Failed, Stat
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from ftpclient.cli.planning import Plan

_Answer = TypeVar("_Answer")


@remote_command("mkdir")
@click.argument("names", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@click.option(
    "-p", "parents", is_flag=True, help="Create missing parents; accept existing directories."
)
@click.option(
    "-m", "mode", default="755", metavar="OCTAL", help="Set the mode, in octal (default: 755)."
)
def mkdir_command(app: App, names: tuple[str, ...], parents: bool, mode: str) -> None:
    """Create directories."""
    try:
        bits = int(mode, 8)
    except ValueError:
        raise UsageError(f"{mode!r} is not an octal mode") from None
    if bits & ~(0o777 | stat.S_ISGID):
        raise UsageError(f"{mode}: the server keeps no setuid or sticky bit")
    changes = Changes(app, "mkdir")

    def make(path: RemotePath) -> None:
        with obstacles.named(app, path, "mkdir -p creates it", existing=""):
            app.client.make_dir(path, parents=parents, mode=bits & 0o777)
        if bits & stat.S_ISGID:
            app.client.set_attributes(path, setgid=True)
        changes.done(path)

    changes.finish(_for_each_exactly(app, names, make, changes))


def _for_each_exactly(
    app: App, names: tuple[str, ...], action: Callable[[RemotePath], None], changes: Changes
) -> int:
    """Run an action for all names, which are not patterns, and return the exit status."""
    status = 0
    client = app.client
    for name in names:
        path: RemotePath | None = None
        try:
            path = client.resolve(name)
            action(path)
        except CommandError as error:
            changes.failed(path, error)
            status = error.exit_code if len(names) == 1 else 1
        else:
            app.flush()
    return status


@remote_command("rm", final="purge")
@click.argument("patterns", cls=RemoteArgument, metavar="PATH...", nargs=-1, required=True)
@click.option(
    "-r", "--recursive", cls=Option, also=("-R",), is_flag=True, help="Recurse into directories."
)
@click.option("-f", "--force", is_flag=True, help="Ignore paths that do not exist, and never ask.")
@click.option("--purge", is_flag=True, help="Purge, bypassing the trash: this cannot be undone.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before purging.")
@dry_run_option
def rm_command(
    app: App,
    patterns: tuple[str, ...],
    recursive: bool,
    force: bool,
    purge: bool,
    yes: bool,
    dry_run: bool,
) -> None:
    """Remove files, and directories with -r.

    Removed files go to the trash of the server, where it keeps one: undo brings them back. If one
    of several paths does not exist, nothing is removed (but see -f).

    At a terminal, rm asks before it purges more than three paths, or anything with -r.
    """
    found, unseen, missing = _named(app, "rm", patterns)
    changes = Changes(app, "remove")
    if not force:
        # a single path needs no check: removing it fails if it doesn't exist
        several = len(found) + len(missing) > 1
        gone = _query(app, lambda: _missing(app, unseen)) if several else []
        there, total = len(found) - len(gone), len(found) + len(missing)
        _refuse_missing(app, [*missing, *gone], there, total)

    plan = _plan(app) if dry_run else None
    if plan is None and not (force or yes):
        _confirm_final(app, found, recursive=recursive, purge=purge)
    trash = operations.TrashRemark(app)

    def remove(path: RemotePath) -> None:
        try:
            if plan is not None:
                plan.remove(path, recursive=recursive)
                return
            removed = app.client.remove(
                path, recursive=recursive, final=purge, file_only=not recursive
            )
        except IsADirectory as error:
            text = f"{paths.show(path)}: is a directory (-r removes it, rmdir an empty one)"
            raise error.with_text(text) from None
        except NotFound as error:
            if not force:
                raise
            changes.skipped(path, None, error)
            return
        trash.removed(removed)
        changes.removed(path, removed)
        if app.verbose and not app.as_json:
            count = removed.files + removed.directories
            app.print(f"removed {paths.show(path)}" + (f" ({count} in all)" if count else ""))

    status = _for_each_found(app, found, [], remove, changes)
    if plan is not None:
        plan.finish(status)
        raise_for(status)
    trash.finish()
    changes.finish(status)


_MANY = 3
"""Paths that may be purged without a question."""


def _confirm_final(app: App, found: list[RemotePath], *, recursive: bool, purge: bool) -> None:
    """Ask before directories or many files are purged. Raises SafetyLimit."""
    if not found or not app.can_ask or app.shell.batch or not (recursive or len(found) > _MANY):
        return
    if not purge and not _query(app, lambda: operations.are_final(app)):
        return
    from ftpclient.cli import proposal

    first = [proposal.remote_row(app, path) for path in sorted(found)[: proposal.SHOWN]]
    proposal.show(app, first, len(found))
    what = paths.show(found[0]) if len(found) == 1 else f"{len(found):,} paths"
    contents = f" and everything in {'it' if len(found) == 1 else 'them'}" if recursive else ""
    if not app.yes_or_no(f"Purge {what}{contents} (yes/no)? "):
        raise SafetyLimit(CANCELLED)


def _query(app: App, ask: Callable[[], _Answer]) -> _Answer:
    """Ask the server something before any change, again if the connection is lost."""
    from ftpclient.cli.printer import Printer
    from ftpclient.transfer.retry import query

    return query(app.client, Printer(app), ask)


def _plan(app: App) -> Plan:
    """Return the dry run of a command."""
    from ftpclient.cli.planning import Plan

    return Plan(app)


def _named(
    app: App, command: str, patterns: tuple[str, ...]
) -> tuple[list[RemotePath], list[RemotePath], list[CommandError]]:
    """Find the paths that a command is to remove, before it removes any.

    Returns:
        The paths; those of them that may not exist, as they are plain names; and an error for
        each pattern that matches nothing.

    Raises:
        UsageError: One of the paths is protected.
    """
    found: list[RemotePath] = []
    unseen: list[RemotePath] = []
    missing: list[CommandError] = []
    for pattern in patterns:
        try:
            matches = _query(app, partial(app.client.glob, app.pattern(pattern)))
        except NotFound as error:
            missing.append(error)
            continue
        for path in matches:
            _check_unprotected(app, command, pattern, path)
        found += matches
        unseen += matches if len(matches) == 1 else []
    return list(dict.fromkeys(found)), list(dict.fromkeys(unseen)), missing


def _check_unprotected(app: App, command: str, typed: str, path: RemotePath) -> None:
    """Refuse to remove or move the home, the current directory or one that contains it.

    As in POSIX, an operand that ends in ``.`` or ``..`` is also refused.

    Raises UsageError.
    """
    cwd = app.client.cwd
    if path == paths.ROOT:
        reason = "it is your home"
    elif path == cwd:
        reason = "it is the current directory"
    elif cwd.startswith(path + b"/"):
        reason = "it contains the current directory"
    elif paths.name_of(paths.from_text(typed)) in (b".", b".."):
        reason = f"write {paths.show(path)} instead"
    else:
        return
    raise UsageError(f"{paths.show(typed)}: {command} refuses this path: {reason}")


def _missing(app: App, unseen: list[RemotePath]) -> list[CommandError]:
    """Return an error for each path that doesn't exist. It takes a single round trip."""
    client = app.client
    missing: list[CommandError] = []
    connection = client.connection
    connection.ask_ahead(*map(Stat, unseen))
    try:
        for path in unseen:
            try:
                client.stat(path)
            except (NotFound, NotADirectory) as error:
                missing.append(error)
            except CommandError:
                pass  # removing it will report the error
    finally:
        connection.forget_ahead()
    return missing


def _refuse_missing(app: App, missing: list[CommandError], there: int, total: int) -> None:
    """If paths are missing, report them and that nothing was removed, and end the command."""
    if not missing:
        return
    hint = f"nothing was removed ({there} of {total} paths exist; -f removes those)"
    if there and len(missing) == 1:
        app.complain(missing[0].with_text(f"{missing[0]}; {hint}"))
    else:
        for error in missing:
            app.complain(error)
        if there:
            app.complain(NotFound(hint))
    raise_for(NotFound.exit_code)


def _for_each_found(
    app: App,
    found: Sequence[RemotePath],
    missing: Sequence[CommandError],
    action: Callable[[RemotePath], None],
    changes: Changes,
) -> int:
    """Run an action for found paths and report the missing ones; return the exit status."""
    failures: list[CommandError] = []
    for path in found:
        try:
            action(path)
        except CommandError as error:
            failures.append(error)
            changes.failed(path, error)
    for one in missing:
        changes.failed(None, one)
    codes = [one.exit_code for one in (*failures, *missing)]
    return status_of(codes, len(found) + len(missing))


@remote_command("rmdir")
@click.argument("patterns", cls=RemoteArgument, metavar="DIR...", nargs=-1, required=True)
def rmdir_command(app: App, patterns: tuple[str, ...]) -> None:
    """Remove empty directories."""
    found, _, missing = _named(app, "rmdir", patterns)
    changes = Changes(app, "rmdir")

    def remove(path: RemotePath) -> None:
        if _query(app, lambda: app.client.stat(path)).type != "dir":
            raise NotADirectory(f"{paths.show(path)}: not a directory (rm removes files)")
        app.client.remove(path)
        changes.done(path, deleted=1)
        if app.verbose and not app.as_json:
            app.print(f"removed {paths.show(path)}")

    changes.finish(_for_each_found(app, found, missing, remove, changes))


@remote_command("mv")
@click.argument(
    "arguments",
    metavar="SOURCE... TARGET",
    nargs=-1,
    required=True,
    shell_complete=offers("remote_paths"),
)
@operands.target_options
@operands.no_clobber_option
@click.option(
    "-f", "--force", is_flag=True, hidden=True, help="Do nothing: files are replaced in any case."
)
@dry_run_option
def mv_command(
    app: App,
    arguments: tuple[str, ...],
    directory: str | None,
    exactly: bool,
    no_clobber: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Move or rename files and directories on the server.

    `mv a b` moves a into b if b is a directory; with -T it fails then.
    """
    named = operands.split(arguments, directory, exactly).all_taken(app)
    plan = _plan(app) if dry_run else None
    changes = Changes(app, "move")

    def move(source: RemotePath, to: RemotePath) -> None:
        if plan is not None:
            plan.move(source, to, no_clobber=no_clobber)
            return
        try:
            with obstacles.named(app, to):
                app.client.move(source, to, overwrite=not no_clobber)
        except AlreadyExists as error:
            if not no_clobber:
                raise
            app.say(f"ftp: skipped: {paths.show(to)}: exists")
            changes.skipped(source, to, error)
        else:
            changes.done(source, to)

    check = partial(_check_unprotected, app, "mv")
    trash = operations.TrashRemark(app)

    def moved() -> None:
        trash.finish(replaced=plan is None and not no_clobber)

    _for_each_into(
        app, named, move, changes, no_clobber=no_clobber, check=check, plan=plan, ended=moved
    )


@remote_command("cp")
@click.argument(
    "arguments",
    metavar="SOURCE... TARGET",
    nargs=-1,
    required=True,
    shell_complete=offers("remote_paths"),
)
@operands.target_options
@operands.recursive_option
@operands.no_clobber_option
@click.option("--links", is_flag=True, help="Copy a symbolic link itself, not what it points to.")
@click.option(
    "-f",
    "-p",
    "--force",
    is_flag=True,
    hidden=True,
    help="Do nothing: files are replaced in any case.",
)
@dry_run_option
def cp_command(
    app: App,
    arguments: tuple[str, ...],
    directory: str | None,
    exactly: bool,
    recursive: bool,
    no_clobber: bool,
    links: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Copy files and directories on the server.

    `cp -r a b` copies a as b, or as b/a if b already exists; with -T, always as b.
    """
    named = operands.split(arguments, directory, exactly).all_taken(app)
    plan = _plan(app) if dry_run else None
    changes = Changes(app, "copy")

    def copy(source: RemotePath, to: RemotePath) -> None:
        if plan is not None:
            plan.copy(source, to, no_clobber=no_clobber, recursive=recursive, links=links)
            return
        try:
            with obstacles.named(app, to):
                copied = app.client.copy(
                    source, to, recursive=recursive, overwrite=not no_clobber, links=links
                )
        except AlreadyExists as error:
            if not no_clobber:
                raise
            app.say(f"ftp: skipped: {paths.show(to)}: exists")
            changes.skipped(source, to, error)
            return
        failed = [p for p in copied.problems if not (no_clobber and p.code == "exists")]
        for problem in failed:
            text = problem.message
            if not text.startswith("/"):  # the message doesn't name the path
                text = f"{paths.show(paths.child(to, problem.path))}: {text}"
            app.complain(Failed(problem.code, text).to_error())
        more = copied.more_problems
        if no_clobber:  # both counts are 0 from an older server
            more -= max(0, copied.skipped - (len(copied.problems) - len(failed)))
        if more > 0:
            app.complain(CommandError(f"{paths.show(source)}: {more} more could not be copied"))
        if failed or more > 0:
            raise CommandError(f"{paths.show(source)}: not copied completely")
        count = copied.files + copied.directories
        changes.done(source, to, size=copied.size_bytes, more={"count": count})

    _for_each_into(app, named, copy, changes, no_clobber=no_clobber, plan=plan)


@remote_command("ln")
@click.argument(
    "arguments",
    metavar="TARGET... NAME",
    nargs=-1,
    required=True,
    shell_complete=offers("remote_paths"),
)
@click.option(
    "-s",
    "--symbolic",
    is_flag=True,
    help="Make symbolic links (required; there are no hard links).",
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing file or link.")
@click.option(
    "-n",
    "--no-dereference",
    "exactly",
    cls=Option,
    also=("-T",),
    is_flag=True,
    help="Treat NAME as the link itself, even if it is a directory.",
)
def ln_command(
    app: App, arguments: tuple[str, ...], symbolic: bool, force: bool, exactly: bool
) -> None:
    """Create symbolic links to TARGET.

    The link is called NAME, or goes into the directory NAME. TARGET is stored as written and
    looked up when the link is used: from the link's directory, or from your home if it begins
    with /.
    """
    if not symbolic:
        raise UsageError("there are no hard links: ln -s makes a symbolic link, cp a copy")
    *targets, name = arguments if len(arguments) > 1 else (*arguments, ".")
    (name,) = locations.taken(app, [name])
    client = app.client
    into = not exactly and _query(app, lambda: client.is_directory(name))
    if len(targets) > 1 and not into:
        raise NotADirectory(f"{paths.show(name)}: not a directory")

    names = Sources[bytes](lambda above, name: False)
    changes = Changes(app, "link")

    def link_path_of(text: bytes) -> RemotePath:
        link_path = client.resolve(name)
        if not into:
            return link_path
        if paths.name_of(text) in (b"", b".", b".."):
            raise InvalidPath(f"{paths.show(text)}: give the link a name")
        return paths.child(link_path, paths.name_of(text))

    def link(text: bytes, link_path: RemotePath) -> None:
        if into and force:
            names.check(text, paths.name_of(text), link_path)
        with obstacles.named(app, link_path, existing="-f replaces it"):
            client.make_link(link_path, text, overwrite=force)
        names.add(text, paths.name_of(text))
        changes.done(link_path, text)
        if app.verbose and not app.as_json:
            app.print(f"{paths.show(link_path)} -> {paths.show(text)}")

    status = 0
    for target in targets:
        text = _link_text(app, target)
        link_path: RemotePath | None = None
        try:
            link_path = link_path_of(text)
            link(text, link_path)
        except CommandError as error:
            changes.failed(link_path, error, text)
            status = error.exit_code if len(targets) == 1 else 1
    changes.finish(status)


def _link_text(app: App, target: str) -> bytes:
    """Return the text of a link: its target as typed."""
    text = paths.from_text(target)
    if not app.interactive:
        return text
    from ftpclient.cli.shell_client import from_home

    return from_home(text)


def _for_each_into(
    app: App,
    named: operands.Operands,
    action: Callable[[RemotePath, RemotePath], None],
    changes: Changes,
    *,
    no_clobber: bool,
    check: Callable[[str, RemotePath], None] = lambda typed, path: None,
    plan: Plan | None = None,
    ended: Callable[[], None] = lambda: None,
) -> None:
    """Move or copy each source to its target, and end the command.

    Args:
        changes: The object to report failures to.
        check: A function that raises an error for a source, given as typed and as a path.
        plan: The dry run; None to make the changes.
        ended: A function to call after all changes, before the totals.
    """
    client = app.client
    found: list[RemotePath] = []
    for typed in named.sources:
        for path in _query(app, partial(client.glob, app.pattern(typed))):
            check(typed, path)
            found.append(path)

    def make_target() -> bool:
        several = len(found) > 1
        return client.make_target(named.target, several=several, into=named.into, make=plan is None)

    into = _query(app, make_target)
    if plan is not None and into and named.target.endswith("/"):
        plan.made = client.resolve(named.target)
    several = len(found) > 1 and not no_clobber
    found = each_once(found, app.remark)

    def is_there(above: bytes, name: bytes) -> bool:
        return bool(_query(app, lambda: client.find(paths.child(above, name))))

    names = Sources[RemotePath](is_there)
    status = 0
    for source in found:
        name = paths.name_of(source)
        to = client.target_for(source, named.target, into=into)
        try:
            if named.into is False and named.target.endswith("/"):
                is_dir = _query(app, partial(client.stat, source)).type == "dir"
                check_name(paths.from_text(named.target), is_dir)
            if several:
                names.check(source, name, to)
            action(source, to)
        except CommandError as error:
            changes.failed(source, error, to)
            status = error.exit_code if len(found) == 1 else 1
            if isinstance(error, (NotFound, AlreadyExists, IsADirectory)):
                continue  # nothing was created
        names.add(source, name)
        app.flush()
    if plan is not None:
        plan.finish(status)
        raise_for(status)
    ended()
    changes.finish(status)
