"""The errors that the verbs of `Client` and `AsyncClient` raise.

They are those of ``ftpwire.errors``, with the path that they are about. If Python has an `OSError`
for the same condition, they are subclasses of it: `NotFound` is a `FileNotFoundError`.

FtpError                    path
├── ProtocolError           the server broke the protocol
├── ConnectionLost          no OSError: ``except OSError`` means files, local and remote
├── TrustError              the server's key is not the expected one
├── Interrupted             the user asked to stop
├── TimedOut                TimeoutError: a verb took longer than its ``timeout``
└── CommandError            one request failed
    ├── NotFound            FileNotFoundError; Expired
    ├── AlreadyExists       FileExistsError
    ├── Forbidden           PermissionError; ReadOnly (EROFS)
    ├── IsADirectory        IsADirectoryError
    ├── NotADirectory       NotADirectoryError
    ├── DiskFull, QuotaExceeded, NotEmpty, InvalidPath, …   OSError with that ``errno``
    └── LoginRefused, Conflict, VerificationFailed, …       no OSError

Lives here: the tree, and the conversion of an internal error to one of these.
Lives elsewhere: where errors are converted (guard.py). Inside the packages an OSError means the
local disk, so no code there raises or catches these classes.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar

from ftpwire import errors

# The docstrings of the classes are inherited from ftpwire/errors.py: help() shows them.


class FtpError(errors.FtpError):
    """Base of all errors that a verb raises on purpose.

    Attributes:
        path: The path that it is about, if it is about one: a remote path is absolute, a local one
            is as it was given.
    """

    path: bytes | None = None
    number: ClassVar[int | None] = None
    """The ``errno`` of the corresponding system error."""

    def __str__(self) -> str:
        return BaseException.__str__(self)  # not OSError's format: the text is complete

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self)
        if kind.__module__ != __name__:  # made by ``_kind``: pickle finds only its base by name
            kind = kind.__bases__[0]
        return _restored, (kind, self.args, self.__dict__)


class ProtocolError(errors.ProtocolError, FtpError):
    pass


class FrameTooBig(errors.FrameTooBig, ProtocolError):
    pass


class UnknownKind(errors.UnknownKind, ProtocolError):
    pass


class TruncatedFrame(errors.TruncatedFrame, ProtocolError):
    pass


class BadMessage(errors.BadMessage, ProtocolError):
    pass


class BadMagic(errors.BadMagic, ProtocolError):
    pass


class VersionMismatch(errors.VersionMismatch, ProtocolError):
    pass


class ConnectionLost(errors.ConnectionLost, FtpError):
    pass


class ConnectFailed(errors.ConnectFailed, ConnectionLost):
    pass


class SessionEnded(errors.SessionEnded, ConnectionLost):
    pass


class UploadTakenOver(errors.UploadTakenOver, SessionEnded):
    pass


class TrustError(errors.TrustError, FtpError):
    pass


class UnknownHost(errors.UnknownHost, TrustError):
    pass


class HostKeyChanged(errors.HostKeyChanged, TrustError):
    pass


class UntrustedCertificate(errors.UntrustedCertificate, TrustError):
    pass


class Interrupted(errors.Interrupted, FtpError):
    pass


class TimedOut(FtpError, TimeoutError):
    """A verb took longer than its ``timeout``. The next verb reconnects."""

    code = "timed-out"
    exit_code = 4
    number = errno.ETIMEDOUT


class TooLong(errors.TooLong, FtpError):
    pass


class CommandError(errors.CommandError, FtpError):
    pass


class BadRequest(errors.BadRequest, CommandError):
    pass


class UnknownRequest(errors.UnknownRequest, BadRequest):
    pass


class Internal(errors.Internal, CommandError):
    pass


class Cancelled(errors.Cancelled, CommandError):
    pass


class LoginRefused(errors.LoginRefused, CommandError):
    pass


class RegistrationClosed(errors.RegistrationClosed, CommandError):
    pass


class BadAccount(errors.BadAccount, CommandError):
    pass


class NameTaken(errors.NameTaken, BadAccount):
    pass


class TooMany(errors.TooMany, CommandError):
    pass


class Banned(errors.Banned, LoginRefused):
    pass


class NotFound(errors.NotFound, CommandError, FileNotFoundError):
    number = errno.ENOENT


class Expired(errors.Expired, NotFound):
    pass


class Conflict(errors.Conflict, CommandError):
    pass


class Forbidden(errors.Forbidden, CommandError, PermissionError):
    number = errno.EACCES


class ReadOnly(errors.ReadOnly, Forbidden):
    number = errno.EROFS


class NotLoggedIn(errors.NotLoggedIn, Forbidden):
    pass


class InvalidPath(errors.InvalidPath, CommandError, OSError):
    number = errno.EINVAL


class NotAtomic(errors.NotAtomic, InvalidPath):
    pass


class AlreadyExists(errors.AlreadyExists, CommandError, FileExistsError):
    number = errno.EEXIST


class NotNewer(errors.NotNewer, CommandError):
    pass


class IsADirectory(errors.IsADirectory, CommandError, IsADirectoryError):
    number = errno.EISDIR


class NotADirectory(errors.NotADirectory, CommandError, NotADirectoryError):
    number = errno.ENOTDIR


class NotEmpty(errors.NotEmpty, CommandError, OSError):
    number = errno.ENOTEMPTY


class NotRegular(errors.NotRegular, CommandError, OSError):
    number = errno.ENXIO


class QuotaExceeded(errors.QuotaExceeded, CommandError, OSError):
    number = errno.EDQUOT


class DiskFull(errors.DiskFull, CommandError, OSError):
    number = errno.ENOSPC


class DiskGone(errors.DiskGone, CommandError, OSError):
    number = errno.ENODEV


class DiskFailed(errors.DiskFailed, CommandError, OSError):
    number = errno.EIO


class VerificationFailed(errors.VerificationFailed, CommandError):
    pass


class StoredFileDamaged(errors.StoredFileDamaged, VerificationFailed):
    pass


class SourceChanged(errors.SourceChanged, CommandError):
    pass


class SafetyLimit(errors.SafetyLimit, CommandError):
    pass


class Busy(errors.Busy, CommandError, OSError):
    number = errno.EBUSY


class LeaseLost(errors.LeaseLost, Busy):
    pass


def _tree(kind: type[FtpError]) -> list[type[FtpError]]:
    """Return a class and all of its subclasses."""
    return [kind, *(one for child in kind.__subclasses__() for one in _tree(child))]


TABLE: dict[type[errors.FtpError], type[FtpError]] = {
    kind.__bases__[0]: kind for kind in _tree(FtpError) if kind is not TimedOut
}
"""The public class for each internal class."""


_made: dict[type[errors.FtpError], type[FtpError]] = {}


def _kind(kind: type[errors.FtpError]) -> type[FtpError]:
    """Return the public class for an internal one; it is made if the class has none."""
    found = TABLE.get(kind) or _made.get(kind)
    if found is None:
        above = next(TABLE[base] for base in kind.__mro__ if base in TABLE)
        names = {"__doc__": kind.__doc__, "__module__": kind.__module__}
        found = _made[kind] = type(kind.__name__, (kind, above), names)
    return found


def public(error: errors.FtpError, path: bytes | None = None) -> FtpError:
    """Return the public form of an error, with the same traceback and causes.

    Args:
        path: The path that it is about, if known.
    """
    if isinstance(error, FtpError):
        made = error
    else:
        kind = _kind(type(error))
        made = _restored(kind, error.args, error.__dict__).with_traceback(error.__traceback__)
        made.__cause__ = error.__cause__
        made.__context__ = error.__context__
        made.__suppress_context__ = error.__suppress_context__
    if path is not None and made.path is None:
        made.path = path
        if isinstance(made, OSError):
            made.filename = path
    return made


def timed_out(text: str) -> FtpError:
    """Return the error of a verb that exceeded its timeout."""
    return _restored(TimedOut, (text,), {})


def _restored(kind: type[Any], args: tuple[object, ...], state: dict[str, object]) -> FtpError:
    """Return an error of a class, with the arguments and attributes of another error."""
    if not issubclass(kind, FtpError):
        kind = _kind(kind)
    made: FtpError = kind.__new__(kind)
    made.args = args
    made.__dict__.update(state)
    if isinstance(made, OSError):
        made.errno = made.number
        made.strerror = str(made)
        made.filename = made.path
    return made
