"""Errors, the codes they travel under, and the exit status each one means.

FtpError
├── ProtocolError           the peer broke the rules: the connection ends
│   ├── FrameTooBig, UnknownKind, TruncatedFrame, BadMessage, BadMagic
│   └── VersionMismatch
├── ConnectionLost          the connection ended, or never came about
│   └── ConnectFailed, SessionEnded (and UploadTakenOver)
├── TrustError              the server's key is not the one expected
│   └── UnknownHost, HostKeyChanged, UntrustedCertificate
├── Interrupted             the user asked to stop (Ctrl-C)
└── CommandError            one request failed: the session goes on
    └── NotFound, Forbidden, QuotaExceeded, … (below)

Lives here: the tree, the codes on the wire, exit statuses, errno to error.
Lives elsewhere: how errors are shown (ftpclient), when they are sent (ftpserver).
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar, Self


class FtpError(Exception):
    """Base of every error this product raises on purpose."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def with_text(self, text: str) -> Self:
        """The same error in other words, with all else that it tells."""
        made = type(self)(text)
        made.__dict__.update(self.__dict__)
        return made


class ProtocolError(FtpError):
    """The peer broke the protocol. The connection can't be trusted to be in step any more."""

    code = "protocol"
    exit_code = 10


class FrameTooBig(ProtocolError):
    """A frame announces more bytes than were agreed."""

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
    """The first frame is not a HELLO: something else speaks on this port."""

    code = "bad-magic"


class VersionMismatch(ProtocolError):
    """The two sides have no protocol version in common.

    Attributes:
        versions: Those that the server speaks; empty where it doesn't tell.
    """

    code = "version"

    def __init__(self, message: str, versions: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.versions = versions


class ConnectionLost(FtpError):
    """The connection ended before the work did.

    Not an OSError, so that ``except OSError`` around a command means the file system.
    """

    code = "connection-lost"
    exit_code = 4


class ConnectFailed(ConnectionLost):
    """No connection could be made."""

    code = "connect-failed"


class SessionEnded(ConnectionLost):
    """The server ended this session on purpose: connecting again by itself would be no help."""

    code = "session-ended"


class UploadTakenOver(SessionEnded):
    """Another session goes on with the upload.

    Two clients that connect again by themselves would take it from each other for ever.

    Attributes:
        path: Its target, if the server has said so.
    """

    code = "taken-over"

    def __init__(self, message: str, path: bytes | None = None) -> None:
        super().__init__(message)
        self.path = path


class TrustError(FtpError):
    """The server's identity could not be established."""

    code = "untrusted"
    exit_code = 9


class UnknownHost(TrustError):
    """The server's key was never seen before, and nobody vouches for it."""

    code = "host-unknown"


class HostKeyChanged(TrustError):
    """The server's key is another one than last time."""

    code = "host-key-changed"


class UntrustedCertificate(TrustError):
    """The server's certificate is not valid: it has expired, or is for another name."""

    code = "certificate-invalid"


class Interrupted(FtpError):
    """The user asked to stop."""

    code = "interrupted"
    exit_code = 130


class CommandError(FtpError):
    """One request failed; the session goes on.

    Attributes:
        needed: What the request needed, where room is what was missing.
        free: What was free then.
        what: What these two count: ``bytes`` or ``files`` (with directories and links); None, of an
            older server, for bytes.
        retry_after: Seconds after which the same request may succeed.
        path: What it is about, if the server has said so: a remote path.
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
        """The same error in other words.

        Args:
            kind: Another class; None: its own.
        """
        return (kind or type(self))(text, **facts_of(self))


BYTES, FILES = "bytes", "files"
"""What ``needed`` and ``free`` count; files are those, directories and links."""
FACTS = ("needed", "free", "what", "retry_after", "path", "rule")
"""What a `CommandError` tells besides its text, and `ftpwire.messages.Failed` carries."""


def facts_of(error: CommandError) -> dict[str, Any]:
    """What it tells besides its text, as far as it does."""
    told = {name: getattr(error, name) for name in FACTS}
    return {name: fact for name, fact in told.items() if fact is not None}


class BadRequest(CommandError):
    """The request has a value that it can't have, or lacks one.

    Attributes:
        request: The class of the message, in the server; None where its name is unknown.
    """

    code = "bad-request"
    exit_code = 10
    request: type | None = None


class UnknownRequest(BadRequest):
    """The server knows no request of that name."""

    code = "unknown-request"


class Internal(CommandError):
    """The server met an error of its own; its log has the details."""

    code = "internal"


class Cancelled(CommandError):
    """The client cancelled this request."""

    code = "cancelled"
    exit_code = 130


class LoginRefused(CommandError):
    """The name or the password is wrong, or this way to log in is not open."""

    code = "login-refused"
    exit_code = 3


class RegistrationClosed(CommandError):
    """Accounts are made by the administrator, or the invitation is not good (any more)."""

    code = "registration-closed"
    exit_code = 6


class BadAccount(CommandError):
    """A name, password or home that no account can have."""

    code = "bad-account"


class NameTaken(BadAccount):
    """There is an account of that name."""

    code = "name-taken"


class TooMany(CommandError):
    """A limit on how many there may be of something, sessions or tokens."""

    code = "too-many"


class Banned(LoginRefused):
    """Too many log-ins failed from this address; it is refused for a while."""

    code = "banned"


class NotFound(CommandError):
    """No file or directory at that path."""

    code = "not-found"
    exit_code = 5


class Forbidden(CommandError):
    """The account, or the file's mode, doesn't permit it."""

    code = "forbidden"
    exit_code = 6


class ReadOnly(Forbidden):
    """The file system is mounted read-only."""

    code = "read-only"


class NotLoggedIn(Forbidden):
    """This request needs a log-in first."""

    code = "not-logged-in"


class InvalidPath(CommandError):
    """The path can't name a file here (empty part, NUL byte, too long, a reserved name)."""

    code = "invalid-path"


class AlreadyExists(CommandError):
    """Something is at that path already."""

    code = "exists"


class Conflict(CommandError):
    """Something else is where it was to be restored to."""

    code = "conflict"
    exit_code = 12


class Expired(NotFound):
    """It was in the trash, and is there no more: given up for room or age, or purged."""

    code = "expired"


class NotNewer(CommandError):
    """What is at that path is as new as what was offered."""

    code = "not-newer"


class IsADirectory(CommandError):
    """A directory is where a file was asked for."""

    code = "is-a-directory"


class NotADirectory(CommandError):
    """A file is where a directory was asked for."""

    code = "not-a-directory"


class NotEmpty(CommandError):
    """The directory has contents."""

    code = "not-empty"


class NotRegular(CommandError):
    """A FIFO, device or socket: only files, directories and links are served."""

    code = "not-regular"


class QuotaExceeded(CommandError):
    """The account has less room than the request needs."""

    code = "quota"
    exit_code = 7


class DiskFull(CommandError):
    """The server's file system has less room than the request needs."""

    code = "disk-full"
    exit_code = 7


class DiskGone(CommandError):
    """The file system is not there any more: unplugged, unmounted, or its server is away."""

    code = "disk-gone"
    exit_code = 7


class DiskFailed(CommandError):
    """The disk could not read or write the bytes."""

    code = "disk-failed"


class VerificationFailed(CommandError):
    """The received bytes do not have the sender's digest."""

    code = "verification-failed"
    exit_code = 8


class StoredFileDamaged(VerificationFailed):
    """The file on the server's disk no longer has the digest it was stored with."""

    code = "stored-file-damaged"


class SourceChanged(CommandError):
    """The file changed while it was being read."""

    code = "source-changed"


class SafetyLimit(CommandError):
    """It would have removed more than was meant, most likely: it needs the user's own word."""

    code = "safety-limit"
    exit_code = 11


class Busy(CommandError):
    """Somebody else is at the same thing; again later may succeed."""

    code = "busy"


class LeaseLost(Busy):
    """The room reserved for this upload lapsed, or its account is gone: nothing was stored."""

    code = "lease-lost"


def _family(base: type[FtpError]) -> dict[str, type[FtpError]]:
    """Every class of the tree under ``base`` by its code on the wire."""
    found = {base.code: base}
    for child in base.__subclasses__():
        found.update(_family(child))
    return found


BY_CODE: dict[str, type[FtpError]] = _family(FtpError)

FOUND_HERE = (Interrupted, TrustError)
"""What no peer can say: it is for the side to find out that raises it."""

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
    errno.EXDEV: "it lies on another file system",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}


def from_oserror(error: OSError, what: str, path: bytes | None = None) -> CommandError:
    """The typed error for a file-system error about ``what``, without local paths in its text.

    Args:
        path: The remote path that ``what`` shows, if it is one.
    """
    number = error.errno or 0
    kind = _BY_ERRNO.get(number, CommandError)
    text = _TEXT_BY_ERRNO.get(number) or (os.strerror(number).lower() if number else "it failed")
    return kind(f"{what}: {text}" if what else text, path=path)
