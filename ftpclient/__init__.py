"""The client: `ftp`, its shell, and the Python API that they use.

Lives here: the names that programs import. Each is loaded on first use, so that the commands of
`ftp` do not load what they do not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftpclient.aio import AsyncClient
    from ftpclient.client import Client
    from ftpclient.connection.addresses import BadAddress, ServerAddress
    from ftpclient.connection.known_hosts import KnownHosts
    from ftpclient.connection.protocol import TooManyTransfers
    from ftpclient.errors import (
        AlreadyExists,
        BadAccount,
        BadMagic,
        BadMessage,
        BadRequest,
        Banned,
        Busy,
        Cancelled,
        CommandError,
        Conflict,
        ConnectFailed,
        ConnectionLost,
        DiskFailed,
        DiskFull,
        DiskGone,
        Expired,
        Forbidden,
        FrameTooBig,
        FtpError,
        HostKeyChanged,
        Internal,
        Interrupted,
        InvalidPath,
        IsADirectory,
        LeaseLost,
        LoginRefused,
        NameTaken,
        NotADirectory,
        NotAtomic,
        NotEmpty,
        NotFound,
        NotLoggedIn,
        NotNewer,
        NotRegular,
        ProtocolError,
        QuotaExceeded,
        ReadOnly,
        RegistrationClosed,
        SafetyLimit,
        SessionEnded,
        SourceChanged,
        StoredFileDamaged,
        TimedOut,
        TooLong,
        TooMany,
        TruncatedFrame,
        TrustError,
        UnknownHost,
        UnknownKind,
        UnknownRequest,
        UntrustedCertificate,
        UploadTakenOver,
        VerificationFailed,
        VersionMismatch,
    )
    from ftpclient.files.reader import Reader
    from ftpclient.files.writer import Writer
    from ftpclient.sync.check import CheckOptions, CheckSummary
    from ftpclient.sync.job import Options as SyncOptions
    from ftpclient.sync.job import SyncSummary
    from ftpclient.transfer.job import EmptySource, Enough, Stopped, Unrepeatable
    from ftpclient.transfer.report import Finding, Listener, Result, Summary
    from ftpclient.transfer.sources import NoTargetDirectory
    from ftpclient.transfer.spool import SpoolFull
    from ftpclient.transfer.trash import Trashed, Version
    from ftpwire import __version__
    from ftpwire.messages import (
        Copied,
        Entry,
        Hashed,
        KeptDropped,
        KeptUpload,
        Problem,
        Removed,
        Restored,
        SpaceInfo,
        TokenInfo,
        TokenIssued,
        TrashedOperation,
        TrashItem,
    )

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "BadAccount",
    "BadAddress",
    "BadMagic",
    "BadMessage",
    "BadRequest",
    "Banned",
    "Busy",
    "Cancelled",
    "CheckOptions",
    "CheckSummary",
    "Client",
    "CommandError",
    "Conflict",
    "ConnectFailed",
    "ConnectionLost",
    "Copied",
    "DiskFailed",
    "DiskFull",
    "DiskGone",
    "EmptySource",
    "Enough",
    "Entry",
    "Expired",
    "Finding",
    "Forbidden",
    "FrameTooBig",
    "FtpError",
    "Hashed",
    "HostKeyChanged",
    "Internal",
    "Interrupted",
    "InvalidPath",
    "IsADirectory",
    "KeptDropped",
    "KeptUpload",
    "KnownHosts",
    "LeaseLost",
    "Listener",
    "LoginRefused",
    "NameTaken",
    "NoTargetDirectory",
    "NotADirectory",
    "NotAtomic",
    "NotEmpty",
    "NotFound",
    "NotLoggedIn",
    "NotNewer",
    "NotRegular",
    "Problem",
    "ProtocolError",
    "QuotaExceeded",
    "ReadOnly",
    "Reader",
    "RegistrationClosed",
    "Removed",
    "Restored",
    "Result",
    "SafetyLimit",
    "ServerAddress",
    "SessionEnded",
    "SourceChanged",
    "SpaceInfo",
    "SpoolFull",
    "Stopped",
    "StoredFileDamaged",
    "Summary",
    "SyncOptions",
    "SyncSummary",
    "TimedOut",
    "TokenInfo",
    "TokenIssued",
    "TooLong",
    "TooMany",
    "TooManyTransfers",
    "TrashItem",
    "Trashed",
    "TrashedOperation",
    "TruncatedFrame",
    "TrustError",
    "UnknownHost",
    "UnknownKind",
    "UnknownRequest",
    "Unrepeatable",
    "UntrustedCertificate",
    "UploadTakenOver",
    "VerificationFailed",
    "Version",
    "VersionMismatch",
    "Writer",
    "__version__",
]

_ELSEWHERE = {
    "AsyncClient": "ftpclient.aio",
    "BadAddress": "ftpclient.connection.addresses",
    "CheckOptions": "ftpclient.sync.check",
    "CheckSummary": "ftpclient.sync.check",
    "Client": "ftpclient.client",
    "Copied": "ftpwire.messages",
    "EmptySource": "ftpclient.transfer.job",
    "Enough": "ftpclient.transfer.job",
    "Entry": "ftpwire.messages",
    "Finding": "ftpclient.transfer.report",
    "Hashed": "ftpwire.messages",
    "KeptDropped": "ftpwire.messages",
    "KeptUpload": "ftpwire.messages",
    "KnownHosts": "ftpclient.connection.known_hosts",
    "Listener": "ftpclient.transfer.report",
    "NoTargetDirectory": "ftpclient.transfer.sources",
    "Problem": "ftpwire.messages",
    "Reader": "ftpclient.files.reader",
    "Removed": "ftpwire.messages",
    "Restored": "ftpwire.messages",
    "Result": "ftpclient.transfer.report",
    "ServerAddress": "ftpclient.connection.addresses",
    "SpaceInfo": "ftpwire.messages",
    "SpoolFull": "ftpclient.transfer.spool",
    "Stopped": "ftpclient.transfer.job",
    "Summary": "ftpclient.transfer.report",
    "SyncOptions": "ftpclient.sync.job:Options",
    "SyncSummary": "ftpclient.sync.job",
    "TokenInfo": "ftpwire.messages",
    "TokenIssued": "ftpwire.messages",
    "TooManyTransfers": "ftpclient.connection.protocol",
    "TrashItem": "ftpwire.messages",
    "Trashed": "ftpclient.transfer.trash",
    "TrashedOperation": "ftpwire.messages",
    "Unrepeatable": "ftpclient.transfer.job",
    "Version": "ftpclient.transfer.trash",
    "Writer": "ftpclient.files.writer",
    "__version__": "ftpwire",
}
"""The module of each name, and its name there if it differs; all other names are in `_ERRORS`."""
_ERRORS = "ftpclient.errors"


if not TYPE_CHECKING:  # otherwise a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, there = _ELSEWHERE.get(name, _ERRORS).partition(":")
        if name in ("Client", "AsyncClient"):
            from ftpclient.connection.log import prepare

            prepare()
        found = getattr(importlib.import_module(module), there or name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
