"""Every request and reply: one msgspec struct each, tagged by name.

Lives here: what travels in control frames. Decoding is validation, and the type of a request
is the key of the server's dispatch table. docs/protocol.md is the reference for other clients.
Lives elsewhere: the frames around them (frames.py), what a server does with them (ftpserver).

Sizes and offsets are bytes, times are nanoseconds since 1970 (UTC), paths are absolute remote
paths, digests are 32 bytes of BLAKE3. A field added later needs a default, so that older peers
still decode.
"""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from ftpwire import SOFTWARE, errors, holes
from ftpwire.decoding import BadReply, Family, Payload
from ftpwire.errors import (
    FACTS,
    BadMagic,
    BadMessage,
    BadRequest,
    CommandError,
    ConnectionLost,
    FtpError,
    UnknownRequest,
    UploadTakenOver,
    VersionMismatch,
    facts_of,
)
from ftpwire.paths import name_of, show

MAGIC = b"FTPW"
"""What the first frame's payload starts with, before its HELLO."""
VERSION = 1
VERSIONS = (VERSION,)
"""The versions of the protocol that are spoken here."""

PIECES = "pieces"
"""Feature of a server: `Get` with ``length``, and `Put` with ``pieces``."""
ALIVE = "alive"
"""Feature of a server: while it owes an answer it sends something, if only a `Progress`, more often
than each ``stall_ms`` of its `Hello`, whatever its disk does."""
KEPT = "kept"
"""Feature of a server: `ListKept` and `DropKept`, and `Room` with ``kept``."""
IF_SAME = "if-same"
"""Feature of a server: `Remove` with ``size`` and ``mtime_ns``."""
ALONE = "alone"
"""Feature of a server: a request that it doesn't know, or with a value that can't be, fails alone,
by ``unknown-request`` or ``bad-request``. Before, it ended the connection."""
TRASH = "trash"
"""Feature of a server: it keeps what is removed and replaced, unless an account has no trash:
`Operation`, `ListTrash`, `Restore`, `Purge`, ``in_trash``, ``final``, and numbered requests."""
HOLES = "holes"
"""Feature of a server: a `Hole` may stand in an upload, and `Get` has ``holes``."""
MANY_FILES = "many-files"
"""Feature of a server: `PutFiles` and `GetFiles`."""

MOST_ITEMS = 1000
"""Most things that one `PutFiles` or `GetFiles` is about: files, and directories that are named."""
MOST_BYTES = 256 * 1024
"""Most bytes that the files of one `PutFiles` or `GetFiles` have together."""
MOST_TOLD = 64 * 1024
"""Bytes of a `PutFiles` or `GetFiles` itself that a client keeps to."""

MAX_USER = 64
MAX_PASSWORD = 1024
"""Longest user name and password that a `Login` can carry, in characters."""
MAX_TOKEN = 128
MAX_TOKEN_NAME = 64
"""Longest token, invitation code and name of a token, in characters."""

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
PieceSize = Annotated[int, Meta(ge=1, le=2**63 - 1)]
HoleSize = Annotated[int, Meta(ge=1, le=holes.MOST)]
TimeNs = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Mode = Annotated[int, Meta(ge=0, le=0o7777)]
Path = Annotated[bytes, Meta(min_length=1, max_length=4096)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key = Annotated[bytes, Meta(min_length=16, max_length=16)]
OperationKey = Annotated[bytes, Meta(min_length=8, max_length=8)]
OperationName = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}-[0-9a-f]{8}\Z")]
ItemName = Annotated[str, Meta(pattern=r"\A[0-9a-f]{8}-[0-9]{1,10}\Z")]
Number = Annotated[int, Meta(ge=0, le=2**32 - 1)]
InTrash = tuple[OperationName, ItemName]
FileType = Literal["file", "dir", "link", "other"]
Overwrite = Literal["always", "never", "older"]


R = TypeVar("R")
E = TypeVar("E")


class Message(
    msgspec.Struct,
    frozen=True,
    tag_field="op",
    omit_defaults=True,
    forbid_unknown_fields=True,  # by the decoder alone: see decoding.py, which passes over them
):
    """Base of everything that travels in a control frame."""


class RequestBase(Message, frozen=True):
    """What a client may ask for. All of them together are `Request`."""


class RequestFor(RequestBase, Generic[R], frozen=True):
    """A request that one REPLY answers, an ``R``."""

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)  # Generic's own takes longer than the class


class ChangeFor(RequestFor[R], Generic[R], frozen=True, kw_only=True):
    """A request that changes something, so that it can't be asked again when its answer was lost,
    unless the server knows that it is the same one.

    Attributes:
        number: Which request of the connection's `Operation` it is, among those of all of its
            connections; 0: it has no number.
        again: It may have been done already: the server looks for its answer, and repeats that
            instead of the work.
    """

    number: Number = 0
    again: bool = False


class StreamFor(RequestBase, Generic[R, E], frozen=True):
    """A request that any number of REPLY frames answer, each an ``R``, and an END with an ``E``."""

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)


# What is told about a file ---------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file, directory or link.

    Attributes:
        path: In a `Page`, the name in its directory; in a reply to `Stat`, the path asked for.
        type: ``other`` is a FIFO, device or socket: reported, never served.
        size: Bytes (of a link: of its target's text).
        mode: Permission bits.
        mtime_ns: Last change of the contents.
        target: Where a link points, as it was stored.
        digest: Of a file, where it was asked for and is kept beside the file and still true.
    """

    path: bytes
    type: FileType
    size: int
    mode: int
    mtime_ns: int
    target: bytes | None = None
    digest: bytes | None = None

    @property
    def name(self) -> bytes:
        """The last component of ``path``; empty for the root."""
        return name_of(self.path)


class Problem(msgspec.Struct, frozen=True, array_like=True):
    """Something in a tree that could not be read, and why: the rest goes on.

    Attributes:
        path: In a `Page`, the name in its directory, or empty for the directory itself.
    """

    path: bytes
    code: str
    message: str


# Opening -----------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello", omit_defaults=False):
    """The first message of each side, after the bytes ``FTPW``.

    Attributes:
        version: Of a client: the version that it speaks with a server which doesn't know
            ``versions``. Of a server: the one that is spoken from here on.
        software: Name and version, for people.
        features: Optional abilities, which the other side may rely on; unknown ones are ignored.
        max_control: Largest control payload this side accepts after log-in, in bytes.
        max_data: Largest DATA payload this side accepts after log-in, in bytes.
        max_requests: Most unanswered requests this side wants to see (of a server). It is a wish:
            nobody counts.
        max_unanswered: Most unanswered request and DATA bytes of small uploads (of a server). The
            same.
        stall_ms: How long this side waits for a peer that is silent when it should not be, in
            milliseconds (of a server); 0 when it isn't known.
        versions: All that this side speaks, at most 16; empty from one that says ``version`` alone.
        max_sessions: Most sessions that an account may have at the same time, of all its clients,
            unless `LoggedIn` says otherwise (of a server); 0 when it isn't known.

    Replies: the server's `Hello`; or `Failed` with ``version`` or ``bad-magic``.
    """

    version: int = VERSION
    software: str = SOFTWARE
    features: list[str] = []
    max_control: int = 0
    max_data: int = 0
    max_requests: int = 0
    max_unanswered: int = 0
    stall_ms: Size = 0
    versions: Annotated[list[int], Meta(max_length=16)] = []
    max_sessions: Size = 0


class Login(RequestFor["LoggedIn"], frozen=True, tag="login"):
    """Log in with a password.

    Replies: `LoggedIn`; or `Failed` with ``login-refused``, the same whether the name or the
    password was wrong; ``banned``, ``busy``, ``too-many``.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]
    password: Annotated[str, Meta(max_length=MAX_PASSWORD)]

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, password=…)"


class LoginToken(RequestFor["LoggedIn"], frozen=True, tag="login-token"):
    """Log in with a token that `IssueToken` gave.

    Replies: `LoggedIn`; or `Failed` with ``login-refused``, the same whether the name or the
    token was wrong, expired or revoked.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]
    token: Annotated[str, Meta(max_length=MAX_TOKEN)]

    def __repr__(self) -> str:
        return f"LoginToken(user={self.user!r}, token=…)"


class LoginPeer(RequestFor["LoggedIn"], frozen=True, tag="login-peer"):
    """Log in as an account that the system user at this end of a Unix socket may use.

    Replies: `LoggedIn`; or `Failed` with ``login-refused``, also on every other connection.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]


class LoggedIn(Message, frozen=True, tag="logged-in"):
    """The session is open: the limits of `Hello` hold from here.

    Attributes:
        max_sessions: Where the account has a limit of its own: as in `Hello`; 0: that holds.
        final: The account has no trash now: what it removes and replaces is gone for good. It can
            change while the session is open. A server without the feature ``trash`` has none, and
            doesn't say so.
    """

    user: str
    max_sessions: Size = 0
    final: bool = False


class Register(RequestFor["LoggedIn"], frozen=True, tag="register"):
    """Make an account, and log in as it.

    Attributes:
        invitation: The code of an invitation; None where registration is open to everybody.

    Replies: `LoggedIn`; or `Failed` with ``registration-closed``, ``name-taken``,
    ``bad-account``, ``busy``; with ``too-many`` the account was made all the same.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]
    password: Annotated[str, Meta(max_length=MAX_PASSWORD)]
    invitation: Annotated[str, Meta(max_length=MAX_TOKEN)] | None = None

    def __repr__(self) -> str:
        return f"Register(user={self.user!r}, password=…)"


# The account's own keys --------------------------------------------------------------------


class ChangePassword(RequestFor["Done"], frozen=True, tag="change-password"):
    """Set a new password, and revoke all tokens of the account; its other sessions end soon after.

    Replies: `Done`; or `Failed` with ``login-refused`` when the old one is wrong, ``banned``,
    ``busy``, or ``bad-account`` when the new one can't be used.
    """

    old: Annotated[str, Meta(max_length=MAX_PASSWORD)]
    new: Annotated[str, Meta(max_length=MAX_PASSWORD)]

    def __repr__(self) -> str:
        return "ChangePassword(…)"


class IssueToken(RequestFor["TokenIssued"], frozen=True, tag="issue-token"):
    """Ask for a token to log in with, for scripts.

    Attributes:
        name: For people, to tell tokens apart.
        seconds: How long it is good for; None for as long as the server gives. In a session that
            logged in with a token, it ends with that one at the latest, and is revoked with it.

    Replies: `TokenIssued`; or `Failed` with ``too-many`` when the account has too many,
    ``forbidden`` when the token of this session was revoked or has expired, ``bad-account`` when
    there is a NUL in the name.
    """

    name: Annotated[str, Meta(max_length=MAX_TOKEN_NAME)] = ""
    seconds: Annotated[int, Meta(ge=1, le=2**40)] | None = None


class TokenIssued(Message, frozen=True, tag="token-issued"):
    """Answer to `IssueToken`. The token is told once, and is stored nowhere as it is.

    Attributes:
        id: What it is listed and revoked by.
        expires: Seconds since 1970; None for never.
    """

    id: str
    token: str
    expires: int | None = None

    def __repr__(self) -> str:
        return f"TokenIssued(id={self.id!r}, token=…)"


class TokenInfo(msgspec.Struct, frozen=True, array_like=True):
    """What is told about a token. Times are seconds since 1970.

    Attributes:
        used: When it was last logged in with, to the hour; None for never.
        current: Whether this session logged in with it.
        parent: The id of the token that made it: it goes with that one.
    """

    id: str
    name: str
    created: int
    expires: int | None = None
    used: int | None = None
    current: bool = False
    parent: str | None = None


class ListTokens(RequestFor["Tokens"], frozen=True, tag="list-tokens"):
    """Ask for the account's tokens. Replies: `Tokens`."""


class Tokens(Message, frozen=True, tag="tokens"):
    """Answer to `ListTokens`."""

    tokens: list[TokenInfo] = []


class RevokeToken(RequestFor["Done"], frozen=True, tag="revoke-token"):
    """Revoke a token, and all that were made with it. Sessions that logged in with one of these end
    soon after, except the one that revokes its own.

    Attributes:
        id: Which one; None for the one that this session logged in with.

    Replies: `Done`; or `Failed` with ``not-found``.
    """

    id: Annotated[str, Meta(max_length=MAX_TOKEN_NAME)] | None = None


# Asking about files ------------------------------------------------------------------------


class Stat(RequestFor["Found"], frozen=True, tag="stat"):
    """Ask about one path.

    Attributes:
        follow: Tell about what a link points to, not about the link.
        digest: Tell the digest that is kept beside the file, if it is still true.
        in_trash: The name of an operation, and of one of its items in the trash: ``path`` is then
            the path below that, ``/`` for itself.

    Replies: `Found`; or `Failed` with ``not-found``.
    """

    path: Path
    follow: bool = False
    digest: bool = False
    in_trash: InTrash | None = None


class Found(Message, frozen=True, tag="found"):
    """Answer to `Stat`."""

    entry: Entry


class List(StreamFor["Page", "Listed"], frozen=True, tag="list"):
    """List a directory, or with ``recursive`` the tree below it.

    Directories come one after another: all pages of one, then those of the first directory in
    it with all below that, and so on. So whoever reads them never needs to keep more than the
    names of one directory.

    Attributes:
        follow: Follow links to what they point to (a link that leads into its own parents is
            a `Problem`).
        digest: As in `Stat`.
        in_trash: As in `Stat`.

    Replies: any number of `Page`, then END with `Listed`; or `Failed`, with ``forbidden`` when the
    directory itself can't be read. Of a path that is no directory: one entry with an empty path.
    """

    path: Path
    recursive: bool = False
    follow: bool = False
    digest: bool = False
    in_trash: InTrash | None = None


class Page(Message, frozen=True, tag="page"):
    """A part of a listing, in the order of the file system.

    Attributes:
        directory: Which directory the names are in, relative to what was listed.
        complete: The last page of that directory.
    """

    directory: bytes = b""
    entries: list[Entry] = []
    problems: list[Problem] = []
    complete: bool = False


class Listed(Message, frozen=True, tag="listed"):
    """End of a listing."""


class Hash(RequestFor["Hashed"], frozen=True, tag="hash"):
    """Ask for a file's BLAKE3: the kept one if it is still true, else computed (with `Progress`).

    Attributes:
        in_trash: As in `Stat`.

    Replies: `Hashed`; or `Failed` with ``not-found``, ``is-a-directory``, ``not-regular``.
    """

    path: Path
    in_trash: InTrash | None = None


class Hashed(Message, frozen=True, tag="hashed"):
    """Answer to `Hash`."""

    digest: Digest
    size: int


MAX_TIMES = 1000
"""Most times that one `Space` can ask about."""


class Space(RequestFor["Room"], frozen=True, tag="space"):
    """Ask for the account's room. Replies: `Room`.

    Attributes:
        times: Tell also which mtimes the server's disk keeps when these are set, in nanoseconds.
    """

    times: Annotated[list[TimeNs], Meta(max_length=MAX_TIMES)] = []


class Room(Message, frozen=True, tag="room"):
    """The account's room in bytes.

    Attributes:
        total: The quota; None when there is none.
        used: Bytes of stored files, those in the trash left out.
        held: Bytes reserved by uploads under way, and by those that are kept.
        free: What a new upload may take; None when unlimited. What is in the trash is given up for
            that, so it counts as free.
        total_files: Most files, directories and links; None when there is no limit.
        used_files: How many there are; None when they aren't counted.
        disk_free: What the server's disk has room for; None when that isn't told.
        kept_times: For each of the times that were asked about, the one that the disk keeps; None
            when that isn't known.
        kept: Of ``held``, what is kept for uploads that were interrupted.
        kept_uploads: How many these are.
        trash: Bytes that are in the trash.
        trash_files: Files, directories and links there.
    """

    used: int
    held: int
    total: int | None = None
    free: int | None = None
    total_files: int | None = None
    used_files: int | None = None
    disk_free: int | None = None
    kept_times: list[int] | None = None
    kept: int = 0
    kept_uploads: int = 0
    trash: int = 0
    trash_files: int = 0


class ListKept(StreamFor["KeptUploads", "Listed"], frozen=True, tag="list-kept"):
    """Ask for the account's uploads that were interrupted and wait for a resume.

    Replies: `KeptUploads` as often as needed, then END with `Listed`.
    """


class KeptUpload(msgspec.Struct, frozen=True, array_like=True):
    """An upload that was interrupted.

    Attributes:
        path: Its target; None where the server doesn't know it, or doesn't tell.
        size: Bytes that are kept.
        total: Bytes that it is to have. So much room it holds.
        touched: Seconds since 1970, by the server's clock: when its last byte came.
        until: Seconds since 1970: when it is dropped.
    """

    path: bytes | None
    size: int
    total: int
    touched: int
    until: int


class KeptUploads(Message, frozen=True, tag="kept-uploads"):
    """A part of the answer to `ListKept`."""

    uploads: list[KeptUpload] = []


class DropKept(RequestFor["KeptDropped"], frozen=True, tag="drop-kept"):
    """Drop uploads that were interrupted: their room is free then.

    Attributes:
        upload: Their target; None for all of the account. Nothing is stored there yet, so no rule
            about paths holds.
        size: With ``mtime_ns``: only what is kept of a source of this size and time. Both are
            given or none, and with ``upload`` alone.
        mtime_ns: Nanoseconds since 1970.

    Replies: `KeptDropped`; or `Failed` with ``not-found`` (none is kept for the path), ``busy``
    (a session is uploading it), or ``bad-request``.
    """

    upload: Path | None = None
    size: Size | None = None
    mtime_ns: TimeNs | None = None


class KeptDropped(Message, frozen=True, tag="kept-dropped"):
    """Answer to `DropKept`.

    Attributes:
        count: Uploads that were dropped.
        size: Bytes of room that they held.
        busy: How many were not dropped, because a session resumed them just then.
        under_way: How many uploads that were meant a session had open all the time: they were not
            kept, and go on.
    """

    count: int
    size: int
    busy: int = 0
    under_way: int = 0


class WhoAmI(RequestFor["LoggedIn"], frozen=True, tag="whoami"):
    """Ask who this session is logged in as. Replies: `LoggedIn`."""


# Moving bytes ------------------------------------------------------------------------------


class Get(StreamFor["Sending", "Sent"], frozen=True, tag="get"):
    """Ask for the bytes of one file; links are followed inside the home.

    Attributes:
        offset: Bytes to skip from the start.
        prefix: Digest of the first ``offset`` bytes, as the client has them: if the file's own
            have another one, all of it is sent.
        length: Bytes to send at most; None for all that follow. For a client that brings a file
            in pieces: these are not hashed here, and END has the kept digest or none.
        holes: A `Hole` may stand in the place of DATA frames.
        in_trash: As in `Stat`.

    Replies: `Sending`, DATA frames, then END with `Sent`; or `Failed` (also in the middle)
    with ``not-found``, ``is-a-directory``, ``not-regular``, ``source-changed``,
    ``stored-file-damaged``, ``too-many`` (transfers are running).
    """

    path: Path
    offset: Size = 0
    prefix: Digest | None = None
    length: Size | None = None
    holes: bool = False
    in_trash: InTrash | None = None


class Sending(Message, frozen=True, tag="sending"):
    """DATA frames follow, from ``offset`` on; ``size`` is the whole file's."""

    size: Size
    mode: int
    mtime_ns: int
    offset: Size = 0


class Sent(Message, frozen=True, tag="sent"):
    """Payload of the END that closes a file's DATA frames, in either direction.

    Attributes:
        digest: Of the whole file, from its first byte (whatever the offset was); None when
            the sender could not tell.
        size: The whole file's; after a `PutPiece`, the piece's.
        grew: Of a `Get`: the file grew while it was read. ``size`` and ``digest`` are those of what
            it was when it was opened, which is what was sent.
    """

    size: Size
    digest: Digest | None = None
    grew: bool = False


class Put(RequestFor["Ready | Stored"], frozen=True, tag="put"):
    """Store one file: DATA frames follow, then END with `Sent`; the digest is compared.

    The file appears under its name whole, after it is verified and durable, or not at all.
    No other request may stand between the `Put` and its END or CANCEL.

    Attributes:
        size: Of the whole file; None when not known beforehand (a pipe).
        mode: Permission bits; setuid, setgid and sticky are dropped.
        overwrite: What to do when something is there: ``older`` replaces it only if its
            mtime is before ``mtime_ns``.
        ask: Wait for `Ready` before the DATA frames: for large files.
        resume: With ``ask``: go on with what is left of an earlier try.
        parents: Create missing parent directories.
        pieces: With ``ask`` and ``size``: have the bytes come by `PutPiece`, if the server can.

    Replies: with ``ask``, `Ready`; then `Stored`. Or `Failed` with ``quota``, ``exists``,
    ``too-many``, ``not-newer``, ``is-a-directory``, ``verification-failed``, ``disk-full``, …;
    what was sent of the file is then passed over until its END or CANCEL.
    """

    path: Path
    size: Size | None = None
    mode: Mode = 0o644
    mtime_ns: TimeNs | None = None
    overwrite: Overwrite = "always"
    ask: bool = False
    resume: bool = True
    parents: bool = False
    pieces: bool = False


class Ready(Message, frozen=True, tag="ready"):
    """Answer to a `Put` with ``ask``: send the bytes from ``offset`` on.

    Attributes:
        offset: Bytes that are there, verified, from an earlier try.
        digest: Of these bytes. If the source's own first bytes have another one, it has
            changed: CANCEL, and `Put` again with ``resume`` false.
        key: Where pieces were asked for and can be taken: what each `PutPiece` needs. All bytes
            come by these then, and END when all of them are `Taken`.
    """

    offset: Size = 0
    digest: Digest | None = None
    key: Key | None = None


class PutPiece(RequestFor["Taken"], frozen=True, tag="put-piece"):
    """Bring a part of a file that another session of the account has an open `Put` for: DATA
    frames follow, then END with `Sent`.

    Attributes:
        key: From that upload's `Ready`; good until it ends.
        offset: Where the piece begins in the file.
        size: Bytes of the piece; one at least.

    Replies: `Taken`; or `Failed` with ``lease-lost`` when no such upload is open, ``failed`` when
    the piece isn't missing, ``too-many``, ``verification-failed``, ``disk-full``.
    """

    key: Key
    offset: Size
    size: PieceSize


class Taken(Message, frozen=True, tag="taken"):
    """The piece is where it belongs. It counts once the whole file is `Stored`."""


class Stored(Message, frozen=True, tag="stored"):
    """The file is stored under its name, verified and durable."""

    size: int


# Many small files in one request -----------------------------------------------------------

Name = Annotated[bytes, Meta(min_length=1, max_length=255)]


class NewFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a `PutFiles`; its attributes are those of a `Put` and of its `Sent`.

    Attributes:
        name: In its directory.
        digest: Of its bytes.
    """

    name: Name
    size: Size
    mode: Mode
    mtime_ns: TimeNs
    digest: Digest


class NewFiles(msgspec.Struct, frozen=True, array_like=True):
    """Files that go to one directory.

    Attributes:
        path: The directory.
        make: Make it first, if it is missing, with this mode, as `MakeDir` with ``parents`` and
            ``fill`` does; None: don't.
    """

    path: Path
    files: Annotated[list[NewFile], Meta(max_length=MOST_ITEMS)] = []
    make: Mode | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """A directory that is filled: its mode and time, as by `SetAttributes`."""

    path: Path
    mode: Mode
    mtime_ns: TimeNs


class PutFiles(StreamFor["NotStored", "FilesStored"], frozen=True, tag="put-files"):
    """Store many small files: DATA frames follow, with the bytes of one file after another and
    nothing between them, then END with `Sent` (the sum of their sizes; its digest isn't looked at).

    It is the same as its parts sent one after another, in this order: each of ``directories`` is
    made, if it says so, and its files are stored; then each of ``finished`` gets its attributes.
    That is also how they are counted, from 0 on: a directory of ``directories`` itself (also
    where it isn't made), its files, the next directory, …, and those of ``finished``. There are at
    most `MOST_ITEMS`, whose files have at most `MOST_BYTES` bytes together. Nothing is done before
    all bytes came. Zeros may come as a `Hole`.

    Attributes:
        overwrite, parents: Of all files, as in `Put`.

    Replies: `NotStored` as often as needed, then END with `FilesStored`; or `Failed`, and nothing
    of it is stored: ``bad-request``, ``verification-failed`` (more or fewer bytes came),
    ``too-many``, ``cancelled``; ``forbidden`` and ``disk-full`` where nothing can be stored in the
    whole home.
    """

    directories: Annotated[list[NewFiles], Meta(max_length=MOST_ITEMS)]
    finished: Annotated[list[Finished], Meta(max_length=MOST_ITEMS)] = []
    overwrite: Overwrite = "always"
    parents: bool = False


class ItemFailure(msgspec.Struct, frozen=True, array_like=True):
    """Why one thing of a `PutFiles` was not done; as in `Failed`.

    Attributes:
        index: Which one.
        message: As in `Failed`; one that begins with ``": "`` goes behind the path, which both
            sides know (`behind_path`, `failed`). Shortened where it doesn't fit.
        rule: Left out where the message has to be shortened.
    """

    index: Annotated[int, Meta(ge=0, le=MOST_ITEMS - 1)]
    code: str
    message: str
    needed: int | None = None
    free: int | None = None
    what: str | None = None
    retry_after: int | None = None
    rule: str | None = None

    @staticmethod
    def behind_path(message: str, path: bytes) -> str:
        """What to send for a message about a path: where it begins with that, only the rest."""
        shown = show(path)
        return message[len(shown) :] if message.startswith(f"{shown}: ") else message

    def failed(self, path: bytes) -> Failed:
        """The same as the `Failed` of a request about ``path`` alone."""
        message = self.message
        return Failed(
            self.code,
            show(path) + message if message.startswith(": ") else message,
            self.needed,
            self.free,
            self.what,
            self.retry_after,
            path,
            self.rule,
        )


class NotStored(Message, frozen=True, tag="not-stored"):
    """A part of the answer to `PutFiles`: what failed of it, in the order of the indexes."""

    failures: Annotated[list[ItemFailure], Meta(max_length=MOST_ITEMS)]


class FilesStored(Message, frozen=True, tag="files-stored"):
    """End of the answer to `PutFiles`: all that is not in a `NotStored` was done, and is durable.

    Attributes:
        done: How many things that is: all that are counted but those in a `NotStored`.
    """

    done: int


class WantedFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a `GetFiles`: its name in its directory, and how many bytes it must have."""

    name: Name
    size: Size


class WantedFiles(msgspec.Struct, frozen=True, array_like=True):
    """Files of one directory."""

    path: Path
    files: Annotated[list[WantedFile], Meta(max_length=MOST_ITEMS)]


class GetFiles(StreamFor["SendingFiles", "Sent"], frozen=True, tag="get-files"):
    """Ask for many small files: at most `MOST_ITEMS`, directories counted, with at most
    `MOST_BYTES` bytes together. Links are not followed at their names.

    Replies: `SendingFiles`, one or more, until each file is told of; DATA frames with the bytes of
    those that come, one after another with nothing between them; END with `Sent`, whose ``size`` is
    their sum, without a digest. Or `Failed` with ``bad-request``, ``cancelled``.
    """

    directories: Annotated[list[WantedFiles], Meta(max_length=MOST_ITEMS)]


class SentFile(msgspec.Struct, frozen=True, array_like=True):
    """One file that is sent: it has as many bytes as were asked for."""

    mode: Mode
    mtime_ns: int
    digest: Digest


class SendingFiles(Message, frozen=True, tag="sending-files"):
    """A part of the answer to `GetFiles`: the next files, in the order asked for.

    Attributes:
        files: None for one that doesn't come: it isn't there, is no file, has another size by now,
            may not be read, is damaged. `Get` tells, or sends it.
    """

    files: Annotated[list[SentFile | None], Meta(max_length=MOST_ITEMS)]


# Changing the tree -------------------------------------------------------------------------


class MakeDir(ChangeFor["Done"], frozen=True, tag="make-dir"):
    """Create a directory.

    Attributes:
        parents: Create missing parents, and be content when it exists.
        fill: Its contents come next: one that exists gets the mode bits 0700 as well.

    Replies: `Done`; or `Failed` with ``exists``, ``not-found``, ``not-a-directory``.
    """

    path: Path
    mode: Mode = 0o755
    parents: bool = False
    fill: bool = False


class MakeLink(ChangeFor["Done"], frozen=True, tag="make-link"):
    """Store a symbolic link as it is; it is resolved inside the home only.

    Replies: `Done`; or `Failed` with ``exists``, ``is-a-directory``, ``not-newer``, ``not-found``,
    ``not-a-directory``.
    """

    path: Path
    target: Path
    mtime_ns: TimeNs | None = None
    overwrite: Overwrite = "always"


class SetAttributes(RequestFor["Done"], frozen=True, tag="set-attributes"):
    """Set permission bits or the mtime (of directories: after their contents are there).

    Attributes:
        mode: Permission bits; setuid, setgid and sticky are dropped. A directory keeps the setgid
            and sticky bits that it has.
        exact: The mode was asked for by itself. Otherwise it is that of the source of an upload:
            the default ACL of the directory above limits it, as it does for what is made there,
            and a directory of somebody else keeps its mode and time, with a `Remark`.
        setgid: Of a directory: set or clear that bit; None leaves it.

    Replies: `Done`; or `Failed` with ``not-found``, ``not-a-directory``, ``not-regular``,
    ``forbidden`` (also for a file of another user of the server's system).
    """

    path: Path
    mode: Mode | None = None
    mtime_ns: TimeNs | None = None
    exact: bool = False
    setgid: bool | None = None


class BeginTree(RequestFor["Done"], frozen=True, tag="begin-tree"):
    """Have everything that this session puts at or below ``path`` go to a hidden tree, until
    `EndTree`. One at a time; a session that ends drops it. Other requests see what is there.

    Attributes:
        mode: What it is made with; its owner can fill it in any case. It is the last one where the
            server may not change the modes of directories without losing their setgid bit.

    Replies: `Done`; or `Failed` with ``not-found`` when the parent directory isn't there.
    """

    path: Path
    mode: Mode = 0o700


class EndTree(ChangeFor["Done"], frozen=True, tag="end-tree"):
    """Put the hidden tree in the place of what is at its path, at once; or drop it.

    Replies: `Done`, when it is durable and what it replaced is removed; or `Failed`: then
    nothing was changed, and the tree is dropped.
    """

    commit: bool = True


class Remove(ChangeFor["Removed"], frozen=True, tag="remove"):
    """Remove a file, a link or an empty directory; with ``recursive`` a whole tree.

    Attributes:
        size, mtime_ns: Remove it only if it is a file or link that has this size and mtime.
        final: Don't put it into the trash.

    Replies: `Removed`; or `Failed` with ``not-found``, ``not-empty``, ``source-changed``.
    """

    path: Path
    recursive: bool = False
    size: Size | None = None
    mtime_ns: TimeNs | None = None
    final: bool = False

    @property
    def only_if_same(self) -> bool:
        """Whether it has to be as it is said."""
        return self.size is not None or self.mtime_ns is not None


class Removed(Message, frozen=True, tag="removed"):
    """Answer to `Remove` and `Purge`.

    Attributes:
        files, directories, size_bytes: What became free; or what went to the trash, where that was
            counted: of a tree it isn't.
        operation: What it can be found by in the trash.
        trashed: It is in the trash. Else it is gone.
    """

    files: int
    directories: int
    size_bytes: int
    operation: OperationName | None = None
    trashed: bool = False


class Move(ChangeFor["Done"], frozen=True, tag="move"):
    """Rename a file, a link or a directory.

    Attributes:
        overwrite: ``never``: fail when the target exists. A directory is never replaced.

    Replies: `Done`; or `Failed` with ``not-found``, ``exists``, ``is-a-directory``.
    """

    source: Path
    target: Path
    overwrite: Literal["always", "never"] = "always"


class Copy(ChangeFor["Copied"], frozen=True, tag="copy"):
    """Copy a file, or with ``recursive`` a tree, on the server; it counts in the quota.

    Links are copied as links, except ``source`` itself, which is followed.

    Attributes:
        links: Copy ``source`` itself where it is a link.

    Replies: `Copied` (with `Progress` on the way); or `Failed` with ``not-found``, ``quota``,
    ``exists``, ``is-a-directory``.
    """

    source: Path
    target: Path
    recursive: bool = False
    overwrite: Literal["always", "never"] = "always"
    links: bool = False


class Copied(Message, frozen=True, tag="copied"):
    """Answer to `Copy`. All but ``problems`` count what was done.

    Attributes:
        files: Files and links that were copied.
        directories: Directories that were made, or were there and were filled.
        size_bytes: Of the files that were copied.
        problems: What could not be copied of a tree, and what was left because it exists: 100 of
            these at most, the failures first.
        more_problems: How many there were beyond those.
        skipped: How many of all problems are ``exists`` with the overwrite ``never``.
    """

    files: int
    directories: int
    size_bytes: int
    problems: list[Problem] = []
    more_problems: int = 0
    skipped: int = 0


class Done(Message, frozen=True, tag="done"):
    """It was done, and it is durable."""


# The trash ---------------------------------------------------------------------------------


class Operation(RequestFor["Done"], frozen=True, tag="operation"):
    """Say which command of a client the requests of this connection belong to, from here on. All
    connections of one command say the same; what they remove and replace is kept together.

    Attributes:
        id: Drawn by the client for each command; None: the following requests belong to none.
        words: The command as its user would write it, for people.
        client: Drawn once by each client program of a user: what "the last command" means. It is no
            secret.
        keep: Without, nothing of this command is kept.

    Replies: `Done`.
    """

    id: OperationKey | None = None
    words: Annotated[str, Meta(max_length=200)] = ""
    client: OperationKey | None = None
    keep: bool = True


class TrashItem(msgspec.Struct, frozen=True, array_like=True):
    """One thing that an operation has removed, replaced, moved or restored.

    Attributes:
        name: Its name in the trash; empty of one that isn't kept there.
        what: ``removed``: a file, a link, an empty directory. ``tree``: a directory with all that
            was in it. ``replaced``: something else was put there. ``moved``: it was renamed to
            ``target``, and nothing is kept. ``restored``: it was taken out of the trash. ``found``:
            it lies in the trash, and no line tells what it was.
        path: Where it was.
        type: Of what lies in the trash, or was there.
        size: Bytes of a file or link; of a ``tree`` all of it, None while that isn't counted.
        files: How many files, directories and links it is; None while that isn't counted.
        state: ``kept``: it can be restored. ``restored``, ``purged``: it isn't there any more.
        target: Of what was moved, where to.
        digest: Of a file, where one is kept beside it.
        time_ns: When it was removed, replaced, moved or restored.
        within: Of a version that lies in a directory that was removed: the path that this had. What
            follows it in ``path`` leads from the item to the version.
    """

    name: str
    what: Literal["removed", "tree", "replaced", "moved", "restored", "found"]
    path: bytes
    type: FileType
    size: int | None
    files: int | None
    mtime_ns: int
    state: Literal["kept", "restored", "purged"]
    time_ns: int
    target: bytes | None = None
    digest: bytes | None = None
    within: bytes | None = None


class TrashedOperation(msgspec.Struct, frozen=True, array_like=True):
    """What is told about an operation.

    Attributes:
        name: What it is asked for by: its time, and a random part.
        time_ns: When it began, by the server's clock.
        expires: Seconds since 1970: when it is given up; None: not by its age.
        items: How many things it has changed.
        kept: How many of these are in the trash now.
        size, files: Of what is in the trash, as far as that is counted.
        counted: All of it is.
        undone: It was undone, by a `Restore` of the whole of it.
        first: One of the paths that it has changed, for people.
        undoes: The operation that this one has restored from, where it is one of restoring.
        key: The client's id of it, from `Operation`; None where it had none.
        given_up: It is in the trash no more, because its room was needed: bytes that became free.
            It is told for a day, so that nobody takes an earlier command for the last one.
    """

    name: str
    time_ns: int
    words: str
    client: bytes | None
    expires: int | None
    items: int
    kept: int
    size: int
    files: int
    counted: bool
    undone: bool
    first: bytes
    undoes: str | None = None
    key: bytes | None = None
    given_up: int | None = None


class ListTrash(StreamFor["TrashPage", "Listed"], frozen=True, tag="list-trash"):
    """Ask for what is in the trash, the newest operation first. What may not be listed at its path
    is left out.

    Attributes:
        operation: Only this one.
        below: Only what was at this path or below it. With ``versions``: at this path.
        items: Tell each item, newest first. Else operations alone.
        versions: Only files and links that can be restored, whatever removed or replaced them.
        limit: Most operations, or with ``items`` most items, that are told.

    Replies: `TrashPage` as often as needed, then END with `Listed`; or `Failed` with ``expired``
    when the operation isn't there (any more), ``forbidden``.
    """

    operation: OperationName | None = None
    below: Path | None = None
    items: bool = False
    versions: bool = False
    limit: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class TrashPage(Message, frozen=True, tag="trash-page"):
    """A part of the answer to `ListTrash`: operations, or items of ``of``.

    Attributes:
        of: Whose items these are.
    """

    operations: list[TrashedOperation] = []
    of: OperationName | None = None
    items: list[TrashItem] = []


class Restore(ChangeFor["Restored"], frozen=True, tag="restore"):
    """Take back what an operation has done, the last first: what it removed gets its path again,
    what it replaced is exchanged with what is there now, what it moved goes back. That is an
    operation itself, which can be restored from.

    Attributes:
        operation: Which one.
        items: Only these; none: all.
        paths: Only what was at or below one of these, also a part of a tree; none: all.
        target: A directory to restore to, instead of where it was. It is made when missing.
        conflict: What to do where something else is in the way: ``skip``: leave it. ``replace``:
            that goes to the trash. ``beside``: restore it as ``NAME.restored-1`` and so on.
        look: Change nothing, and tell what would be done.

    Replies: `Restored` (with `Progress` on the way), also when some of it is in conflict; or
    `Failed` with ``expired``, ``busy``, ``forbidden``, ``disk-full``.
    """

    operation: OperationName
    items: Annotated[list[ItemName], Meta(max_length=1000)] = []
    paths: Annotated[list[Path], Meta(max_length=100)] = []
    target: Path | None = None
    conflict: Literal["skip", "replace", "beside"] = "skip"
    look: bool = False


class Restored(Message, frozen=True, tag="restored"):
    """Answer to `Restore`.

    Attributes:
        items: How many items are back (a tree is one).
        already: How many more were back before.
        gone: How many were given up for room or age, or purged, and can't be.
        conflicts: What wasn't restored, and why: 100 of these at most.
        more_conflicts: How many there were beyond those.
        operation: The name of the operation that this was.
        paths: Some of the paths that are back, by the names that they have now (see ``beside``):
            100 at most.
    """

    items: int
    already: int = 0
    gone: int = 0
    conflicts: list[Problem] = []
    more_conflicts: int = 0
    operation: OperationName | None = None
    paths: list[bytes] = []


class Purge(ChangeFor["Removed"], frozen=True, tag="purge"):
    """Remove from the trash for good.

    Attributes:
        operation: Which; None: all of the account.
        items: Of the operation, only these.
        before: Only operations that began before this time, in seconds since 1970.

    Replies: `Removed` (with `Progress` on the way): what became free; or `Failed` with ``expired``,
    ``busy``, ``forbidden``.
    """

    operation: OperationName | None = None
    items: Annotated[list[ItemName], Meta(max_length=1000)] = []
    before: Annotated[int, Meta(ge=0, le=2**40)] | None = None


# Unasked, and failures ---------------------------------------------------------------------


class Progress(Message, frozen=True, tag="progress"):
    """NOTICE about a long request: ``done`` of ``total`` bytes (None: not known)."""

    done: int
    total: int | None = None


class Remark(Message, frozen=True, tag="remark"):
    """NOTICE with id 0: something the user should know, as that little room is left."""

    message: str


class GoingDown(Message, frozen=True, tag="going-down"):
    """NOTICE with id 0: the connection is about to end, because the server stops, the session or
    its transfer was idle for too long, or another transfer needs its place."""

    message: str = "the server is shutting down"


class Hole(Message, frozen=True, tag="hole"):
    """NOTICE in the place of DATA frames, in either direction: ``size`` zeros of the file that take
    no place on the sender's disk."""

    size: HoleSize


class Failed(Message, frozen=True, tag="failed"):
    """Payload of an ERROR frame.

    Attributes:
        code: One of the codes in ftpwire/errors.py; an unknown one is an ordinary failure.
        message: One line for people.
        needed: What was needed, where room was missing.
        free: What was free then.
        what: What these two count: ``bytes`` or ``files``; None of an older server: bytes.
        retry_after: Seconds after which the same may succeed.
        path: What it is about, where the server can tell: absolute. Of two, the source, unless it
            is about the target.
        rule: The rule of the account's permissions that forbids it.
        versions: With ``version``: those that the server speaks.
    """

    code: str
    message: str
    needed: int | None = None
    free: int | None = None
    what: str | None = None
    retry_after: int | None = None
    path: bytes | None = None
    rule: str | None = None
    versions: list[int] = []

    @classmethod
    def from_error(cls, error: FtpError, path: bytes | None = None) -> Failed:
        """What to send for ``error``.

        Args:
            path: What it is about, unless it says that itself.
        """
        if isinstance(error, CommandError):
            facts = {"path": path} | facts_of(error)
            return cls(error.code, str(error), **facts)
        if isinstance(error, VersionMismatch):
            return cls(error.code, str(error), versions=list(error.versions))
        if isinstance(error, UploadTakenOver):
            return cls(error.code, str(error), path=error.path)
        return cls(error.code, str(error))

    def to_error(self, *, ends: bool = False) -> FtpError:
        """The typed error for what a peer sent.

        What only this side can find out, as that its user wants to stop, is an ordinary failure.

        Args:
            ends: It ends the connection. Else it is of one request, or of one path, and no end of
                the connection either, whatever its code is.
        """
        kind = errors.BY_CODE.get(self.code, CommandError)
        if issubclass(kind, errors.FOUND_HERE) or (issubclass(kind, ConnectionLost) and not ends):
            kind = CommandError
        path = self.path
        if path is not None and not path.startswith(b"/"):
            path = None  # it may be compared with others, which are absolute
        if issubclass(kind, CommandError):
            facts = {name: getattr(self, name) for name in FACTS}
            return kind(self.message, **facts | {"path": path})
        if issubclass(kind, UploadTakenOver):
            return kind(self.message, path)
        if issubclass(kind, VersionMismatch):
            return kind(self.message, tuple(self.versions))
        return kind(self.message)


Request = (
    Login
    | LoginToken
    | LoginPeer
    | Register
    | ChangePassword
    | IssueToken
    | ListTokens
    | RevokeToken
    | Stat
    | List
    | Hash
    | Space
    | ListKept
    | DropKept
    | WhoAmI
    | Get
    | Put
    | PutPiece
    | PutFiles
    | GetFiles
    | MakeDir
    | MakeLink
    | SetAttributes
    | BeginTree
    | EndTree
    | Remove
    | Move
    | Copy
    | Operation
    | ListTrash
    | Restore
    | Purge
)
"""What a client may ask for after HELLO."""

Reply = (
    LoggedIn
    | TokenIssued
    | Tokens
    | Found
    | Page
    | Hashed
    | Room
    | KeptUploads
    | KeptDropped
    | Sending
    | Ready
    | Stored
    | NotStored
    | SendingFiles
    | Taken
    | Removed
    | Copied
    | TrashPage
    | Restored
    | Done
)
Ending = Sent | Listed | FilesStored
Notice = Progress | Remark | GoingDown | Hole

_OF_TRASH = (ListTrash, Restore, Purge)


def needs_many_files(request: RequestBase) -> bool:
    """Whether a request is only for servers with the feature `MANY_FILES`."""
    return isinstance(request, PutFiles | GetFiles)


def needs_trash(request: RequestBase) -> bool:
    """Whether a request is only for servers with the feature `TRASH`: others don't know it, or
    would answer about the file that has the path now."""
    return isinstance(request, _OF_TRASH) or getattr(request, "in_trash", None) is not None


_NOTHING: tuple[type[Message], ...] = ()
ANSWERS: dict[type[RequestBase], tuple[tuple[type[Message], ...], tuple[type[Message], ...]]] = {
    Login: ((LoggedIn,), _NOTHING),
    LoginToken: ((LoggedIn,), _NOTHING),
    LoginPeer: ((LoggedIn,), _NOTHING),
    Register: ((LoggedIn,), _NOTHING),
    ChangePassword: ((Done,), _NOTHING),
    IssueToken: ((TokenIssued,), _NOTHING),
    ListTokens: ((Tokens,), _NOTHING),
    RevokeToken: ((Done,), _NOTHING),
    Stat: ((Found,), _NOTHING),
    List: ((Page,), (Listed,)),
    Hash: ((Hashed,), _NOTHING),
    Space: ((Room,), _NOTHING),
    ListKept: ((KeptUploads,), (Listed,)),
    DropKept: ((KeptDropped,), _NOTHING),
    WhoAmI: ((LoggedIn,), _NOTHING),
    Get: ((Sending,), (Sent,)),
    Put: ((Ready, Stored), _NOTHING),
    PutPiece: ((Taken,), _NOTHING),
    PutFiles: ((NotStored,), (FilesStored,)),
    GetFiles: ((SendingFiles,), (Sent,)),
    MakeDir: ((Done,), _NOTHING),
    MakeLink: ((Done,), _NOTHING),
    SetAttributes: ((Done,), _NOTHING),
    BeginTree: ((Done,), _NOTHING),
    EndTree: ((Done,), _NOTHING),
    Remove: ((Removed,), _NOTHING),
    Move: ((Done,), _NOTHING),
    Copy: ((Copied,), _NOTHING),
    Operation: ((Done,), _NOTHING),
    ListTrash: ((TrashPage,), (Listed,)),
    Restore: ((Restored,), _NOTHING),
    Purge: ((Removed,), _NOTHING),
}
"""What may come back for each request: in REPLY frames, and in the END that closes a stream. As
`RequestFor` and `StreamFor` say it to type checkers."""

encode = msgspec.msgpack.Encoder().encode
encode_into = msgspec.msgpack.Encoder().encode_into

_hello: Family[Hello] = Family(Hello, "hello")

_requests: Family[Request] = Family(Request, "request", unknown=UnknownRequest, bad=BadRequest)
decode_request = _requests.decode
"""The payload of a REQUEST frame. Raises BadRequest; BadMessage, as all of these do, for what is no
msgpack, no map, or has no ``op``."""


decode_reply = Family[Reply](Reply, "reply", unknown=BadReply, bad=BadReply).decode
"""The payload of a REPLY frame. Raises BadReply."""
_answers: Family[Reply | Failed] = Family(Reply | Failed, "answer", unknown=BadReply, bad=BadReply)
decode_answer = _answers.decode
"""An answer that was noted, to be repeated: a `Reply` or `Failed`. Raises BadReply."""
decode_ending = Family[Ending](Ending, "closing message", unknown=BadReply, bad=BadReply).decode
"""The payload of an END frame. Raises BadReply."""
_sent: Family[Sent] = Family(Sent, "closing message", unknown=BadRequest, bad=BadRequest)
decode_sent = _sent.decode
"""The payload of the END that closes an upload. Raises BadRequest."""
decode_failed = Family[Failed](Failed, "failure", unknown=BadReply, bad=BadReply).decode
"""The payload of an ERROR frame. Raises BadReply."""
_holes: Family[Hole] = Family(Hole, "notice", unknown=BadRequest, bad=BadRequest)
decode_hole = _holes.decode
"""The payload of a NOTICE inside an upload. Raises BadRequest."""
_decode_told_hole = Family[Hole](Hole, "notice", unknown=BadReply, bad=BadMessage).decode
_decode_notice = Family[Notice](Notice, "notice", unknown=BadReply, bad=BadReply).decode


def prepare_to_serve() -> None:
    """Be ready for all that comes from clients: processes that are forked from this one need not
    make themselves what decodes it."""
    for family in (_hello, _requests, _sent, _holes):
        family.prepare()
    _answers.prepare()  # one that was noted is looked at before it is repeated


def decode_notice(payload: Payload) -> Notice | None:
    """The payload of a NOTICE frame; None for one that is not understood here.

    Raises:
        BadMessage: It is a `Hole` that can't be.
    """
    try:
        return _decode_notice(payload)
    except BadReply:
        pass
    try:
        return _decode_told_hole(payload)
    except BadReply:
        return None


def encode_hello(hello: Hello) -> bytes:
    """The payload of the first frame."""
    return MAGIC + encode(hello)


def decode_hello(payload: Payload) -> Hello:
    """The payload of the first frame.

    Raises:
        BadMagic: Something else than this protocol.
        BadMessage: The magic is right, what follows is not.
    """
    if bytes(payload[:4]) != MAGIC:
        raise BadMagic("the peer doesn't speak this protocol")
    return _hello.decode(payload[4:])
