"""The objects that `--json` prints: one for each result, and for each error.

Lives here: the objects of all commands, as documented in docs/json.md. Lives elsewhere: the keys of
accounts (accounts/records.py), printing (options.py).

Before a key is renamed or removed, one version has both the old and the new one. Sizes are in
bytes, durations in seconds, times in ISO 8601 (UTC). An unknown value is null.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ftpwire.paths import plain_text, printable
from ftpwire.units import iso

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.accounts.invitations import Invitation
    from ftpserver.admin.scrub import Examined
    from ftpserver.admin.trash import OperationInTrash
    from ftpserver.admin.verify import Finding
    from ftpserver.daemon.control import (
        BanInfo,
        DiscoveryInfo,
        Status,
        TrashEmptied,
        TrashInfo,
        TrashRestored,
    )
    from ftpserver.serving.stats import SessionInfo
    from ftpwire.messages import TokenInfo


def action_record(action: str, **more: Any) -> dict[str, Any]:
    """Return the object of an action."""
    return {"action": action, **more, "status": "done", "error": None}


def error_record(
    message: str, code: str, exit_code: int, path: bytes | None = None
) -> dict[str, Any]:
    """Return the object of an error, in the form of `ftp --json`."""
    about = {"path": None} if path is None else path_record("path", path)
    return {"error": code, "message": printable(message), **about, "exit": exit_code}


def summary_record(status: int, **counts: Any) -> dict[str, Any]:
    """Return the last object of a command with many results; ``status`` is the exit status."""
    return {"kind": "summary", "summary": True, **counts, "status": status}


def path_record(name: str, path: bytes) -> dict[str, str]:
    """Return a path as text, and also in Base64 (``NAME_b64``) if it isn't UTF-8."""
    text = plain_text(path)
    record = {name: text}
    if text.encode() != path:
        record[f"{name}_b64"] = base64.b64encode(path).decode("ascii")
    return record


def moment(seconds: int | None) -> str | None:
    """Return a time in ISO 8601, or None."""
    return None if seconds is None else iso(seconds)


def iso_of(seconds: float) -> str:
    """Format a time in ISO 8601, in whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status_record(found: Status) -> dict[str, Any]:
    """Return the object of the server's state."""
    return {
        "software": found.software,
        "process": found.process,
        "state": found.state,
        "address": found.address,
        "unix": found.unix,
        "trouble": found.trouble,
        "warnings": found.warnings,
        "fingerprint": found.fingerprint,
        "since": iso_of(found.since),
        "sessions": found.sessions,
        "not_logged_in": found.unauthenticated,
        "transfers": found.transfers,
        "bytes_in": found.bytes_in,
        "bytes_out": found.bytes_out,
        "accounts": found.accounts,
        "discovery": discovery_record(found.discovery),
        "workers": found.workers,
        "trash": trash_record(found.trash),
    }


def trash_record(found: TrashInfo | None) -> dict[str, int] | None:
    """Return the object of the trash of all accounts."""
    if found is None:
        return None
    return {
        "size": found.size,
        "operations": found.operations,
        "given_up_today": found.given_up_today,
    }


def discovery_record(found: DiscoveryInfo | None) -> dict[str, int] | None:
    """Return the object of the requests for discovery."""
    if found is None:
        return None
    return {
        "port": found.port,
        "answered": found.answered,
        "limited": found.limited,
        "dropped": found.dropped,
    }


def session_record(one: SessionInfo) -> dict[str, Any]:
    """Return the object of a session."""
    record: dict[str, Any] = {
        "id": one.id,
        "user": one.user,
        "from": one.peer,
        "since": iso_of(one.since),
        "request": one.request,
    }
    for name, path in (("path", one.path), ("target", one.target)):
        if path is not None:
            record |= path_record(name, path)
    return record | {
        "idle": round(one.quiet, 1),
        "bytes_in": one.bytes_in,
        "bytes_out": one.bytes_out,
        "speed": int(one.speed),
    }


def ban_record(one: BanInfo) -> dict[str, Any]:
    """Return the object of a ban."""
    return {
        "subject": one.subject,
        "address": one.address,
        "account": one.account,
        "failures": one.failures,
        "reason": one.reason,
        "until": iso_of(one.until),
    }


def token_record(one: TokenInfo) -> dict[str, Any]:
    """Return the object of a token."""
    return {
        "id": one.id,
        "name": one.name,
        "created": iso(one.created),
        "expires": moment(one.expires),
        "used": moment(one.used),
        "parent": one.parent,
    }


def invitation_record(one: Invitation) -> dict[str, Any]:
    """Return the object of an invitation, without its code."""
    return {
        "id": one.id,
        "quota": one.quota,
        "uses": one.uses,
        "created": iso(one.created),
        "expires": moment(one.expires),
    }


def trash_of_record(account: Account, found: list[OperationInTrash]) -> dict[str, Any]:
    """Return the object of an account's trash."""
    return {
        "account": account.name,
        "size": sum(one.size for one in found),
        "files": sum(one.files for one in found),
        "counted": all(one.counted for one in found),
        "operations": len(found),
        "oldest": iso(min(one.began for one in found)) if found else None,
    }


def trashed_record(user: str, one: OperationInTrash, short: str) -> dict[str, Any]:
    """Return the object of an operation in the trash. ``short`` is its displayed ID."""
    begin, path = one.contents.begin, one.path
    return {
        "account": user,
        "id": short,
        "operation": one.name,
        "time": iso(one.began),
        "words": "" if begin is None else printable(begin.words),
        "kept": one.items,
        "size": one.size,
        "files": one.files,
        "counted": one.counted,
        **({"path": None} if path is None else path_record("path", path)),
        "undone": one.contents.undone is not None,
    }


def restored_record(user: str, done: TrashRestored) -> dict[str, Any]:
    """Return the object of the result of restoring an operation."""
    return {
        "action": "trash-restore",
        "account": user,
        "operation": done.operation,
        "restored": done.items,
        "already": done.already,
        "gone": done.gone,
        "conflicts": [
            path_record("path", one.path) | {"error": one.code, "message": printable(one.message)}
            for one in done.conflicts
        ],
        "more_conflicts": done.more_conflicts,
        "status": "failed" if done.conflicts else "done",
        "error": "conflict" if done.conflicts else None,
    }


def emptied_record(user: str | None, done: TrashEmptied) -> dict[str, Any]:
    """Return the object of the result of emptying the trash."""
    counts = {"operations": done.operations, "size": done.size, "files": done.files}
    return action_record(
        "trash-empty", account=user, **counts, left=list(map(printable, done.left))
    )


def finding_record(finding: Finding) -> dict[str, Any]:
    """Return the object of a finding of `ftpd check`."""
    return {
        "kind": finding.kind,
        "account": finding.account,
        **({"path": None} if finding.path is None else path_record("path", finding.path)),
        "expected": finding.expected,
        "found": finding.found,
        "weight": finding.weight.value,
    }


def examined_record(account: Account, examined: Examined) -> dict[str, Any]:
    """Return the object of a file that `ftpd scrub` reports."""
    return {
        "kind": examined.verdict.value,
        "account": account.name,
        **path_record("path", b"/" + examined.path),
        "expected": examined.expected,
        "found": examined.found,
    }
