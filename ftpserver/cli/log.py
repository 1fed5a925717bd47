"""`ftpd log`: the audit log for people.

Lives here: options, what is printed. Lives elsewhere: reading (audit/reader.py), writing
(audit/trail.py).
"""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpserver.cli.audit import AUDITED
from ftpserver.cli.options import json_option, remark, root_option, started, typed
from ftpwire import likeness, paths
from ftpwire.errors import InvalidPath
from ftpwire.units import human, parse_duration, parse_moment

if TYPE_CHECKING:
    from ftpserver.audit.record import Record

_FOLLOWED_LINES = 10


@typed
def _moment(text: str) -> float:
    """Seconds since 1970 for a date, or for how long ago."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        return parse_moment(text)


def _address(text: str) -> str:
    """An address or a network, as records have it."""
    from ftpserver.net.addresses import LOCAL, host_of

    if text == LOCAL:
        return text
    try:
        return str(ip_network(text)) if "/" in text else host_of((text,))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no address, and no network") from None


def _remote(text: str) -> paths.Parts:
    """A remote path as it was typed."""
    typed = paths.from_text(text).removeprefix(b":")
    try:
        return paths.split(paths.resolve(paths.ROOT, typed))
    except InvalidPath as error:
        raise click.BadParameter(str(error)) from None


def _known(events: tuple[str, ...]) -> tuple[str, ...]:
    """The same, if all of them are events."""
    from ftpserver.audit.record import EVENTS, OTHERS, REQUESTS

    known = {*EVENTS.values(), *REQUESTS, *OTHERS, *AUDITED.values()}
    for event in events:
        if event not in known:
            hint = likeness.hint(event, known)
            raise click.BadParameter(f"{paths.show(event)} is no event{hint}")
    return events


@click.command(short_help="Show who did what: the audit log.")
@root_option
@click.option("--user", metavar="USER", help="What this account did, or was done to it.")
@click.option("--event", "events", multiple=True, metavar="EVENT", help="As login, put, remove.")
@click.option("--path", metavar="PATH", help="What was done to it, below it, or with it above it.")
@click.option("--address", metavar="ADDRESS", help="What came from there; also a network.")
@click.option("--since", type=_moment, metavar="WHEN", help="As 2h, 7d, 2030-12-31.")
@click.option("--until", type=_moment, metavar="WHEN", help="The same, of the last record.")
@click.option("--failed", is_flag=True, help="Only what was refused, failed or was cut off.")
@click.option("-n", "--lines", type=click.IntRange(0), help="The last so many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@json_option
def log(
    root: Path,
    user: str | None,
    events: tuple[str, ...],
    path: str | None,
    address: str | None,
    since: float | None,
    until: float | None,
    failed: bool,
    lines: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show who did what: the audit log, from the oldest record on.

    Files of accounts that did more than the common file takes are read as well.
    --path finds what was done to PATH, and to what is below it; and what was done to a
    directory above it and took it along: its removal, a move, a copy that made it. Without
    --user, it is any account's PATH. Times are UTC. With --follow the last 10 records come
    first, unless --lines or --since says otherwise. --json prints the records as they are
    stored.
    """
    from ftpserver.audit.notify import Follower
    from ftpserver.audit.reader import AuditReader, Filter
    from ftpserver.audit.record import timestamp
    from ftpserver.net.descriptors import raise_descriptor_limit

    if follow and until is not None:
        raise click.UsageError("--follow goes on without an end: not with --until")
    wanted = Filter(
        user,
        _known(events),
        since=None if since is None else timestamp(since),
        until=None if until is None else timestamp(until),
        failed=failed,
        address=None if address is None else _address(address),
        path=None if path is None else _remote(path),
    )
    state = started(root)
    if follow and lines is None and since is None:
        lines = _FOLLOWED_LINES
    raise_descriptor_limit()  # accounts that do much have files of their own
    with (
        Follower(state) as follower,
        AuditReader(state, follower.wait, _missed, user=user) as reader,
    ):
        there: Iterable[tuple[bytes, Record]] = reader.records(wanted)
        if lines is not None:
            there = deque(there, maxlen=lines)
        for line, record in there:
            click.echo(line if as_json else told(record))
        if follow:
            try:
                for line, record in reader.records(wanted, follow=True):
                    click.echo(line if as_json else told(record))
            except KeyboardInterrupt:
                pass  # it has no other end
        if reader.unreadable:
            one = reader.unreadable == 1
            counted = "1 line is no record" if one else f"{reader.unreadable} lines are no records"
            remark(counted)


def _missed() -> None:
    missing = "records may be missing here: files of the log were removed before they were read"
    remark(f"{missing} (audit-keep, audit-own-size)")


def told(record: Record) -> str:
    """A record as a line for people: safe to print, whatever names are in it."""
    words = [f"{paths.show(record.time[:19])}Z", paths.show(record.event), _who(record)]
    words += [_path(record.path, record.path_b64)] if record.path is not None else []
    words += ["->", _path(record.target, record.target_b64)] if record.target is not None else []
    words += [f"{record.files} files"] if record.files not in (None, 1) else []
    words += [human(record.size)] if record.size is not None else []
    words += [f"{record.count} others not recorded"] if record.count is not None else []
    words += [
        f"{paths.show(name)}={_detail(value)}" for name, value in (record.details or {}).items()
    ]
    words += [f"{record.seconds:.3f} s"] if record.seconds is not None else []
    why = paths.printable(": ".join(part for part in (record.code, record.reason) if part))
    outcome = "" if record.outcome == "ok" else paths.show(record.outcome)
    words += [" ".join(filter(None, (outcome, f"({why})" if why else "")))]
    return "  ".join(filter(None, words))


def _who(record: Record) -> str:
    parts = [record.user or "-", *([f"from {record.address}"] if record.address else [])]
    parts += [f"by {record.by}"] if record.by else []
    if record.sudo_user:
        parts.append(f"for {record.sudo_user} (sudo)")
    if record.login_user and record.login_user != record.sudo_user:
        parts.append(f"for {record.login_user} (logged in)")
    return paths.show(" ".join(parts))


def _path(text: str | None, encoded: str | None) -> str:
    if encoded is not None:
        try:
            return paths.show(base64.b64decode(encoded))
        except ValueError:
            pass  # not one of ours
    return paths.show(text or "")


def _detail(value: object) -> str:
    if isinstance(value, list):
        return ",".join(_detail(one) for one in value)
    return paths.show(str(value))
