"""The command kept, about interrupted uploads that the server keeps."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ftpclient.cli import moments, records, render
from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import RemoteArgument, raise_for, remote_command
from ftpclient.client import is_pattern, matching
from ftpwire import paths
from ftpwire.errors import Busy, CommandError, NotFound
from ftpwire.messages import KeptDropped, KeptUpload
from ftpwire.paths import RemotePath
from ftpwire.units import human


@remote_command("kept")
@click.argument("words", cls=RemoteArgument, metavar="[PATH]...", nargs=-1)
@click.option("--drop", is_flag=True, help="Drop the uploads to each PATH and free their space.")
@click.option("--all", "everything", is_flag=True, help="Drop all of them.")
def kept_command(app: App, words: tuple[str, ...], drop: bool, everything: bool) -> None:
    """List interrupted uploads that can be resumed.

    Each takes part of your quota until you repeat the upload or drop it, or until the server
    drops it after some days.
    """
    if everything and words:
        raise UsageError("--all and PATH cannot be used together")
    if drop and not (everything or words):
        raise UsageError("--drop needs the PATH of an upload, or --all")
    if everything:
        _dropped(app, [app.client.drop_kept()])
    elif drop:
        _drop(app, words)
    else:
        _list(app, words)


def _list(app: App, words: tuple[str, ...]) -> None:
    uploads = app.client.kept()
    wanted, missing = _named(app, words, uploads)
    if not (uploads or words) and sys.stdout.isatty():
        app.say("no interrupted uploads")
    for one in uploads:
        if words and one.path not in wanted:
            continue
        if app.as_json:
            app.print_json(records.kept_record(one))
        else:
            app.print(_line(one))
    known = _targets(uploads)
    missing += [_not_kept(path) for path in wanted if path not in known]
    for error in missing:
        app.complain(error)
    none = missing and not known.intersection(wanted)
    raise_for(NotFound.exit_code if none else int(bool(missing)))


def _drop(app: App, words: tuple[str, ...]) -> None:
    uploads = app.client.kept() if any(map(_may_match, words)) else []
    wanted, missing = _named(app, words, uploads)
    for error in missing:
        app.complain(error)
    done: list[KeptDropped] = []
    failures = [error.exit_code for error in missing]
    for path in wanted:
        try:
            done.append(app.client.drop_kept(path))
        except CommandError as error:
            app.complain(error)
            failures.append(error.exit_code)
    if done:
        _dropped(app, done)
    raise_for(failures[0] if failures and not done and len(set(failures)) == 1 else bool(failures))


def _named(
    app: App, words: tuple[str, ...], uploads: Sequence[KeptUpload]
) -> tuple[list[RemotePath], list[CommandError]]:
    """Return the targets that words name, and an error for each word that matches none.

    The targets usually don't exist, so patterns are matched with the list of uploads.
    """
    wanted: list[RemotePath] = []
    missing: list[CommandError] = []
    known = _targets(uploads)
    for word in words:
        pattern = app.client.resolve(app.pattern(word))
        found = matching(pattern, known)
        wanted += found
        if not found:
            missing.append(_not_kept(pattern))
    return list(dict.fromkeys(wanted)), missing


def _may_match(word: str) -> bool:
    return is_pattern(paths.from_text(word))


def _targets(uploads: Sequence[KeptUpload]) -> set[RemotePath]:
    return {RemotePath(one.path) for one in uploads if one.path is not None}


def _not_kept(path: RemotePath) -> NotFound:
    return NotFound(f"{paths.show(path)}: no upload is kept for it")


def _dropped(app: App, done: list[KeptDropped]) -> None:
    count = sum(one.count for one in done)
    size = sum(one.size for one in done)
    busy = sum(one.busy for one in done)
    under_way = sum(one.under_way for one in done)
    if app.as_json:
        counts = {"dropped": count, "size": size, "busy": busy, "under_way": under_way}
        app.print_json(records.done_record("kept-drop", **counts))
    else:
        uploads = "1 upload" if count == 1 else f"{count} uploads"
        app.say(f"dropped {uploads}: {human(size)} freed")
        if under_way:
            running = (
                "1 running upload was" if under_way == 1 else f"{under_way} running uploads were"
            )
            app.say(f"{running} not dropped")
    if busy:
        error = Busy(f"{'1 upload is' if busy == 1 else f'{busy} uploads are'} in use: not dropped")
        app.complain(error)
        raise_for(error.exit_code if not count else 1)


def _line(one: KeptUpload) -> str:
    age = records.age_of(one)
    came = f"{human(one.size):>10} of {human(one.total):<10}"
    path = "(path unknown)" if one.path is None else None
    shown = path or paths.show(one.path or b"")
    return (
        f"{came}  {'?' if age is None else moments.span(age):>6} old  until {_until(one)}  {shown}"
    )


def _until(one: KeptUpload) -> str:
    return render.short_time(one.until * 10**9)
