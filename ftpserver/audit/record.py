"""One record of the audit log: its fields, and the line that it becomes.

Lives here: the format. Lives elsewhere: which records there are (context.py), files (files.py).
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
    messages.PutFiles: "put",  # as a whole only where all of it is refused, or cut
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
"""What is recorded, however it ends. Of other requests: that they were forbidden."""
REQUESTS = frozenset(str(one.__struct_config__.tag) for one in get_args(messages.Request))
"""What those are called that have no other name."""
OTHERS = frozenset(
    {"logout", "start", "stop", "reload", "ban", "moved-on", "dropped", "evict", "measured"}
)
"""Events that are no requests, and no commands of an administrator (cli/audit.py). ``evict``: trash
was given up, for its age or because room was needed. ``measured``: a tree that is in the trash was
counted, which its removal does not do."""


class Record(msgspec.Struct, omit_defaults=True, rename={"size": "bytes"}):
    """One line of the file. What isn't known of an event is left out.

    Attributes:
        time: ISO 8601, UTC, with milliseconds: when it ended.
        outcome: ``ok``, ``refused``, ``failed`` or ``cut``.
        user: The account; of a refused log-in, the name that was given.
        path, target: Absolute remote paths; U+FFFD stands for what is no UTF-8, and then the
            bytes are in ``path_b64`` and ``target_b64``.
        size: Bytes, as ``bytes``: of the file, or of what was removed, copied or given up. Of a
            tree that went to the trash they are in a record ``measured`` of its ``operation``.
        files: How many were removed, copied, restored or given up; in the same way. How many are
            not stored, where one reason holds for all of a request.
        operation: Of the trash: what the thing went to, was restored or purged from, or lies in.
        digest: BLAKE3, hexadecimal.
        seconds: How long it took.
        code, reason: As the client was told; of a log-in, the true reason.
        by: The system's user that a command of administration ran as.
        sudo_user: Who gave the command through sudo, as sudo says, where that is somebody else.
        login_user: Who had logged in to the system and gave it, as the kernel knows, where that is
            somebody else.
        count: Of a ``dropped`` record: how many others are missing.
        details: What else there is to say.
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
    """ISO 8601 in UTC with milliseconds."""
    global _seconds  # most records share their second with the one before
    whole = int(at)
    known, text = _seconds
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _seconds = whole, text
    return f"{text}.{int((at - whole) * 1000):03d}Z"


def shown(path: bytes) -> tuple[str, str | None]:
    """A remote path as JSON can hold it, and its bytes in base64 where that loses something."""
    if b"//" in path or b"/." in path:
        try:
            path = paths.join(*paths.split(path))
        except FtpError:
            pass  # as it came: it was refused
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
    """A record as a line of printable ASCII: no name can end it early, or steer a terminal."""
    try:
        line = _encode(record)
    except (UnicodeEncodeError, msgspec.MsgspecError):
        line = b"\xff"  # a lone surrogate: json knows how to write it
    if not line.isascii() or b"\x7f" in line:
        told = json.dumps(msgspec.to_builtins(record), separators=(",", ":"))
        line = told.replace("\x7f", "\\u007f").encode("ascii")
    return line + b"\n"
