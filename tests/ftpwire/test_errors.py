"""The error tree: codes, exit statuses, and errno to error."""

from __future__ import annotations

import errno
import os

import pytest

from ftpwire import errors
from ftpwire.channel import TimedOut
from ftpwire.errors import (
    BY_CODE,
    AlreadyExists,
    Busy,
    CommandError,
    ConnectionLost,
    DiskFailed,
    DiskFull,
    Forbidden,
    FtpError,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotRegular,
    ProtocolError,
    ReadOnly,
    TrustError,
    VerificationFailed,
    from_oserror,
)
from ftpwire.tls import TlsError

EXIT_CODES = {
    # 1: some of it failed, or any other error
    "failed": 1,
    "internal": 1,
    "invalid-path": 1,
    "exists": 1,
    "not-newer": 1,
    "not-atomic": 1,
    "is-a-directory": 1,
    "not-a-directory": 1,
    "not-empty": 1,
    "not-regular": 1,
    "source-changed": 1,
    "busy": 1,
    "bad-account": 1,
    "name-taken": 1,
    "too-many": 1,
    # 3: log-in refused
    "login-refused": 3,
    "banned": 3,
    # 4: no connection, or lost and not regained
    "connection-lost": 4,
    "connect-failed": 4,
    "session-ended": 4,
    "taken-over": 4,
    "lease-lost": 1,
    # 5: not found
    "not-found": 5,
    "expired": 5,
    # 6: not permitted
    "forbidden": 6,
    "not-logged-in": 6,
    "registration-closed": 6,
    # 7: quota or disk full
    "quota": 7,
    "disk-full": 7,
    "disk-gone": 7,
    "disk-failed": 1,
    "read-only": 6,
    # 8: verification failed
    "verification-failed": 8,
    "stored-file-damaged": 8,
    # 9: the server's key changed or is unknown
    "untrusted": 9,
    "host-unknown": 9,
    "host-key-changed": 9,
    "certificate-invalid": 9,
    # 10: protocol or version mismatch
    "protocol": 10,
    "frame-too-big": 10,
    "unknown-kind": 10,
    "truncated-frame": 10,
    "bad-message": 10,
    "bad-request": 10,
    "unknown-request": 10,
    "bad-magic": 10,
    "version": 10,
    # 11: stopped by a safety limit
    "safety-limit": 11,
    # 12: something else is in the way of what is restored
    "conflict": 12,
    # 130: interrupted
    "interrupted": 130,
    "cancelled": 130,
}


def every_class() -> list[type[FtpError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, FtpError)
    ]


def test_exit_codes():
    assert {code: kind.exit_code for code, kind in BY_CODE.items()} == EXIT_CODES


@pytest.mark.parametrize("kind", [TimedOut, TlsError])
def test_errors_of_the_connection_mean_no_connection(kind):
    assert issubclass(kind, ConnectionLost)
    assert kind.exit_code == 4
    assert kind.code not in BY_CODE  # they never travel: the connection is gone


def test_by_code_is_a_bijection():
    assert all(kind.code == code for code, kind in BY_CODE.items())
    assert len(set(BY_CODE.values())) == len(BY_CODE)
    # of the base itself nothing travels: "failed" is any request's ordinary failure
    # TooLong is found here only, and has the code of another
    assert set(BY_CODE.values()) == set(every_class()) - {FtpError, errors.TooLong}
    assert BY_CODE["failed"] is CommandError


@pytest.mark.parametrize("kind", every_class())
def test_every_class_is_described_and_drawn(kind):
    assert kind.__doc__
    if not issubclass(kind, CommandError) or kind is CommandError:
        assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=BY_CODE)
def test_one_question_divides_the_tree(kind):
    """Does the connection survive? Every class answers it once."""
    families = [ProtocolError, ConnectionLost, TrustError, errors.Interrupted, CommandError]
    assert sum(issubclass(kind, family) for family in families) == 1
    assert not issubclass(kind, OSError)  # ``except OSError`` means the file system


def test_relatives():
    assert issubclass(errors.NotLoggedIn, Forbidden)
    assert issubclass(errors.StoredFileDamaged, VerificationFailed)
    assert issubclass(errors.ConnectFailed, ConnectionLost)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        pytest.param(getattr(errno, name), kind, id=name)
        for name, kind in {
            "ENOENT": NotFound,
            "ENOTDIR": NotADirectory,
            "EISDIR": IsADirectory,
            "EEXIST": AlreadyExists,
            "ENOTEMPTY": NotEmpty,
            "EACCES": Forbidden,
            "EPERM": Forbidden,
            "EROFS": ReadOnly,
            "EXDEV": Forbidden,
            "ELOOP": InvalidPath,
            "ENAMETOOLONG": InvalidPath,
            "EINVAL": InvalidPath,
            "ENOSPC": DiskFull,
            "EDQUOT": DiskFull,
            "EFBIG": DiskFull,
            "ENXIO": NotRegular,
            "EBUSY": Busy,
            "EIO": DiskFailed,
            "EMFILE": CommandError,
            "ENOSYS": CommandError,
        }.items()
    ],
)
def test_from_oserror(number, kind):
    error = from_oserror(OSError(number, os.strerror(number), "/srv/secret/home"), "/docs/a.txt")
    assert type(error) is kind
    text = str(error)
    assert text.startswith("/docs/a.txt: ")
    assert "secret" not in text  # local paths are nobody's business
    assert "errno" not in text.lower()
    assert str(from_oserror(OSError(number, ""), "")) == text.removeprefix("/docs/a.txt: ")


@pytest.mark.parametrize("error", [OSError(), OSError("local words"), OSError(0, "zero")])
def test_from_oserror_without_a_number(error):
    found = from_oserror(error, "/a")
    assert type(found) is CommandError
    assert str(found) == "/a: it failed"


def test_from_oserror_of_a_number_that_nobody_knows():
    found = from_oserror(OSError(99999, "?"), "/a")
    assert type(found) is CommandError
    assert "99999" in str(found)


def test_command_errors_report_what_was_missing():
    error = errors.QuotaExceeded("full", needed=5, free=3)
    assert (str(error), error.needed, error.free) == ("full", 5, 3)
    assert (NotFound("x").needed, NotFound("x").free) == (None, None)
