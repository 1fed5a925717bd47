"""Commands about removed and replaced files: trash, versions, restore, undo."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from ftpclient import verbs
from ftpclient.cli import moments, operations, proposal, records, render, trashed
from ftpclient.cli.app import App, UsageError, command_line
from ftpclient.cli.at import at_option, version_at
from ftpclient.cli.commands.browsing import status_of
from ftpclient.cli.group import (
    RemoteArgument,
    RemoteOption,
    hint_of_others,
    in_shell,
    offers,
    raise_for,
    remote_command,
)
from ftpclient.cli.quoting import quote
from ftpclient.cli.restored import Restoring
from ftpclient.client import is_pattern, matching
from ftpclient.connection.client_id import client_id
from ftpclient.transfer import trash
from ftpclient.transfer.trash import Trashed, Version
from ftpwire import likeness, paths, trash_names
from ftpwire.cells import begun, columns_of
from ftpwire.command_help import Group
from ftpwire.errors import CommandError, IsADirectory, NotFound
from ftpwire.job_end import CANCELLED
from ftpwire.messages import InTrash, Removed, TrashedOperation
from ftpwire.paths import RemotePath
from ftpwire.units import human, parse_duration

if TYPE_CHECKING:
    from ftpclient import verbs


def conflict_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that decide what happens if something is in the way."""
    force = click.option(
        "--force", is_flag=True, help="Replace what is in the way; it goes to the trash."
    )
    beside = click.option(
        "--beside", is_flag=True, help="Restore as NAME.restored-1 where something is in the way."
    )
    return force(beside(command))


def _conflict(*, force: bool, beside: bool) -> verbs.Conflict:
    if force and beside:
        raise UsageError("--force and --beside cannot be used together")
    return "replace" if force else "beside" if beside else "skip"


# trash --------------------------------------------------------------------------------------


class _TrashGroup(Group):
    """A group that runs ``ls`` if no command follows `trash`, but nothing, options or an ID."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else "-"
        if first not in self.commands and first not in ctx.help_option_names:
            if not first.startswith("-") and not trash_names.is_id(first):
                raise click.UsageError(self._no_command(ctx, first), ctx)
            args = ["ls", *args]
        return super().parse_args(ctx, args)

    def _no_command(self, ctx: click.Context, word: str) -> str:
        from ftpclient.cli import foreign

        if meant := foreign.OF_TRASH.get(word):
            return hint_of_others(ctx, "command", f"trash {word}", meant)
        here = command_line("trash", in_shell=in_shell(ctx))
        hint = likeness.hint(word, self.commands) or f" ({here} lists them)"
        if "/" in word:
            hint = f" (to list what was at a path: {here} --path {quote(word)})"
        return f"{paths.show(word)}: neither a command of trash nor an ID{hint}"


@click.group("trash", cls=_TrashGroup)
def trash_command() -> None:
    """List, restore or purge removed and replaced files.

    Without a command, list. An operation is what one command did; its ID is the first word of its
    line in the list.
    """


@remote_command("ls")
@click.argument(
    "operation", metavar="[ID [PATH]]", required=False, shell_complete=offers("trash_ids")
)
@click.argument("path", cls=RemoteArgument, required=False, metavar="")
@click.option("-l", "long", is_flag=True, help="Show what each operation changed.")
@click.option(
    "--path",
    "below",
    cls=RemoteOption,
    also=("--user-path",),
    metavar="PATH",
    help="Show only what was at or below PATH.",
)
@click.option(
    "--since", metavar="WHEN", help="Show only operations since then: 2h, yesterday, 2030-12-31."
)
def _ls_command(
    app: App,
    operation: str | None,
    path: str | None,
    long: bool,
    below: str | None,
    since: str | None,
) -> None:
    """List operations, or the files of one.

    The newest operation comes first.
    """
    if operation is None:
        _list(app, below, _since(since), long=long)
        return
    if below is not None or since is not None:
        raise UsageError("an ID cannot be used with --path or --since")
    one, _ = _operation(app, operation)
    items = app.client.trash_items(one.name)
    if path is None:
        _show_items(app, one, items)
        return
    _list_inside(app, items, app.client.resolve(path))


def _list_inside(app: App, items: Sequence[Trashed], path: RemotePath) -> None:
    """List a directory or a file that an operation has in the trash."""
    in_trash, place = trashed.locate(items, path)
    for entry in app.client.list_dir(place, digest=app.as_json, in_trash=in_trash):
        where = paths.child(path, entry.path) if entry.path else path
        if app.as_json:
            app.print_json(records.entry_record(entry, where))
        else:
            shown = paths.show(paths.name_of(where)) + ("/" if entry.type == "dir" else "")
            app.print(render.long_line(entry, shown, human_sizes=True, digest=False))


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return moments.past(text) / 10**9
    except ValueError as error:
        raise UsageError(f"--since: {error}") from None


def _list(app: App, below: str | None, since: float | None, *, long: bool) -> None:
    client = app.client
    found = client.trash(below=below, since=since)
    shown = trashed.Operations(found if below is None and since is None else client.trash())
    items: dict[str, list[Trashed]] = {one.name: [] for one in found}
    if long:
        for item in client.trash_items(below=below):
            items.get(item.operation, []).append(item)
    columns = columns_of(sys.stdout) if sys.stdout.isatty() else None
    for one, line in zip(found, shown.lines(found, columns), strict=True):
        if long and app.as_json:
            _show_items(app, one, items[one.name])
        elif app.as_json:
            app.print_json(records.operation_record(one, shown.short[one.name]))
        else:
            app.print(line)
            _show_items(app, one, items[one.name], indent="      ")
    if not found and sys.stdout.isatty():
        app.say("the trash is empty" if below is None and since is None else "nothing found")


def _show_items(
    app: App, one: TrashedOperation, items: Sequence[Trashed], indent: str = ""
) -> None:
    for item in items:
        if app.as_json:
            app.print_json(records.trashed_record(item.item, one))
        else:
            app.print(indent + trashed.item_line(item.item))


def _operation(app: App, word: str) -> tuple[TrashedOperation, str]:
    return trashed.named_operation(word, app.client.trash(), app.command("trash"))


@remote_command("restore")
@click.argument("operation", metavar="ID", shell_complete=offers("trash_ids"))
@click.argument("words", cls=RemoteArgument, metavar="[PATH]...", nargs=-1)
@click.option("--to", "target", cls=RemoteOption, metavar="DIR", help="Restore into DIR.")
@conflict_options
def _restore_command(
    app: App,
    operation: str,
    words: tuple[str, ...],
    target: str | None,
    force: bool,
    beside: bool,
) -> None:
    """Restore files that an operation removed or replaced.

    Without PATH, restore all of them. If something is in the way of a file, skip the file.
    """
    how = _conflict(force=force, beside=beside)
    one, short = _operation(app, operation)
    restored = app.client.restore(one.name, _meant(app, one, words), target=target, conflict=how)
    way_out = _way_out(app, f"trash restore {short}") if how == "skip" else ""
    Restoring(app, one, way_out=way_out).finish(restored)


def _meant(app: App, one: TrashedOperation, words: Sequence[str]) -> list[RemotePath]:
    """Return the paths of an operation that words match. Other words are kept as paths, which may
    be inside a removed tree."""
    patterns = [app.client.resolve(app.pattern(word)) for word in words]
    known: list[RemotePath] = []
    if any(map(is_pattern, patterns)):
        known = [RemotePath(each.item.path) for each in app.client.trash_items(one.name)]
    return [
        path
        for word, pattern in zip(words, patterns, strict=True)
        for path in matching(pattern, known) or [app.client.resolve(word)]
    ]


@remote_command("get")
@click.argument("operation", metavar="ID", shell_complete=offers("trash_ids"))
@click.argument("words", metavar="[PATH] TARGET", nargs=-1, required=True)
def _get_command(app: App, operation: str, words: tuple[str, ...]) -> None:
    """Download from the trash, and leave it there."""
    if len(words) > 2:
        raise UsageError("trash get takes an ID, a PATH and a TARGET")
    *path, target = words
    found = _find(app, operation, path[0] if path else None)
    if target == "-":
        _pour(app, found)
        return
    from ftpclient.cli.progress import listening

    target = os.path.expanduser(target) if app.interactive else target
    if os.path.isdir(target) or target.endswith("/"):
        os.makedirs(target, exist_ok=True)
        target = os.path.join(target, os.fsdecode(paths.name_of(found.path)))
    with listening(app, "get") as listener:
        summary = app.client.get(
            found.inner_path,
            target,
            into=False,
            recursive=True,
            in_trash=found.in_trash,
            listener=trashed.Renamed(listener, found.inner_path, found.path),
        )
    if app.as_json:
        app.print_json(records.summary_record(summary))
    elif sys.stderr.isatty():
        app.summarize(render.summary_line(summary))
    raise_for(summary.exit_code)


@remote_command("cat")
@click.argument("operation", metavar="ID", shell_complete=offers("trash_ids"))
@click.argument("words", cls=RemoteArgument, metavar="[PATH]...", nargs=-1)
def _cat_command(app: App, operation: str, words: tuple[str, ...]) -> None:
    """Print files from the trash."""
    for word in words or (None,):
        _pour(app, _find(app, operation, word))


class _Found(NamedTuple):
    """A file or directory in the trash.

    Attributes:
        inner_path: The path inside the trash entry.
        path: The original path.
    """

    in_trash: InTrash
    inner_path: RemotePath
    path: bytes


def _pour(app: App, found: _Found) -> None:
    if app.as_json:
        raise UsageError("--json and the file's bytes cannot both go to standard output")
    sys.stdout.flush()
    try:
        app.cat(found.inner_path, found.in_trash)
    except IsADirectory:  # the server's message has the path inside the trash
        where = paths.show(found.path)
        raise IsADirectory(
            f"{where}: a directory (trash get downloads it)", path=found.path
        ) from None


def _find(app: App, operation: str, word: str | None) -> _Found:
    """Find a path in the trash; without a path, the only entry of the operation."""
    one, short = _operation(app, operation)
    items = app.client.trash_items(one.name)
    if word is None:
        kept = [item for item in items if trashed.is_kept(item.item)]
        if not kept:
            raise NotFound(f"{short}: nothing of it is in the trash")
        if len(kept) > 1:
            lister = app.command(f"trash ls {short}")
            raise UsageError(f"{short} has {len(kept)} entries: name a PATH (see {lister})")
        return _Found(kept[0].in_trash, paths.ROOT, kept[0].item.path)
    path = app.client.resolve(word)
    return _Found(*trashed.locate(items, path), path)


@remote_command("empty")
@click.argument("words", metavar="[ID]...", nargs=-1, shell_complete=offers("trash_ids"))
@click.option("--older", metavar="TIME", help="Purge only operations older than TIME, e.g. 3d.")
@click.option("-y", "--yes", is_flag=True, help="Purge without asking.")
def _empty_command(app: App, words: tuple[str, ...], older: str | None, yes: bool) -> None:
    """Purge the trash: all operations, or only some.

    Purged files cannot be restored.
    """
    if words and older is not None:
        raise UsageError("--older and ID cannot be used together")
    before = None
    if older is not None:
        try:
            before = time.time() - parse_duration(older)
        except ValueError as error:
            raise UsageError(f"--older: {error}") from None
    found = [one for one in app.client.trash() if one.given_up is None]
    if words:
        named = [trashed.named_operation(word, found, app.command("trash"))[0] for word in words]
        found = list(dict.fromkeys(named))
    elif before is not None:
        found = [one for one in found if one.time_ns < before * 10**9]
    if found and not yes and app.can_ask and not _agreed(app, found):
        app.say(CANCELLED)
        raise_for(1)
    answers: list[Removed] = []
    failures: list[int] = []
    if words:
        for one in found:
            try:
                answers.append(app.client.purge(one.name))
            except CommandError as error:
                app.complain(error)
                failures.append(error.exit_code)
    elif found:  # by time, to keep what came to the trash after it was listed
        answers.append(app.client.purge(before=found[0].time_ns / 10**9 + 1))
    files, directories, size = (
        sum(getattr(one, what) for one in answers)
        for what in ("files", "directories", "size_bytes")
    )
    count = len(answers) if words else len(found)
    counts = {"operations": count, "files": files, "directories": directories, "size": size}
    entries = trashed.count(files + directories, "entry")
    text = f"{human(size)} freed ({entries} purged)"
    if answers or not failures:
        app.report_done(text if found else "nothing to purge", "trash-empty", **counts)
    raise_for(status_of(failures, len(found)))


def _agreed(app: App, found: Sequence[TrashedOperation]) -> bool:
    """Show the newest operations to purge, and ask."""
    width = columns_of(sys.stderr) - 1
    shown = found[: proposal.SHOWN]
    for line in trashed.Operations(found).lines(shown, width - 2):
        print(f"  {begun(line, width - 2)}", file=sys.stderr)
    if len(found) > len(shown):
        print(f"  … and {len(found) - len(shown):,} more", file=sys.stderr)
    return app.yes_or_no(f"{_question(found)} (yes/no)? ")


def _question(found: Sequence[TrashedOperation]) -> str:
    """Return the question before operations are purged."""
    what = f"{len(found):,} operations" if len(found) != 1 else "1 operation"
    counted = all(one.counted for one in found)
    size = trashed.amount(sum(one.files for one in found), sum(one.size for one in found))
    return f"Purge {what} ({size if counted else f'more than {size}'})"


for _command in (_ls_command, _restore_command, _get_command, _cat_command, _empty_command):
    trash_command.add_command(_command)


# versions -----------------------------------------------------------------------------------


@remote_command("versions")
@click.argument("path", cls=RemoteArgument)
def versions_command(app: App, path: str) -> None:
    """List earlier versions of a file, newest first.

    restore, get and cat take the number of a version: cat --at 1 PATH.
    """
    found = app.client.versions(path)
    for number, version in enumerate(found, 1):
        if app.as_json:
            row = records.trashed_record(version.item, version.operation)
            app.print_json({"number": number, **row})
        else:
            app.print(trashed.version_line(number, version))
    if not found:
        shown = paths.show(app.client.resolve(path))
        raise NotFound(f"{shown}: no earlier version is kept")


# restore, undo ------------------------------------------------------------------------------


@remote_command("restore")
@click.argument("path", cls=RemoteArgument)
@at_option
def restore_command(app: App, path: str, at: str | None) -> None:
    """Restore an earlier version of a file, or a removed file.

    Without --at, restore the newest one. The current file becomes a version itself.
    """
    place, way_out = app.client.resolve(path), ""
    version: Version | None
    if at is not None:
        version = version_at(app, place, at)
        if version is None:
            Restoring(app, None).as_it_is(place)
            return
    else:
        version = next(iter(app.client.versions(place)), None)
    if version is not None:
        one, item = version.operation, version.item
        restored = app.client.restore(one.name, place, items=[item.name], conflict="replace")
    else:
        one, short = _removed_at(app, place)
        way_out = _way_out(app, f"trash restore {short} {quote(paths.to_text(place))}")
        restored = app.client.restore(one.name, place)
    Restoring(app, one, way_out=way_out).finish(restored)


def _way_out(app: App, command: str) -> str:
    """Return the advice if something is in the way."""
    return f"{app.command(command)} --force replaces what is in the way; --beside uses another name"


def _removed_at(app: App, path: RemotePath) -> tuple[TrashedOperation, str]:
    """Return the newest operation that removed a path or a directory above it, and its ID."""
    client = app.client
    top = paths.ROOT + paths.split(path)[0] if path != paths.ROOT else path
    for one in client.trash_items(below=top):
        if trashed.is_kept(one.item) and trashed.is_at_or_below(path, one.item):
            return trashed.named_operation(one.operation, client.trash())
    lister = app.command("trash")
    raise NotFound(f"{paths.show(path)}: not in the trash ({lister} lists all operations)")


@remote_command("undo")
@click.argument("operation", metavar="[ID]", required=False, shell_complete=offers("trash_ids"))
@click.option(
    "-n", "--dry-run", "dry_run", is_flag=True, help="Show what would be done, and change nothing."
)
@conflict_options
@click.option("-y", "--yes", is_flag=True, help="Undo without asking, however old the command is.")
def undo_command(
    app: App, operation: str | None, dry_run: bool, force: bool, beside: bool, yes: bool
) -> None:
    """Undo your last command.

    Restores what the command removed, replaced or moved. Without ID, undo the last command of this
    shell, or the last one on this machine within the last hour. If something is in the way, skip
    it. A second undo redoes the command, or continues where something was in the way. Operations
    can be undone in any order.

    \b
    Not undone:
      - files and directories that put, cp, sync and mkdir added
      - chmod, touch and ln, and changes behind symbolic links
      - local files that `get` replaced
      - accounts, passwords and tokens
      - what the server has purged; trash lists the rest
      - what rm --purge and trash empty purged
    """
    how = _conflict(force=force, beside=beside)
    client = app.client
    found = client.trash()
    if operation is not None:
        one, _ = trashed.named_operation(operation, found, app.command("trash"))
        meant = [one]
    else:
        if not found and operations.are_final(app):
            raise NotFound("nothing to undo: no trash is kept for this account")
        one = trash.newest(found, client_id(), app.shell.operations, app.command("trash"))
        meant = trash.all_of_command(one, found)
    way_out = _way_out(app, f"undo {trashed.short_ids(found)[one.name]}") if how == "skip" else ""
    restoring = Restoring(app, one, found, dry_run=dry_run, way_out=way_out)
    restoring.ask(yes=yes)
    restoring.finish(
        verbs.together([client.restore(part.name, conflict=how, dry_run=dry_run) for part in meant])
    )
