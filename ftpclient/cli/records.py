"""The objects that `--json` prints: one for each result, and for each error.

Lives here: the objects of all commands, as documented in docs/json.md. Lives elsewhere: printing
them (app.py, printer.py, changes.py), human-readable text (render.py).

Before a key is renamed or removed, one version has both the old and the new one. Sizes are in
bytes, durations in seconds, times in ISO 8601 (UTC). An unknown value is null; only ``KEY_b64``,
details of errors, and keys that docs/json.md calls optional are left out.
"""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

from ftpclient.cli.render import iso_seconds, iso_time
from ftpclient.transfer.report import Finding, Result, Summary, SyncStep
from ftpwire import digests, paths
from ftpwire.errors import CommandError, FtpError, UploadTakenOver, facts_of
from ftpwire.messages import (
    Entry,
    Hashed,
    KeptUpload,
    Removed,
    SpaceInfo,
    TokenInfo,
    TrashedOperation,
    TrashItem,
)

if TYPE_CHECKING:
    from ftpclient.cli.jobs import Job
    from ftpclient.cli.unfinished import Transfer
    from ftpclient.client import Client
    from ftpclient.connection.discovery import Found
    from ftpclient.connection.servers import Server
    from ftpclient.sync.check import CheckSummary
    from ftpclient.sync.job import SyncSummary


def path_record(key: str, path: bytes) -> dict[str, str]:
    """Return a path as text, and also in Base64 if it isn't UTF-8."""
    try:
        return {key: path.decode("utf-8")}
    except UnicodeDecodeError:
        return {
            key: paths.plain_text(path),
            f"{key}_b64": base64.b64encode(path).decode("ascii"),
        }


def entry_record(entry: Entry, path: bytes) -> dict[str, Any]:
    """Return the object of a file, directory or link. ``path`` is absolute."""
    record: dict[str, Any] = {
        **path_record("name", paths.name_of(path) or b"/"),
        **path_record("path", path),
        "type": entry.type,
        "size": None if entry.type == "dir" else entry.size,
        "mode": f"{entry.mode:04o}",
        "mtime": iso_time(entry.mtime_ns),
        "digest": _digest(entry.digest),
    }
    if entry.target is not None:
        record |= path_record("target", entry.target)
    return record


def space_record(space: SpaceInfo) -> dict[str, Any]:
    """Return the object of an account's quota and usage."""
    record = {"total": space.total, "used": space.used, "held": space.held, "free": space.free}
    record |= {"kept": space.kept, "kept_uploads": space.kept_uploads, "disk_free": space.disk_free}
    record |= {"trash": space.trash, "trash_files": space.trash_files}
    if space.used_files is not None:
        record |= {"total_files": space.total_files, "used_files": space.used_files}
    return record


def hash_record(hashed: Hashed, path: bytes) -> dict[str, Any]:
    """Return the object of a file's digest."""
    return {
        **path_record("path", path),
        "algorithm": digests.ALGORITHM,
        "digest": hashed.digest.hex(),
        "size": hashed.size,
    }


def usage_record(path: bytes | None, size: int, files: int) -> dict[str, Any]:
    """Return the object of the usage below a path; None for all paths together."""
    begin = {"total": True} if path is None else path_record("path", path)
    return {**begin, "size": size, "files": files}


def kept_record(one: KeptUpload) -> dict[str, Any]:
    """Return the object of an interrupted upload."""
    path = {"path": None} if one.path is None else path_record("path", one.path)
    return {
        **path,
        "size": one.size,
        "total": one.total,
        "touched": iso_seconds(one.touched) if one.touched else None,
        "age_seconds": age_of(one),
        "until": iso_seconds(one.until),
    }


def age_of(one: KeptUpload) -> int | None:
    """Return the seconds since an interrupted upload received its last bytes; None if unknown."""
    return max(0, int(time.time()) - one.touched) if one.touched else None


def operation_record(one: TrashedOperation, short: str) -> dict[str, Any]:
    """Return the object of an operation in the trash. ``short`` is its displayed ID."""
    return {
        "operation": one.name,
        "id": short,
        "time": iso_time(one.time_ns),
        "words": paths.printable(one.words) or None,
        **_path_or_none("path", one.first or None),
        "items": one.items,
        "kept": one.kept,
        "size": one.size,
        "files": one.files,
        "counted": one.counted,
        "expires": moment(one.expires),
        "client": None if one.client is None else one.client.hex(),
        "undone": one.undone,
        "undoes": one.undoes,
        "given_up": one.given_up,
    }


def trashed_record(one: TrashItem, operation: TrashedOperation) -> dict[str, Any]:
    """Return the object of an entry that an operation changed."""
    record = {
        "operation": operation.name,
        "item": one.name or None,
        "time": iso_time(one.time_ns),
        "words": paths.printable(operation.words) or None,
        "what": one.what,
        **path_record("path", one.path),
        "type": one.type,
        "size": one.size,
        "files": one.files,
        "mtime": iso_time(one.mtime_ns),
        "digest": _digest(one.digest),
        "state": one.state,
        "expires": moment(operation.expires),
        "client": None if operation.client is None else operation.client.hex(),
        "undone": operation.undone,
    }
    return record if one.target is None else record | path_record("target", one.target)


def found_record(one: Found) -> dict[str, Any]:
    """Return the object of a server found on the local network."""
    return {
        "name": one.name,
        "address": one.addresses[0],
        "addresses": one.addresses,
        "port": one.port,
        "version": one.version,
        "fingerprint": one.fingerprint,
        "plaintext": one.fingerprint is None,
    }


def own_token_record(token: TokenInfo) -> dict[str, Any]:
    """Return the object of a token of the account."""
    return {
        "id": token.id,
        "name": token.name,
        "created": iso_seconds(token.created),
        "expires": moment(token.expires),
        "used": moment(token.used),
        "current": token.current,
        "parent": token.parent,
    }


def saved_server_record(name: str, server: Server, path: str, is_default: bool) -> dict[str, Any]:
    """Return the object of a saved server. ``path`` is the directory of a bookmark."""
    address = str(server.address)
    record = {"name": name, "server": address, "plaintext": server.plaintext}
    return record | {"default": is_default, "path": path or None}


def user_record(user: str, server: str) -> dict[str, Any]:
    """Return the object of the account that is logged in."""
    return {"user": user, "server": server}


def alias_record(name: str, line: str) -> dict[str, Any]:
    """Return the object of an alias of the shell."""
    return {"name": name, "line": line}


def setting_record(name: str, value: str) -> dict[str, Any]:
    """Return the object of a setting of the shell."""
    return {"name": name, "value": value}


def history_record(number: int, line: str) -> dict[str, Any]:
    """Return the object of a line in the shell's history."""
    return {"number": number, "line": line}


def job_record(job: Job) -> dict[str, Any]:
    """Return the record of a job of the shell."""
    headway = job.headway
    return {
        "job": job.number,
        "state": job.state.value,
        "words": paths.printable(job.words),
        "done": 0 if headway is None else headway.done,
        "size": None if headway is None else headway.size,
        "files": 0 if headway is None else headway.count,
        "failed": 0 if headway is None else headway.failed,
        "status": job.status,
        "started": moment(int(job.started)),
    }


def unfinished_record(number: int, transfer: Transfer) -> dict[str, Any]:
    """Return the record of an unfinished transfer."""
    return {
        "number": number,
        "server": transfer.server,
        "directory": paths.printable(transfer.directory),
        "local_directory": paths.printable(transfer.local_directory),
        "words": paths.printable(transfer.words),
        "when": moment(transfer.when),
    }


def script_record(script: str) -> dict[str, Any]:
    """Return the object of a completion script for a shell of the system."""
    return {"script": script}


def connection_record(
    client: Client, name: str | None, token: TokenInfo | None, space: SpaceInfo
) -> dict[str, Any]:
    """Return the object of the current connection: server, user, encryption, token, quota."""
    return {
        "server": client.address.endpoint,
        "name": name,
        "user": client.user,
        "encrypted": client.connection.encrypted,
        "fingerprint": client.connection.fingerprint,
        **path_record("cwd", client.cwd),
        "token": None if token is None else token.id,
        "token_expires": None if token is None else moment(token.expires),
        "space": space_record(space),
    }


def moment(seconds: int | None) -> str | None:
    """Return a time in ISO 8601, or None."""
    return None if seconds is None else iso_seconds(seconds)


def action_record(
    action: str,
    path: bytes | None,
    target: bytes | None = None,
    *,
    status: str = "done",
    error: FtpError | None = None,
) -> dict[str, Any]:
    """Return the object of an action on a path.

    Args:
        target: The new path, or the target of a new link.
        status: ``done``, ``same``, ``skipped``, ``failed`` or ``planned``.
    """
    record: dict[str, Any] = {
        "action": action,
        **_path_or_none("path", path),
        **_path_or_none("target", target),
        "status": status,
        "error": None,
    }
    return record if error is None else record | _why(error)


def removed_record(removed: Removed) -> dict[str, Any]:
    """Return the keys about what was removed: its operation, and whether it is in the trash."""
    return {"operation": removed.operation, "trashed": removed.trashed}


def done_record(action: str, **more: Any) -> dict[str, Any]:
    """Return the object of an action without a path: on an account, a token, a saved server."""
    return {"action": action, **more, "status": "done", "error": None}


def totals_record(
    *,
    done: int = 0,
    unchanged: int = 0,
    skipped: int = 0,
    failed: int = 0,
    deleted: int = 0,
    size: int = 0,
    seconds: float = 0.0,
    status: int = 0,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Return the summary, which is the last object of a command with several results.

    Args:
        status: The exit status.
    """
    return {
        "summary": True,
        "dry_run": dry_run,
        "done": done,
        "unchanged": unchanged,
        "skipped": skipped,
        "failed": failed,
        "deleted": deleted,
        "bytes": size,
        "seconds": round(seconds, 6),
        "status": status,
    }


def result_record(result: Result, action: str) -> dict[str, Any]:
    """Return the object of a file of a transfer, or of a step of a sync or dry run."""
    same = result.unchanged and result.status in ("done", "planned")
    status = "same" if same else result.status
    if result.step is not None:
        record = _step_record(result, result.step, status)
    else:
        record = action_record(
            action,
            result.source,
            result.target,
            status=status,
        )
        record |= _ends(result)
        record["digest"] = _digest(result.digest)
        if result.unchanged:
            record["unchanged"] = True
    if result.error is not None:
        return record | _why(result.error)
    return record if result.remark is None else record | {"remark": result.remark}


def _step_record(result: Result, step: SyncStep, status: str) -> dict[str, Any]:
    if step.action in _FROM_TO:
        record = action_record(step.action, result.source, result.target, status=status)
        record |= _ends(result)
    else:
        record = action_record(step.action, result.target, status=status)
        record["type"] = step.type
    if step.action in ("delete", "remove"):
        record |= {"count": step.count, "size": step.size}
    if result.removed is not None:
        record |= removed_record(result.removed)
    if step.why:
        record["why"] = step.why
    if result.digest is not None:
        record["digest"] = _digest(result.digest)
    return record


def _ends(result: Result) -> dict[str, Any]:
    """Return the size, and the paths under the keys of earlier versions."""
    return {
        **path_record("source", result.source),
        **path_record("destination", result.target),
        "size": result.size,
    }


_FROM_TO = frozenset({"put", "get", "rename", "copy", "move"})
"""Actions with a source and a destination."""


def error_record(
    error: FtpError, *, message: str = "", exit_code: int | None = None, line: int | None = None
) -> dict[str, Any]:
    """Return the object of an error.

    Args:
        message: The text, if it isn't the error's own.
        exit_code: The exit status because of this error; None for the error's own.
        line: The line of the script in which it occurred.
    """
    record = _why(error)
    if message:
        record["message"] = message
    path = error.path if isinstance(error, (CommandError, UploadTakenOver)) else None
    record |= _path_or_none("path", path)
    record["exit"] = error.exit_code if exit_code is None else exit_code
    return record if line is None else record | {"line": line}


def _why(error: FtpError) -> dict[str, Any]:
    """Return the keys about an error except its path."""
    record: dict[str, Any] = {"error": error.code, "message": paths.printable(str(error))}
    if isinstance(error, CommandError):
        record |= {name: fact for name, fact in facts_of(error).items() if name != "path"}
        if error.needed is not None:
            record["free"] = error.free
    return {
        name: paths.printable(value) if isinstance(value, str) else value
        for name, value in record.items()
    }


def _path_or_none(key: str, path: bytes | None) -> dict[str, Any]:
    return {key: None} if path is None else path_record(key, path)


def _digest(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()


def summary_record(summary: Summary, *, dry_run: bool = False) -> dict[str, Any]:
    """Return the summary of a transfer."""
    totals = totals_record(
        done=summary.done,
        unchanged=summary.unchanged,
        skipped=summary.skipped,
        failed=summary.failed,
        size=summary.size,
        seconds=summary.seconds,
        status=summary.exit_code,
        dry_run=dry_run,
    )
    return totals | {"size": summary.size}  # the key of earlier versions


def sync_record(summary: SyncSummary) -> dict[str, Any]:
    """Return the summary of a sync."""
    totals = totals_record(
        done=summary.sent,
        unchanged=summary.unchanged,
        skipped=summary.skipped,
        failed=summary.failed,
        deleted=summary.deleted,
        size=summary.size,
        seconds=summary.seconds,
        status=summary.exit_code,
        dry_run=summary.dry_run,
    )
    return totals | {
        "sent": summary.sent,  # the earlier name of "done"
        "renamed": summary.renamed,
        "directories": summary.directories,
        "attributes": summary.attributes,
    }


def finding_record(finding: Finding) -> dict[str, Any]:
    """Return the object of a finding of `check`."""
    record: dict[str, Any] = {**path_record("path", finding.path or b".")}
    record |= {"state": finding.state, "why": finding.why or None}
    if finding.error:
        return record | {"error": finding.error, "message": paths.printable(finding.message)}
    return record | {"type": finding.type}


def check_record(summary: CheckSummary) -> dict[str, Any]:
    """Return the summary of a check."""
    return {
        "summary": True,
        "same": summary.same,
        "differ": summary.differ,
        "only_here": summary.only_here,
        "only_there": summary.only_there,
        "unreadable": summary.unreadable,
        "seconds": round(summary.seconds, 6),
        "status": summary.exit_code,
    }
