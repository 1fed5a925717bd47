"""Errors, their codes on the wire, and the exit status of each.

FtpError
├── ProtocolError           the peer broke the protocol: the connection is closed
│   ├── FrameTooBig, UnknownKind, TruncatedFrame, BadMessage, BadMagic
│   └── VersionMismatch
├── ConnectionLost          the connection ended, or could not be made
│   └── ConnectFailed, SessionEnded (and UploadTakenOver)
├── TrustError              the server's key is not the expected one
│   └── UnknownHost, HostKeyChanged, UntrustedCertificate
├── Interrupted             the user asked to stop (Ctrl-C)
├── TooLong                 a list is too long to be kept in memory
└── CommandError            one request failed: the session continues
    └── NotFound, Forbidden, QuotaExceeded, … (below)

Lives here: the tree, the codes on the wire, exit statuses, the mapping from errno to errors.
Lives elsewhere: how errors are shown (ftpclient), when they are sent (ftpserver).
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar, Self


class FtpError(Exception):
    """Base of all errors that this software raises on purpose."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def with_text(self, text: str) -> Self:
        """Return the same error with another text."""
        made = type(self)(text)
        made.__dict__.update(self.__dict__)
        return made


class ProtocolError(FtpError):
    """The peer broke the protocol. The position in the byte stream can no longer be trusted."""

    code = "protocol"
    exit_code = 10


class FrameTooBig(ProtocolError):
    """A frame announces more bytes than the limit."""

    code = "frame-too-big"


class UnknownKind(ProtocolError):
    """No frame of that kind exists."""

    code = "unknown-kind"


class TruncatedFrame(ProtocolError):
    """The stream ended inside a frame."""

    code = "truncated-frame"


class BadMessage(ProtocolError):
    """A control payload is not the msgpack of a known message."""

    code = "bad-message"


class BadMagic(ProtocolError):
    """The first frame is not a HELLO: the peer speaks something else."""

    code = "bad-magic"


class VersionMismatch(ProtocolError):
    """The two sides have no protocol version in common.

    Attributes:
        versions: Versions that the server speaks; empty if unknown.
    """

    code = "version"

    def __init__(self, message: str, versions: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.versions = versions


class ConnectionLost(FtpError):
    """The connection ended before the work was done.

    It is no OSError, so that ``except OSError`` around a command means the file system.
    """

    code = "connection-lost"
    exit_code = 4


class ConnectFailed(ConnectionLost):
    """No connection could be made."""

    code = "connect-failed"


class SessionEnded(ConnectionLost):
    """The server ended this session on purpose. Connecting again automatically would not help."""

    code = "session-ended"


class UploadTakenOver(SessionEnded):
    """Another session has taken over the upload.

    The client must not reconnect automatically: two clients would take the upload from each other
    forever.

    Attributes:
        path: Target of the upload, if the server has sent it.
    """

    code = "taken-over"

    def __init__(self, message: str, path: bytes | None = None) -> None:
        super().__init__(message)
        self.path = path


class TrustError(FtpError):
    """The server's identity could not be verified."""

    code = "untrusted"
    exit_code = 9


class UnknownHost(TrustError):
    """The server's key is unknown, and nothing vouches for it."""

    code = "host-unknown"


class HostKeyChanged(TrustError):
    """The server's key differs from the saved one."""

    code = "host-key-changed"


class UntrustedCertificate(TrustError):
    """The server's certificate is not valid: it has expired, or is for another name."""

    code = "certificate-invalid"


class Interrupted(FtpError):
    """The user asked to stop."""

    code = "interrupted"
    exit_code = 130


class CommandError(FtpError):
    """One request failed; the session continues.

    Attributes:
        needed: Bytes or files that the request needed, if space was missing.
        free: Bytes or files that were free.
        what: The unit of these two: ``bytes`` or ``files`` (with directories and links); None, from
            older servers, for bytes.
        retry_after: Seconds after which the same request may succeed.
        path: The remote path that it is about, if the server has sent it.
        rule: The rule of the account's permissions that forbids it, as it is written.
    """

    def __init__(
        self,
        message: str,
        *,
        needed: int | None = None,
        free: int | None = None,
        what: str | None = None,
        retry_after: int | None = None,
        path: bytes | None = None,
        rule: str | None = None,
    ) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free
        self.what = what
        self.retry_after = retry_after
        self.path = path
        self.rule = rule

    def with_text(self, text: str, kind: type[CommandError] | None = None) -> CommandError:
        """Return the same error with another text.

        Args:
            kind: Class of the new error; None for the same one.
        """
        return (kind or type(self))(text, **facts_of(self))


BYTES, FILES = "bytes", "files"
"""Units of ``needed`` and ``free``; ``files`` counts files, directories and links."""
FACTS = ("needed", "free", "what", "retry_after", "path", "rule")
"""Attributes of a `CommandError` besides its text, which `ftpwire.messages.Failed` carries."""


def facts_of(error: CommandError) -> dict[str, Any]:
    """Return the attributes of an error that are set."""
    facts = {name: getattr(error, name) for name in FACTS}
    return {name: fact for name, fact in facts.items() if fact is not None}


class BadRequest(CommandError):
    """The request has an invalid value, or lacks one.

    Attributes:
        request: Class of the message (server only); None if its name is unknown.
    """

    code = "bad-request"
    exit_code = 10
    request: type | None = None


class UnknownRequest(BadRequest):
    """The server does not know this kind of request."""

    code = "unknown-request"


class Internal(CommandError):
    """An internal error of the server. Its log has the details."""

    code = "internal"


class Cancelled(CommandError):
    """The client cancelled the request."""

    code = "cancelled"
    exit_code = 130


class LoginRefused(CommandError):
    """The name or the password is wrong, or this kind of log-in is not allowed."""

    code = "login-refused"
    exit_code = 3


class RegistrationClosed(CommandError):
    """Only the administrator can create accounts, or the invitation is not (or no longer) valid."""

    code = "registration-closed"
    exit_code = 6


class BadAccount(CommandError):
    """The name, password or home is not allowed for an account."""

    code = "bad-account"


class NameTaken(BadAccount):
    """An account of that name already exists."""

    code = "name-taken"


class TooMany(CommandError):
    """A limit on a number is reached, e.g. of sessions or tokens."""

    code = "too-many"


class Banned(LoginRefused):
    """Too many log-ins failed from this address. It is refused for some time."""

    code = "banned"


class NotFound(CommandError):
    """There is no file or directory at that path."""

    code = "not-found"
    exit_code = 5


class Forbidden(CommandError):
    """The account's permissions, or the file's mode, do not allow it."""

    code = "forbidden"
    exit_code = 6


class ReadOnly(Forbidden):
    """The file system is mounted read-only."""

    code = "read-only"


class NotLoggedIn(Forbidden):
    """The request is only allowed after log-in."""

    code = "not-logged-in"


class InvalidPath(CommandError):
    """The path cannot name a file (an empty part, a NUL byte, too long, or a reserved name)."""

    code = "invalid-path"


class NotAtomic(InvalidPath):
    """The path cannot be replaced in one step, because of its file system."""

    code = "not-atomic"


class AlreadyExists(CommandError):
    """Something exists at that path already."""

    code = "exists"


class Conflict(CommandError):
    """Something else exists at the path that was to be restored."""

    code = "conflict"
    exit_code = 12


class Expired(NotFound):
    """It was in the trash, but is no longer: it expired, or was purged."""

    code = "expired"


class NotNewer(CommandError):
    """The existing file is as new as the offered one, or newer."""

    code = "not-newer"


class IsADirectory(CommandError):
    """There is a directory where a file is needed."""

    code = "is-a-directory"


class NotADirectory(CommandError):
    """There is a file where a directory is needed."""

    code = "not-a-directory"


class NotEmpty(CommandError):
    """The directory is not empty."""

    code = "not-empty"


class NotRegular(CommandError):
    """It is a FIFO, device or socket: only files, directories and links are served."""

    code = "not-regular"


class QuotaExceeded(CommandError):
    """The account's quota has less free space than the request needs."""

    code = "quota"
    exit_code = 7


class DiskFull(CommandError):
    """The server's file system has less free space than the request needs."""

    code = "disk-full"
    exit_code = 7


class DiskGone(CommandError):
    """The file system is not available: it was unplugged or unmounted, or its server is down."""

    code = "disk-gone"
    exit_code = 7


class DiskFailed(CommandError):
    """Reading from or writing to the disk failed."""

    code = "disk-failed"


class VerificationFailed(CommandError):
    """The received bytes do not match the sender's digest."""

    code = "verification-failed"
    exit_code = 8


class StoredFileDamaged(VerificationFailed):
    """The file on the server's disk no longer matches the digest that was stored with it."""

    code = "stored-file-damaged"


class SourceChanged(CommandError):
    """The file was changed while it was read."""

    code = "source-changed"


class SafetyLimit(CommandError):
    """The command would remove more than was probably meant. The user has to confirm it."""

    code = "safety-limit"
    exit_code = 11


class Busy(CommandError):
    """Another session uses the same thing. A retry may succeed later."""

    code = "busy"


class LeaseLost(Busy):
    """The reservation of this upload expired, or its account was deleted: nothing was stored."""

    code = "lease-lost"


def _family(base: type[FtpError]) -> dict[str, type[FtpError]]:
    """Return all classes of the tree under ``base`` by their code on the wire."""
    found = {base.code: base}
    for child in base.__subclasses__():
        found.update(_family(child))
    return found


BY_CODE: dict[str, type[FtpError]] = _family(FtpError)


class TooLong(FtpError):
    """A list that must be in memory as a whole, and for which the server sends more and more."""

    # Defined after BY_CODE: it shares the code of DiskFull, and no peer sends it.
    code = DiskFull.code
    exit_code = DiskFull.exit_code


FOUND_HERE = (Interrupted, TrustError)
"""Errors that only the side that raises them can find out: never accepted from a peer."""

_BY_ERRNO: dict[int, type[CommandError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotADirectory,
    errno.EISDIR: IsADirectory,
    errno.EEXIST: AlreadyExists,
    errno.ENOTEMPTY: NotEmpty,
    errno.EACCES: Forbidden,
    errno.EPERM: Forbidden,
    errno.EROFS: ReadOnly,
    errno.EXDEV: Forbidden,
    errno.ELOOP: InvalidPath,
    errno.ENAMETOOLONG: InvalidPath,
    errno.EINVAL: InvalidPath,
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EFBIG: DiskFull,
    errno.EIO: DiskFailed,
    errno.ENODEV: DiskGone,
    errno.ESTALE: DiskGone,
    errno.ENOTCONN: DiskGone,
    errno.ENXIO: NotRegular,
    errno.EBUSY: Busy,
}

_TEXT_BY_ERRNO = {
    errno.ENOENT: "no such file or directory",
    errno.ELOOP: "too many symbolic links",
    errno.EXDEV: "it is on another file system",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}


def from_oserror(error: OSError, what: str, path: bytes | None = None) -> CommandError:
    """Return the typed error for a file-system error. Its text does not reveal local paths.

    Args:
        what: The beginning of the text, e.g. the path as shown.
        path: The remote path that it is about, if any.
    """
    number = error.errno or 0
    kind = _BY_ERRNO.get(number, CommandError)
    text = _TEXT_BY_ERRNO.get(number) or (os.strerror(number).lower() if number else "it failed")
    return kind(f"{what}: {text}" if what else text, path=path)
