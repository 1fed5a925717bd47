"""The command `ftpd log`, which shows the audit log.

Lives here: options and output. Lives elsewhere: reading (audit/reader.py), writing
(audit/writer.py).
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpserver.cli import tables
from ftpserver.cli.audit import AUDITED
from ftpserver.cli.options import json_option, remark, root_option, started, typed
from ftpserver.cli.paging import paged
from ftpwire import likeness, paths
from ftpwire.cells import begun, cells, padded, shortened
from ftpwire.command_help import Command
from ftpwire.errors import InvalidPath
from ftpwire.units import human, parse_past

if TYPE_CHECKING:
    from ftpserver.audit.record import Record

_FOLLOWED_LINES = 10
_LAST_LINES = 50
"""Records that are shown on a terminal by default."""
_MIDDLE, _WIDE, _WITH_YEAR, _WITH_ADDRESS = 60, 80, 100, 120
"""Terminal widths from which on days, sizes, years and addresses are shown in columns."""
_DATE_AND_TIME, _DAY_AND_TIME, _CLOCK = slice(0, 19), slice(5, 19), slice(11, 16)
"""Parts of an ISO 8601 time that are shown, depending on the width."""
_ADDRESS, _SIZE = 15, 10
_SIZE_AT = 4
_GAP = "  "
_REQUESTED = "-asked"
"""End of the events of a command whose effect the server records itself: `reload`, `stop`."""
_LEAST_PATH, _LEAST_WORD = 12, 6


@typed
def _moment(text: str) -> float:
    """Parse a date or an age to seconds since 1970."""
    return parse_past(text)


def _address(text: str) -> str:
    """Return an address or network in the form used in records."""
    from ftpserver.net.addresses import LOCAL, host_of

    if text == LOCAL:
        return text
    try:
        return str(ip_network(text)) if "/" in text else host_of((text,))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither an address nor a network") from None


def _remote(text: str) -> paths.Parts:
    """Parse a remote path."""
    typed = paths.from_text(text).removeprefix(b":")
    try:
        return paths.split(paths.resolve(paths.ROOT, typed))
    except InvalidPath as error:
        raise click.BadParameter(str(error)) from None


def _known(events: tuple[str, ...]) -> tuple[str, ...]:
    """Return the events if all of them exist. Raises click.BadParameter."""
    from ftpserver.audit.record import EVENTS, OTHERS, REQUESTS

    known = {*EVENTS.values(), *REQUESTS, *OTHERS, *AUDITED.values()}
    for event in events:
        if event not in known:
            hint = likeness.hint(event, known)
            raise click.BadParameter(f"unknown event {paths.show(event)}{hint}")
    return events


@click.command(cls=Command)
@root_option
@click.option("--user", metavar="USER", help="Show what this account did, or what was done to it.")
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="EVENT",
    help="Show only this event, e.g. login, put or remove; repeatable.",
)
@click.option("--path", metavar="PATH", help="Show only what concerns PATH or anything below it.")
@click.option(
    "--address", metavar="ADDRESS", help="Show only what came from this address or network."
)
@click.option(
    "--since",
    type=_moment,
    metavar="WHEN",
    help="Show records since then: 2h, yesterday, 2030-12-31.",
)
@click.option(
    "--until",
    type=_moment,
    metavar="WHEN",
    help="Show records until then: 2h, yesterday, 2030-12-31.",
)
@click.option("--failed", is_flag=True, help="Show only what was refused, failed or interrupted.")
@click.option("-n", "--lines", metavar="N", type=click.IntRange(0), help="Show the last N records.")
@click.option(
    "-f", "--follow", is_flag=True, help="Show new records until Ctrl-C, after the last 10."
)
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
    """Show the audit log: who did what.

    Prints all records, oldest first; times are UTC. --path also finds operations on a directory
    above PATH that included it: a removal, a move, or the copy that created it.
    A terminal shows the last 50, unless --lines or --since says otherwise, in $PAGER (default:
    less) if they don't fit on the screen. In a pipe, tabs
    separate time, event, outcome, user, address, path, target, bytes, files, seconds, by,
    code, reason and details; - stands for nothing.
    """
    from ftpserver.audit.notify import Follower
    from ftpserver.audit.reader import AuditReader, Filter
    from ftpserver.audit.record import timestamp
    from ftpserver.net.descriptors import raise_descriptor_limit

    if follow and until is not None:
        raise click.UsageError("--follow and --until cannot be used together")
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
    on_terminal = tables.on_terminal() and not as_json
    is_cut = False
    if lines is None and since is None:
        if follow:
            lines = _FOLLOWED_LINES
        elif on_terminal and until is None:
            lines, is_cut = _LAST_LINES + 1, True
    columns = Columns(tables.width()) if on_terminal else None
    raise_descriptor_limit()  # busy accounts have log files of their own, which are all open
    with (
        Follower(state) as follower,
        AuditReader(state, follower.wait, _missed, user=user) as reader,
        paged(on_terminal and not follow) as print_line,
    ):

        def show(line: bytes, record: Record) -> None:
            if as_json:
                click.echo(line)
            elif columns is None:
                tables.print_fields(*fields(record))
            else:
                print_line(columns.line(record))

        there: Iterable[tuple[bytes, Record]] = reader.records(wanted)
        if lines is not None:
            there = deque(there, maxlen=lines)
            if is_cut and len(there) > _LAST_LINES:
                there.popleft()
                remark(f"showing the last {_LAST_LINES} records (--lines or --since shows more)")
        if columns is not None:
            print_line(columns.head())
        for line, record in there:
            show(line, record)
        if follow:
            try:
                for line, record in reader.records(wanted, follow=True):
                    show(line, record)
            except KeyboardInterrupt:
                pass  # the way to end it
    if reader.unreadable:
        one = reader.unreadable == 1
        remark(f"skipped {'1 invalid line' if one else f'{reader.unreadable} invalid lines'}")


def _missed() -> None:
    missing = "records may be missing: log files were deleted before they were read"
    remark(f"{missing} (see audit-keep and audit-own-size)")


class Columns:
    """The layout of records in columns on a terminal.

    Records come one by one, so the widths are fixed, and longer texts are cut.

    Args:
        width: The terminal's width in columns.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._is_wide = width >= _WIDE
        is_narrow = width < _MIDDLE
        has_year = width >= _WITH_YEAR
        self._time = _CLOCK if is_narrow else _DATE_AND_TIME if has_year else _DAY_AND_TIME
        self._gap = " " if is_narrow else "  "
        event = 8 if is_narrow else 12 if self._is_wide else 10
        user = 6 if is_narrow else 12 if has_year else 10
        time = self._time.stop - self._time.start
        address = _ADDRESS if width >= _WITH_ADDRESS else 0
        self._widths = (time, event, user, address, _SIZE if self._is_wide else 0)

    def head(self) -> str:
        """Return the line with the columns' titles."""
        time = "TIME (UTC)" if self._width >= _MIDDLE else "UTC"
        return begun(self._begin(time, "EVENT", "USER", "FROM", "SIZE") + "WHAT", self._width)

    def line(self, record: Record) -> str:
        """Return the line of a record, with control characters escaped."""
        begin = self._begin(
            paths.show(record.time[:19]).replace("T", " ")[self._time],
            paths.show(record.event.removesuffix(_REQUESTED)),
            paths.show(record.user or "-"),
            paths.show(record.address or "-"),
            "" if record.size is None else human(record.size),
        )
        words = _words(record, has_address=bool(self._widths[3]))
        if record.event.endswith(_REQUESTED):
            words.insert(0, "requested")
        if record.size is not None and not self._is_wide:
            words.append(human(record.size))
        columns = self._width - cells(begin)
        if columns <= 0:
            return begun(begin.rstrip(), self._width)
        if record.outcome == "ok":
            return (begin + _fitted(words, columns, has_path=record.path is not None)).rstrip()
        outcome = begun(paths.show(record.outcome), columns)
        columns -= cells(outcome) + len(_GAP)
        end = _fitted(words, columns, has_path=record.path is not None)
        return begin + tables.painted(outcome, tables.RED) + (f"{_GAP}{end}" if end else "")

    def _begin(self, *texts: str) -> str:
        fields = [
            padded(shortened(text, wide), wide, right=at == _SIZE_AT)
            for at, (text, wide) in enumerate(zip(texts, self._widths, strict=True))
            if wide
        ]
        return self._gap.join([*fields, ""])


def _fitted(words: list[str], columns: int, *, has_path: bool) -> str:
    """Join as many texts as fit into ``columns`` columns; the last one may be cut.

    Args:
        has_path: True if the first one is a path, which is cut in its middle and leaves room for
            a reason after it.
    """
    shown = ""
    for at, word in enumerate(words):
        gap = _GAP if shown else ""
        left = columns - cells(shown) - len(gap)
        if at == 0 and has_path:
            explains = len(words) > 1 and words[1].startswith("(")
            word = shortened(word, min(left, max(_LEAST_PATH, left // 2)) if explains else left)
        if left < min(cells(word), _LEAST_WORD):
            break
        shown += gap + begun(word, left)
        if cells(word) > left:
            break
    return begun(shown, max(0, columns))


def fields(record: Record) -> tuple[object, ...]:
    """Return the fields of a record for a pipe: always the same ones."""
    return (
        record.time,
        record.event,
        record.outcome,
        record.user,
        record.address,
        None if record.path is None else _path(record.path, record.path_b64),
        None if record.target is None else _path(record.target, record.target_b64),
        record.size,
        record.files,
        record.seconds,
        record.by,
        record.code,
        record.reason,
        " ".join(_details(record)),
    )


def _words(record: Record, *, has_address: bool) -> list[str]:
    """Return the texts of a record that have no column of their own, important ones first.

    Args:
        has_address: True if addresses have a column.
    """
    words = [_path(record.path, record.path_b64)] if record.path is not None else []
    why = paths.printable(record.reason or record.code or "")
    if words:  # most reasons begin with the path
        why = why.removeprefix(f"{words[0]}: ")
    if record.target is not None:
        target = f"-> {_path(record.target, record.target_b64)}"
        words = [f"{words[0]} {target}" if words else target]
    words += [f"({why})"] if why else []
    words += [f"{record.files} files"] if record.files not in (None, 1) else []
    words += [f"from {paths.show(record.address)}"] if record.address and not has_address else []
    words += _details(record)
    words += [f"by {paths.show(record.by)}"] if record.by else []
    return [*words, f"{record.seconds:.3f} s"] if record.seconds is not None else words


def _details(record: Record) -> list[str]:
    """Return further details, and the user who ran a command of administration."""
    found = [f"{record.count} others not recorded"] if record.count is not None else []
    found += [
        f"{paths.show(name)}={_detail(value)}" for name, value in (record.details or {}).items()
    ]
    if record.sudo_user:
        found.append(f"for {paths.show(record.sudo_user)} (sudo)")
    if record.login_user and record.login_user != record.sudo_user:
        found.append(f"for {paths.show(record.login_user)} (logged in)")
    return found


def _path(text: str | None, encoded: str | None) -> str:
    if encoded is not None:
        try:
            return paths.show(base64.b64decode(encoded))
        except ValueError:
            pass  # not written by this program
    return paths.show(text or "")


def _detail(value: object) -> str:
    if isinstance(value, list):
        return ",".join(_detail(one) for one in value)
    return paths.show(str(value))
