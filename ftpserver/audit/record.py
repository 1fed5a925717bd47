"""One record of the audit log: its fields, and the line that it becomes.

Lives here: the format. Lives elsewhere: which events are recorded (context.py), files (files.py).
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any, get_args

import msgspec

from ftpwire import messages, paths
from ftpwire.errors import FtpError
from ftpwire.messages import Message

OK, REFUSED, FAILED, CUT = "ok", "refused", "failed", "cut"
MAX_REASON = 1000
EVENTS: dict[type[Message], str] = {
    messages.Login: "login",
    messages.LoginToken: "login",
    messages.Register: "register",
    messages.ChangePassword: "password",
    messages.IssueToken: "token-issue",
    messages.RevokeToken: "token-revoke",
    messages.Get: "get",
    messages.GetFiles: "get",
    messages.Put: "put",
    messages.PutFiles: "put",  # one record only if all of it was refused or cut
    messages.MakeDir: "mkdir",
    messages.MakeLink: "link",
    messages.SetAttributes: "attributes",
    messages.BeginTree: "begin-tree",
    messages.EndTree: "end-tree",
    messages.Remove: "remove",
    messages.DropKept: "drop-kept",
    messages.Move: "move",
    messages.Copy: "copy",
    messages.Restore: "restore",
    messages.Purge: "purge",
}
"""The requests that are always recorded. Others are recorded only if they were forbidden."""
REQUESTS = frozenset(str(one.__struct_config__.tag) for one in get_args(messages.Request))
"""The event names of the other requests."""
OTHERS = frozenset(
    {"logout", "start", "stop", "reload", "ban", "moved-on", "dropped", "evict", "measured"}
)
"""Events that are neither requests nor administrators' commands (cli/audit.py). ``evict``:
something was purged from the trash, because of its age or to free space. ``measured``: a tree in
the trash was counted, which its removal does not do."""


class Record(msgspec.Struct, omit_defaults=True, rename={"size": "bytes"}):
    """One line of the file. Unknown fields are left out.

    Attributes:
        time: When it ended: ISO 8601, UTC, with milliseconds.
        outcome: ``ok``, ``refused``, ``failed`` or ``cut``.
        user: The account; for a refused log-in, the name that was given.
        path, target: Absolute remote paths. U+FFFD stands for bytes that aren't UTF-8; then
            ``path_b64`` and ``target_b64`` have the bytes.
        size: Bytes, in JSON ``bytes``: of the file, or of what was removed, copied or deleted from
            the trash. For a tree moved to the trash, they are in a record ``measured`` with the
            same ``operation``.
        files: How many were removed, copied, restored or purged, likewise. For a
            failed request for many files: how many were not stored.
        operation: The trash operation that the entry went to, was restored or purged from, or is
            in.
        digest: BLAKE3, hexadecimal.
        seconds: The duration.
        code, reason: As shown to the client; for a log-in, the true reason.
        by: The system user that an administrator's command ran as.
        sudo_user: The user who ran the command through sudo, as reported by sudo, if different.
        login_user: The user who had logged in to the system, as known to the kernel, if different.
        count: For a ``dropped`` record: how many others are missing.
        details: Further facts.
    """

    time: str
    event: str
    outcome: str
    user: str | None = None
    address: str | None = None
    session: str | None = None
    path: str | None = None
    path_b64: str | None = None
    target: str | None = None
    target_b64: str | None = None
    size: int | None = None
    files: int | None = None
    operation: str | None = None
    digest: str | None = None
    seconds: float | None = None
    code: str | None = None
    reason: str | None = None
    by: str | None = None
    sudo_user: str | None = None
    login_user: str | None = None
    count: int | None = None
    details: dict[str, Any] | None = None


_seconds = (-1, "")


def timestamp(at: float) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds."""
    global _seconds  # most records share their second with the one before
    whole = int(at)
    known, text = _seconds
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _seconds = whole, text
    return f"{text}.{int((at - whole) * 1000):03d}Z"


def shown(path: bytes) -> tuple[str, str | None]:
    """Return a remote path as text, and its bytes in base64 if they aren't UTF-8."""
    if b"//" in path or b"/." in path:
        try:
            path = paths.join(*paths.split(path))
        except FtpError:
            pass  # invalid, so the request was refused: show it as sent
    return text_of(path)


def text_of(path: bytes) -> tuple[str, str | None]:
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        return paths.plain_text(path), base64.b64encode(path).decode("ascii")


def with_paths(fields: dict[str, Any]) -> dict[str, Any]:
    for name in ("path", "target"):
        if isinstance(fields.get(name), bytes):
            fields[name], fields[f"{name}_b64"] = shown(fields[name])
    return fields


_encode = msgspec.json.Encoder().encode


def line_of(record: Record) -> bytes:
    """Return a record as a line of printable ASCII: no name can end it or control a terminal."""
    try:
        line = _encode(record)
    except (UnicodeEncodeError, msgspec.MsgspecError):
        line = b"\xff"  # a lone surrogate, which only the json module can write
    if not line.isascii() or b"\x7f" in line:
        text = json.dumps(msgspec.to_builtins(record), separators=(",", ":"))
        line = text.replace("\x7f", "\\u007f").encode("ascii")
    return line + b"\n"
