"""Results as human-readable text.

Lives here: functions that return text. Lives elsewhere: JSON (records.py), printing (app.py), bars
(progress.py).

Names come from the server: control characters in them are escaped.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ftpclient.transfer.report import Finding, Summary, SyncStep
from ftpwire import digests, paths
from ftpwire.cells import cells
from ftpwire.messages import Entry, SpaceInfo
from ftpwire.units import human

if TYPE_CHECKING:
    from ftpclient.sync.check import CheckSummary
    from ftpclient.sync.job import SyncSummary


def iso_time(mtime_ns: int) -> str:
    """Format an mtime in ISO 8601 (UTC) with nanoseconds."""
    seconds, nanoseconds = divmod(mtime_ns, 10**9)
    try:
        base = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}.{nanoseconds:09d}"  # beyond the range of dates
    return f"{base:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def iso_seconds(seconds: int) -> str:
    """Format seconds since 1970 in ISO 8601 (UTC)."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}"  # beyond the range of dates


def short_time(mtime_ns: int) -> str:
    """Format a time for ls, in local time."""
    try:
        return f"{datetime.fromtimestamp(mtime_ns // 10**9):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return f"{'?':16}"


def local_time(mtime_ns: int) -> str:
    """Format a time in ISO 8601 with nanoseconds, in local time with its offset, ``Z`` for UTC."""
    seconds, nanoseconds = divmod(mtime_ns, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, ValueError, OSError):
        return iso_time(mtime_ns)
    offset = f"{moment:%z}"
    zone = f"{offset[:3]}:{offset[3:5]}" if moment.utcoffset() else "Z"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}{zone}"


_COLORS = r"\x1b\[[0-9;]*m"

_TYPE_BITS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "link": stat.S_IFLNK,
    "other": stat.S_IFIFO,
}


def long_line(entry: Entry, name: str, *, human_sizes: bool, digest: bool) -> str:
    """Return a line of ``ls -l``."""
    mode = stat.filemode(_TYPE_BITS[entry.type] | entry.mode)
    size = human(entry.size) if human_sizes else str(entry.size)
    if entry.type == "dir":
        size = "-"  # the file system's size of a directory says nothing about its contents
    line = f"{mode} {size:>12} {short_time(entry.mtime_ns)} {name}"
    if entry.target is not None:
        line += f" -> {paths.show(entry.target)}"
    if digest:
        line = f"{entry.digest.hex() if entry.digest else '-':64} {line}"
    return line


def columns(names: Iterable[str], width: int) -> Iterator[str]:
    """Arrange names, which may be coloured, in columns as ls does: down, then across."""
    all_names = list(names)
    if not all_names:
        return
    lengths = [cells(re.sub(_COLORS, "", name)) for name in all_names]
    widest = max(lengths) + 2
    across = max(1, width // widest)
    rows = -(-len(all_names) // across)
    filled = [
        name + " " * (widest - length) for name, length in zip(all_names, lengths, strict=True)
    ]
    for row in range(rows):
        yield "".join(filled[row::rows]).rstrip()


def stat_lines(entry: Entry, path: bytes) -> Iterator[str]:
    """Return the lines of ``stat``."""
    yield f"  path: {paths.show(path)}"
    if entry.target is not None:
        yield f"target: {paths.show(entry.target)}"
    yield f"  type: {entry.type}"
    if entry.type != "dir":
        yield f"  size: {entry.size} ({human(entry.size)})"
    yield f"  mode: {entry.mode:04o}"
    yield f" mtime: {local_time(entry.mtime_ns)}"
    if entry.digest is not None:
        yield f"{digests.ALGORITHM}: {entry.digest.hex()}"


def space_lines(space: SpaceInfo, command: Callable[[str], str] = str) -> Iterator[str]:
    """Return the lines of ``df``.

    Args:
        command: Returns a command as the user would type it, such as `App.command`.
    """
    total = "unlimited" if space.total is None else human(space.total)
    trash = f"; {human(space.trash)} in the trash, freed when space is needed"
    used = f"used {human(space.used)}, free {_free(space)}{trash if space.trash else ''}"
    yield f"total {total}, {used}"
    if space.held > space.kept:
        yield f"{human(space.held - space.kept)} reserved for running uploads"
    if space.kept_uploads:
        one = space.kept_uploads == 1
        uploads = "1 interrupted upload" if one else f"{space.kept_uploads} interrupted uploads"
        hint = f"{command('kept')} lists them, {command('kept --drop')} removes them"
        yield f"{human(space.kept)} kept for {uploads} ({hint})"
    if space.total_files is not None:
        yield f"files: {_files(space)}"


def _free(space: SpaceInfo) -> str:
    """Return the rest of the quota, or the free space on the server's disk if that is less."""
    if _disk_is_the_bound(space):
        return f"{human(space.disk_free or 0)} (limited by the server's disk)"
    return "unlimited" if space.free is None else human(space.free)


def _disk_is_the_bound(space: SpaceInfo) -> bool:
    """Return whether the server's disk has less free space than the quota."""
    return space.disk_free is not None and (space.free is None or space.disk_free < space.free)


def space_words(space: SpaceInfo) -> str:
    """Return an account's usage in a few words, for a greeting."""
    of_total = "" if space.total is None else f" of {human(space.total)}"
    files = "" if space.total_files is None else f", files: {_files(space)}"
    return f"{human(space.used)}{of_total} used{files}"


def _files(space: SpaceInfo) -> str:
    """Return the number of files, directories and links, and its limit."""
    return f"{space.used_files or 0} of {space.total_files}"


def step_line(step: SyncStep, action: str = "", why: str = "") -> str:
    """Return the line of a step of a sync or dry run.

    Args:
        action: A word to show instead of the step's action.
        why: A reason to show instead of the step's.
    """
    name = paths.show(step.path or b".") + ("/" if step.type == "dir" else "")
    if step.source:
        name = f"{paths.show(step.source)} -> {name}"
    why = why or ("" if step.action in ("mkdir", "delete", "rename") else step.why)
    notes = [paths.printable(why)] if why else []
    if step.count > 1:
        notes.append(f"{step.count} in all")
    if step.size and step.action != "rename":
        notes.append(human(step.size))
    return f"{action or step.action:<10} {name}" + (f"  ({', '.join(notes)})" if notes else "")


_SIGNS = {"same": "=", "differs": "*", "only-here": "+", "only-there": "-", "unreadable": "!"}


def finding_line(finding: Finding) -> str:
    """Return the line of a finding of `check`."""
    name = paths.show(finding.path or b".") + ("/" if finding.type == "dir" else "")
    why = paths.printable(finding.message) or finding.why
    return f"{_SIGNS[finding.state]} {name}" + (f"  ({why})" if why else "")


def check_line(summary: CheckSummary) -> str:
    """Return the totals of a check."""
    counts = (
        (summary.differ, "differ" if summary.differ != 1 else "differs"),
        (summary.only_here, "only local"),
        (summary.only_there, "only on the server"),
        (summary.unreadable, "unreadable"),
    )
    parts = [f"{count} {what}" for count, what in counts if count]
    text = f"{', '.join([*parts, f'{summary.same} the same'])}, in {summary.seconds:.1f} s"
    return text if parts else f"no differences: {text}"


def sync_line(summary: SyncSummary) -> str:
    """Return the totals of a sync."""
    if summary.dry_run:
        return _sync_dry_run(summary)
    sent = f"{summary.sent} sent"
    if summary.sent:
        sent += f" ({human(summary.size)})"
    parts = [sent, f"{summary.unchanged} unchanged"]
    for count, what in (
        (summary.deleted, "deleted"),
        (summary.renamed, "renamed"),
        (summary.attributes, f"{_attributes(summary.attributes)} updated"),
        (summary.skipped, "skipped"),
        (summary.failed, "failed"),
    ):
        if count:
            parts.append(f"{count} {what}")
    return f"{', '.join(parts)}, in {summary.seconds:.1f} s"


def _sync_dry_run(summary: SyncSummary) -> str:
    files = "file" if summary.sent == 1 else "files"
    would = [
        f"{verb} {count}{what}"
        for verb, count, what in (
            ("send", summary.sent, f" {files} ({human(summary.size)})"),
            (
                "create",
                summary.directories,
                f" director{'y' if summary.directories == 1 else 'ies'}",
            ),
            ("delete", summary.deleted, ""),
            ("rename", summary.renamed, ""),
            ("update", summary.attributes, f" {_attributes(summary.attributes)}"),
        )
        if count
    ]
    rest = [f"{summary.unchanged} unchanged"]
    for count, what in ((summary.skipped, "skipped"), (summary.failed, "failed")):
        if count:
            rest.append(f"{count} {what}")
    return f"dry run: would {', '.join(would) or 'change nothing'}; {', '.join(rest)}"


def _attributes(count: int) -> str:
    return "time or mode" if count == 1 else "times or modes"


def summary_line(summary: Summary) -> str:
    """Return the totals of a transfer."""
    parts = [f"{summary.done} {'file' if summary.done == 1 else 'files'}, {human(summary.size)}"]
    parts.append(f"in {summary.seconds:.1f} s")
    if summary.seconds > 0 and (summary.size >= 1024 * 1024 or summary.seconds >= 1):
        parts.append(f"({human(int(summary.size / summary.seconds))}/s)")
    text = " ".join(parts)
    if summary.unchanged:
        text += f", {summary.unchanged} already there"
    if summary.skipped:
        text += f", {summary.skipped} skipped"
    if summary.failed:
        text += f", {summary.failed} failed"
    return text


def waiting_line(lost: float, left: float) -> str:
    """Return the remark while there is no connection.

    Args:
        lost: Seconds without a connection.
        left: Seconds until the next attempt; 0 during one.
    """
    then = f"next try in {math.ceil(left)} s" if left else "trying now"
    return f"no connection for {int(lost)} s, {then}"
