"""Audit records of administrators' commands, which the commands write themselves.

Lives here: writing such a record, and finding out who runs the command. Lives elsewhere: which
commands are recorded (cli/audit.py), the files (files.py).
"""

from __future__ import annotations

import errno
import logging
import os
import pwd
import time
from pathlib import Path
from typing import Any

from ftpserver.audit.files import FILE_NAME, open_to_append, write_whole
from ftpserver.audit.record import FAILED, OK, Record, line_of, timestamp

logger = logging.getLogger("ftpd.audit")

_LOGIN_UID = Path("/proc/self/loginuid")
_NOBODY = 2**32 - 1
"""The login user of processes that no user has started, such as services."""
_LONGEST_USER = 256


def administered(state: Path, event: str, *, outcome: str = OK, **fields: Any) -> None:
    """Record what an administrator's command did, whether a server runs or not.

    A full disk doesn't fail the command; the error is only logged. If the command itself failed on
    a read-only file system, it reports that, and nothing is logged here.
    """
    record = Record(timestamp(time.time()), event, outcome, **given_by(), **fields)
    path = state / FILE_NAME
    try:
        fd = open_to_append(path)
        try:
            if os.geteuid() == 0:  # the server that appends to the file may run as another user
                owner = state.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
            write_whole(fd, line_of(record))
        finally:
            os.close(fd)
    except OSError as error:
        if outcome != FAILED or error.errno != errno.EROFS:
            logger.error("%s: cannot be written: %s", path, os.strerror(error.errno or 0).lower())
    else:
        from ftpserver.audit.notify import announce

        announce(state)


def given_by() -> dict[str, Any]:
    """Return who runs this process's command: a record's ``by``, ``sudo_user`` and ``login_user``.

    The first is the user that the process belongs to. The others are there if they differ: sudo
    leaves its user in a variable, which any user can set; the kernel (audit(8), pam_loginuid(8))
    remembers who has logged in, no matter what was done since.
    """
    found: dict[str, Any] = {"by": _user_name(os.getuid())}
    sudo_user = os.environ.get("SUDO_USER", "")[:_LONGEST_USER]
    if sudo_user and sudo_user != found["by"]:
        found["sudo_user"] = sudo_user
    login_user = _login_user()
    if login_user is not None and login_user != found["by"]:
        found["login_user"] = login_user
    return found


def _login_user() -> str | None:
    try:
        uid = int(_LOGIN_UID.read_text())
    except (OSError, ValueError):
        return None  # not Linux, or a kernel without login users
    return None if uid == _NOBODY else _user_name(uid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
