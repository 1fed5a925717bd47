"""Every request and reply: one msgspec struct for each, tagged by name.

Lives here: the contents of control frames. Decoding validates them, and the type of a request is
the key of the server's dispatch table. docs/protocol.md is the reference for other clients.
Lives elsewhere: the frames around them (frames.py), what a server does with them (ftpserver).

Unless a docstring says otherwise, sizes and offsets are in bytes, times in nanoseconds since 1970
(UTC), paths are absolute remote paths, and digests are 32 bytes of BLAKE3. A field that is added
later needs a default, so that older peers can still decode the message.
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
"""The first bytes of the first frame's payload; the HELLO follows them."""
VERSION = 1
VERSIONS = (VERSION,)
"""The protocol versions that this side speaks."""

PIECES = "pieces"
"""Feature of a server: it supports `Get` with ``length`` and `Put` with ``pieces``."""
ALIVE = "alive"
"""Feature of a server: while a reply is due, it sends something (a `Progress` if nothing else) more
often than every ``stall_ms`` of its `Hello`, however slow its disk is."""
KEPT = "kept"
"""Feature of a server: it supports `ListKept`, `DropKept`, and `SpaceInfo` with ``kept``."""
IF_SAME = "if-same"
"""Feature of a server: it supports `Remove` with ``size`` and ``mtime_ns``."""
ALONE = "alone"
"""Feature of a server: an unknown request, or one with an invalid value, fails by itself with
``unknown-request`` or ``bad-request``. Older servers close the connection."""
TRASH = "trash"
"""Feature of a server: it keeps what is removed and replaced, unless the account has no trash. It
supports `Operation`, `ListTrash`, `Restore`, `Purge`, ``in_trash``, ``final`` and numbered
requests."""
HOLES = "holes"
"""Feature of a server: it accepts a `Hole` in an upload, and `Get` with ``holes``."""
MANY_FILES = "many-files"
"""Feature of a server: it supports `PutFiles` and `GetFiles`."""
LIST_PREFIX = "list-prefix"
"""Feature of a server: it supports `List` with ``prefix``. Other servers list all names."""

MAX_ITEMS = 1000
"""Most items in one `PutFiles` or `GetFiles`: its files, and the directories that it names."""
MAX_BYTES = 256 * 1024
"""Most bytes of all files of one `PutFiles` or `GetFiles` together."""
MAX_REQUEST_SIZE = 64 * 1024
"""Largest `PutFiles` or `GetFiles` message that a client sends, in bytes (without the DATA)."""

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
Prefix = Annotated[bytes, Meta(max_length=255)]
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
    forbid_unknown_fields=True,  # only in the fast decoder: decoding.py then skips unknown fields
):
    """Base of everything that travels in a control frame."""


class RequestBase(Message, frozen=True):
    """Base of all requests of a client. Their union is `Request`."""


class RequestFor(RequestBase, Generic[R], frozen=True):
    """A request that is answered by one REPLY, an ``R``."""

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)  # Generic's own is slower than the class body


class ChangeFor(RequestFor[R], Generic[R], frozen=True, kw_only=True):
    """A request that changes something. When its reply was lost it must not be sent again, unless
    the server recognizes it as the same request.

    Attributes:
        number: The number of the request within the `Operation` of its connection, unique among all
            connections of that operation; 0 for none.
        again: True if the request may have been carried out before: the server looks for the reply
            that it recorded, and repeats that instead of the work.
    """

    number: Number = 0
    again: bool = False


class StreamFor(RequestBase, Generic[R, E], frozen=True):
    """A request that is answered by any number of REPLY frames (``R``), and an END (``E``)."""

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)


# Files and directories -------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file, directory or link.

    Attributes:
        path: In a `Page`, the name in its directory; in a reply to `Stat`, the requested path.
        type: The kind of the entry. ``other`` is a FIFO, device or socket: listed, never served.
        size: Size in bytes; of a link, that of its target's text.
        mode: Permission bits.
        mtime_ns: Time of the last change of the contents.
        target: The path that a link points to, as it was stored; None if it is no link.
        digest: The digest of a file, if the request asked for it and a valid one is stored with the
            file.
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
    """A file or directory of a tree that could not be processed, and the reason. The rest of the
    request continues.

    Attributes:
        path: In a `Page`, the name in its directory, or empty for the directory itself.
        code: A code of ftpwire/errors.py, as in `Failed`.
        message: The reason, for display.
    """

    path: bytes
    code: str
    message: str


# Opening -----------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello", omit_defaults=False):
    """The first message of each side, after the bytes ``FTPW``.

    Attributes:
        version: Of a client: the version to speak with a server that does not know ``versions``. Of
            a server: the version that both sides speak from here on.
        software: Name and version, for display.
        features: Optional abilities that the other side may rely on. Unknown ones are ignored.
        max_control: Largest control payload that this side accepts after log-in, in bytes.
        max_data: Largest DATA payload that this side accepts after log-in, in bytes.
        max_requests: Most unanswered requests that the server wants to have at a time. This is
            advice: the server does not enforce it.
        max_unanswered: Most bytes of unanswered small uploads, requests and DATA, that the server
            wants to have at a time. This is advice, too.
        stall_ms: How long the server waits for a client that is silent when it should send or
            receive, in milliseconds; 0 if unknown.
        versions: All versions that this side speaks, at most 16; empty if it only sends
            ``version``.
        max_sessions: Most sessions that an account may have at the same time, those of all its
            clients together, unless `LoggedIn` gives another limit (of a server); 0 if unknown.

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

    Attributes:
        user: Name of the account.
        password: Its password.

    Replies: `LoggedIn`; or `Failed` with ``login-refused`` (the same for a wrong name and a wrong
    password), ``banned``, ``busy``, ``too-many``.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]
    password: Annotated[str, Meta(max_length=MAX_PASSWORD)]

    def __repr__(self) -> str:
        return f"Login(user={self.user!r}, password=…)"


class LoginToken(RequestFor["LoggedIn"], frozen=True, tag="login-token"):
    """Log in with a token from `IssueToken`.

    Attributes:
        user: Name of the account.
        token: A token of it, as in `TokenIssued`.

    Replies: `LoggedIn`; or `Failed` with ``login-refused``, the same for a wrong name and for a
    wrong, expired or revoked token.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]
    token: Annotated[str, Meta(max_length=MAX_TOKEN)]

    def __repr__(self) -> str:
        return f"LoginToken(user={self.user!r}, token=…)"


class LoginPeer(RequestFor["LoggedIn"], frozen=True, tag="login-peer"):
    """Log in as an account that the client's system user may use, over a Unix socket.

    Attributes:
        user: Name of the account.

    Replies: `LoggedIn`; or `Failed` with ``login-refused``, always on any other kind of connection.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]


class LoggedIn(Message, frozen=True, tag="logged-in"):
    """The session is open. The limits of `Hello` apply from here on.

    Attributes:
        user: Name of the account.
        max_sessions: The account's own limit, as in `Hello`; 0 if it has none and that of `Hello`
            applies.
        final: True if the account has no trash now: what it removes or replaces is lost.
            This can change while the session is open. Servers without the feature ``trash`` have no
            trash and leave it False.
    """

    user: str
    max_sessions: Size = 0
    final: bool = False


class Register(RequestFor["LoggedIn"], frozen=True, tag="register"):
    """Create an account, and log in as it.

    Attributes:
        user: Name of the new account.
        password: Its password.
        invitation: The code of an invitation; None if the server lets anyone register.

    Replies: `LoggedIn`; or `Failed` with ``registration-closed``, ``name-taken``, ``bad-account``,
    ``busy``; or ``too-many``: the account was created, but is not logged in.
    """

    user: Annotated[str, Meta(max_length=MAX_USER)]
    password: Annotated[str, Meta(max_length=MAX_PASSWORD)]
    invitation: Annotated[str, Meta(max_length=MAX_TOKEN)] | None = None

    def __repr__(self) -> str:
        return f"Register(user={self.user!r}, password=…)"


# The account's password and tokens -----------------------------------------------------------


class ChangePassword(RequestFor["Done"], frozen=True, tag="change-password"):
    """Set a new password, and revoke all tokens of the account. Its other sessions are closed soon
    after.

    Attributes:
        old: The current password.
        new: The new password.

    Replies: `Done`; or `Failed` with ``login-refused`` if the old password is wrong,
    ``bad-account`` if the new one is not acceptable, ``banned`` or ``busy``.
    """

    old: Annotated[str, Meta(max_length=MAX_PASSWORD)]
    new: Annotated[str, Meta(max_length=MAX_PASSWORD)]

    def __repr__(self) -> str:
        return "ChangePassword(…)"


class IssueToken(RequestFor["TokenIssued"], frozen=True, tag="issue-token"):
    """Ask for a new token to log in with, e.g. for scripts.

    Attributes:
        name: A name for display, to tell tokens apart.
        seconds: Lifetime of the token; None for the server's default. In a session that logged in
            with a token, the new token expires no later than that one, and is revoked with it.

    Replies: `TokenIssued`; or `Failed` with ``too-many`` if the account has too many tokens,
    ``forbidden`` if the token of this session was revoked or has expired, ``bad-account`` if the
    name contains a NUL.
    """

    name: Annotated[str, Meta(max_length=MAX_TOKEN_NAME)] = ""
    seconds: Annotated[int, Meta(ge=1, le=2**40)] | None = None


class TokenIssued(Message, frozen=True, tag="token-issued"):
    """Reply to `IssueToken`. The token is sent only once; the server stores no copy of it, only a
    hash.

    Attributes:
        id: The ID by which the token is listed and revoked.
        token: The token itself.
        expires: Expiry time in seconds since 1970; None for never.
    """

    id: str
    token: str
    expires: int | None = None

    def __repr__(self) -> str:
        return f"TokenIssued(id={self.id!r}, token=…)"


class TokenInfo(msgspec.Struct, frozen=True, array_like=True):
    """A token of the account. Times are in seconds since 1970.

    Attributes:
        id: The ID by which it is revoked.
        name: Its name for display.
        created: Time when it was issued.
        expires: Time when it expires; None for never.
        used: Time of the last log-in with it, rounded to the hour; None for never.
        current: True if this session logged in with it.
        parent: The ID of the token that it was created with; it is revoked with that one.
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
    """Reply to `ListTokens`."""

    tokens: list[TokenInfo] = []


class RevokeToken(RequestFor["Done"], frozen=True, tag="revoke-token"):
    """Revoke a token, and all tokens that were created with it. Sessions that logged in with one of
    these are closed soon after, except the session that revokes its own token.

    Attributes:
        id: ID of the token; None for the one that this session logged in with.

    Replies: `Done`; or `Failed` with ``not-found``.
    """

    id: Annotated[str, Meta(max_length=MAX_TOKEN_NAME)] | None = None


# Asking about files ------------------------------------------------------------------------


class Stat(RequestFor["Found"], frozen=True, tag="stat"):
    """Ask for the state of one path.

    Attributes:
        path: The path.
        follow: True to follow a link at ``path``.
        digest: True to include the digest that is stored with the file, if it is still valid.
        in_trash: Names of an operation and of one of its items in the trash; ``path`` is then
            relative to that item, ``/`` being the item itself.

    Replies: `Found`; or `Failed` with ``not-found``.
    """

    path: Path
    follow: bool = False
    digest: bool = False
    in_trash: InTrash | None = None


class Found(Message, frozen=True, tag="found"):
    """Reply to `Stat`.

    Attributes:
        entry: The entry at the path. Its ``path`` is the requested one.
    """

    entry: Entry


class List(StreamFor["Page", "Listed"], frozen=True, tag="list"):
    """List a directory, or with ``recursive`` the tree below it.

    The listing is in depth-first order: all pages of a directory, then those of its first
    subdirectory with everything below that, and so on. A reader never needs to hold more than the
    names of one directory.

    Attributes:
        path: A directory, or any other path.
        recursive: True to list the whole tree.
        follow: True to follow links (a link to one of its own parent directories is a `Problem`).
        digest: As in `Stat`.
        in_trash: As in `Stat`.
        prefix: List only the names in the directory that begin with these bytes, which are valid
            in a name (`paths.is_prefix`). With ``recursive``, also everything below these names.

    Replies: any number of `Page`, then END with `Listed`; or `Failed`, with ``forbidden`` if the
    directory itself cannot be read, ``bad-request`` for an invalid prefix. If the path is no
    directory: one entry with an empty path.
    """

    path: Path
    recursive: bool = False
    follow: bool = False
    digest: bool = False
    in_trash: InTrash | None = None
    prefix: Prefix = b""


class Page(Message, frozen=True, tag="page"):
    """A part of a listing, in the order of the file system.

    Attributes:
        directory: Path of the directory that the names are in, relative to the listed one.
        complete: True in the last page of that directory.
        entries: Entries of the directory.
        problems: What could not be read in it.
    """

    directory: bytes = b""
    entries: list[Entry] = []
    problems: list[Problem] = []
    complete: bool = False


class Listed(Message, frozen=True, tag="listed"):
    """End of a listing."""


class Hash(RequestFor["Hashed"], frozen=True, tag="hash"):
    """Ask for a file's BLAKE3 digest. A valid stored one is sent; else it is computed, with
    `Progress`.

    Attributes:
        path: The file.
        in_trash: As in `Stat`.

    Replies: `Hashed`; or `Failed` with ``not-found``, ``is-a-directory``, ``not-regular``.
    """

    path: Path
    in_trash: InTrash | None = None


class Hashed(Message, frozen=True, tag="hashed"):
    """Reply to `Hash`.

    Attributes:
        digest: BLAKE3 digest of the file.
        size: Its size in bytes.
    """

    digest: Digest
    size: int


MAX_TIMES = 1000
"""Most times in one `Space`."""


class Space(RequestFor["SpaceInfo"], frozen=True, tag="space"):
    """Ask for the account's quota and free space. Replies: `SpaceInfo`.

    Attributes:
        times: Times to test: the reply says which mtime the server's disk keeps when each is set.
    """

    times: Annotated[list[TimeNs], Meta(max_length=MAX_TIMES)] = []


class SpaceInfo(Message, frozen=True, tag="room"):
    """The account's quota and free space, in bytes.

    Attributes:
        total: The quota; None for no quota.
        used: Bytes of stored files, without the trash.
        held: Bytes reserved by running uploads, and by interrupted uploads that can be resumed.
        free: Bytes available for a new upload; None for unlimited. The trash counts as free,
            because its contents are removed when their space is needed.
        total_files: Most files, directories and links; None for no limit.
        used_files: Number of these; None if they are not counted.
        disk_free: Free bytes on the server's disk; None if the server does not reveal it.
        kept_times: For each requested time, the one that the disk keeps; None if unknown.
        kept: Bytes of ``held`` that belong to interrupted uploads.
        kept_uploads: Number of interrupted uploads.
        trash: Bytes in the trash.
        trash_files: Number of files, directories and links in the trash.
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
    """Ask for the account's interrupted uploads, which can be resumed.

    Replies: `KeptUploads` as often as needed, then END with `Listed`.
    """


class KeptUpload(msgspec.Struct, frozen=True, array_like=True):
    """An interrupted upload.

    Attributes:
        path: Its target; None if the server does not know it, or does not reveal it.
        size: Bytes received so far.
        total: Size of the whole file, which is reserved for it.
        touched: Time of its last byte, by the server's clock, in seconds since 1970.
        until: Time when it expires and is discarded, in seconds since 1970.
    """

    path: bytes | None
    size: int
    total: int
    touched: int
    until: int


class KeptUploads(Message, frozen=True, tag="kept-uploads"):
    """A part of the reply to `ListKept`."""

    uploads: list[KeptUpload] = []


class DropKept(RequestFor["KeptDropped"], frozen=True, tag="drop-kept"):
    """Discard interrupted uploads, which frees the space that they reserve.

    Attributes:
        upload: Their target; None for all of the account. Nothing is stored there yet, so path
            permissions do not apply.
        size: With ``mtime_ns``: discard only the upload of a source with this size and time. Both
            are given or none, and only together with ``upload``.
        mtime_ns: See ``size``.

    Replies: `KeptDropped`; or `Failed` with ``not-found`` (no interrupted upload for the path),
    ``busy`` (a session is uploading it), or ``bad-request``.
    """

    upload: Path | None = None
    size: Size | None = None
    mtime_ns: TimeNs | None = None


class KeptDropped(Message, frozen=True, tag="kept-dropped"):
    """Reply to `DropKept`.

    Attributes:
        count: Number of uploads that were discarded.
        size: Bytes of space that they had reserved.
        busy: Number of uploads that were not discarded because a session just resumed them.
        under_way: Number of matching uploads that are running in a session. They are not
            interrupted, and continue.
    """

    count: int
    size: int
    busy: int = 0
    under_way: int = 0


class WhoAmI(RequestFor["LoggedIn"], frozen=True, tag="whoami"):
    """Ask which account this session is logged in as. Replies: `LoggedIn`."""


# Transferring files --------------------------------------------------------------------------


class Get(StreamFor["Sending", "Sent"], frozen=True, tag="get"):
    """Ask for the bytes of one file. Links are followed inside the home.

    Attributes:
        path: The file.
        offset: Number of bytes to skip from the start of the file.
        prefix: Digest of the first ``offset`` bytes as the client has them. If those of the file
            have another digest, the whole file is sent.
        length: Most bytes to send; None for all that follow. Meant for a client that fetches a file
            in pieces: the server does not hash them, and END has the stored digest or none.
        holes: True if the client accepts a `Hole` in place of DATA frames.
        in_trash: As in `Stat`.

    Replies: `Sending`, DATA frames, then END with `Sent`; or `Failed` (also between DATA frames)
    with ``not-found``, ``is-a-directory``, ``not-regular``, ``source-changed``,
    ``stored-file-damaged``, ``too-many`` (too many transfers are running).
    """

    path: Path
    offset: Size = 0
    prefix: Digest | None = None
    length: Size | None = None
    holes: bool = False
    in_trash: InTrash | None = None


class Sending(Message, frozen=True, tag="sending"):
    """DATA frames follow, from ``offset`` on. ``size`` is that of the whole file.

    Attributes:
        size: Size of the whole file.
        mode: Permission bits.
        mtime_ns: Time of the last change of the contents.
        offset: Offset of the first byte that follows: 0, or that of the `Get`.
    """

    size: Size
    mode: int
    mtime_ns: int
    offset: Size = 0


class Sent(Message, frozen=True, tag="sent"):
    """Payload of the END that closes a file's DATA frames, in either direction.

    Attributes:
        digest: Digest of the whole file from its first byte, whatever the offset was; None if the
            sender does not know it.
        size: Size of the whole file; after a `PutPiece`, that of the piece.
        grew: True if the file grew while a `Get` read it. ``size`` and ``digest`` then describe the
            file as it was when it was opened, which is what was sent.
    """

    size: Size
    digest: Digest | None = None
    grew: bool = False


class Put(RequestFor["Ready | Stored"], frozen=True, tag="put"):
    """Store one file. DATA frames follow, then END with `Sent`; the server compares the digest.

    The file appears at its path as a whole, after it was verified and made durable, or not at all.
    No other request may come between a `Put` and its END or CANCEL.

    Attributes:
        path: Path to store the file at.
        size: Size of the whole file; None if unknown beforehand (a pipe).
        mode: Permission bits. Setuid, setgid and sticky are ignored.
        overwrite: What to do if the path exists: ``always`` replaces it, ``never`` fails, ``older``
            replaces it only if its mtime is before ``mtime_ns``.
        ask: True to wait for `Ready` before sending DATA frames; for large files.
        resume: With ``ask``: continue an interrupted upload of the same file, if there is one.
        parents: True to create missing parent directories.
        pieces: With ``ask`` and ``size``: send the bytes by `PutPiece`, if the server supports it.
        mtime_ns: Mtime to store; None for the current time.

    Replies: with ``ask``, `Ready`; then `Stored`. Or `Failed` with ``quota``, ``exists``,
    ``too-many``, ``not-newer``, ``is-a-directory``, ``verification-failed``, ``disk-full``, …; the
    server then discards what the client still sends of the file, up to its END or CANCEL.
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
    """Reply to a `Put` with ``ask``: send the bytes from ``offset`` on.

    Attributes:
        offset: Number of bytes that the server has from an interrupted upload, verified.
        digest: Digest of these bytes. If the first bytes of the source have another digest, the
            source has changed: CANCEL, and `Put` again with ``resume`` false.
        key: Key for each `PutPiece`, if pieces were requested and are supported; else None. With a
            key all bytes are sent by `PutPiece`, and END when all pieces are `Taken`.
    """

    offset: Size = 0
    digest: Digest | None = None
    key: Key | None = None


class PutPiece(RequestFor["Taken"], frozen=True, tag="put-piece"):
    """Send a part of a file that another session of the account has an open `Put` for. DATA frames
    follow, then END with `Sent`.

    Attributes:
        key: The key from that upload's `Ready`; valid until the upload ends.
        offset: Offset of the piece in the file.
        size: Bytes of the piece, at least one.

    Replies: `Taken`; or `Failed` with ``lease-lost`` if no such upload is open, ``failed`` if these
    bytes are not missing, ``too-many``, ``verification-failed``, ``disk-full``.
    """

    key: Key
    offset: Size
    size: PieceSize


class Taken(Message, frozen=True, tag="taken"):
    """The piece was written. It is part of the file once the whole file is `Stored`."""


class Stored(Message, frozen=True, tag="stored"):
    """The file is stored at its path, verified and durable.

    Attributes:
        size: Size of the file in bytes.
    """

    size: int


# Many small files in one request -----------------------------------------------------------

Name = Annotated[bytes, Meta(min_length=1, max_length=255)]


class NewFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a `PutFiles`. Its attributes are those of a `Put` and of its `Sent`.

    Attributes:
        name: Name in its directory.
        digest: Digest of its bytes.
        size: Size in bytes.
        mode: Permission bits.
        mtime_ns: Mtime to store.
    """

    name: Name
    size: Size
    mode: Mode
    mtime_ns: TimeNs
    digest: Digest


class NewFiles(msgspec.Struct, frozen=True, array_like=True):
    """New files in one directory.

    Attributes:
        path: The directory.
        make: Mode to create the directory with if it is missing, as `MakeDir` with ``parents`` and
            ``fill`` does; None to not create it.
        files: The files to store in it.
    """

    path: Path
    files: Annotated[list[NewFile], Meta(max_length=MAX_ITEMS)] = []
    make: Mode | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """The final mode and time of a directory whose contents are complete, as in `SetAttributes`.

    Attributes:
        path: The directory.
        mode: Its permission bits.
        mtime_ns: Its mtime.
    """

    path: Path
    mode: Mode
    mtime_ns: TimeNs


class PutFiles(StreamFor["NotStored", "FilesStored"], frozen=True, tag="put-files"):
    """Store many small files. DATA frames follow, with the bytes of one file after another and
    nothing between them, then END with `Sent` (the sum of their sizes; its digest is ignored).

    The request is equivalent to its parts sent one after another, in this order: each of
    ``directories`` is created if its ``make`` says so, and its files are stored; then each of
    ``finished`` gets its attributes. Items are numbered in the same order from 0 on: a directory of
    ``directories`` itself (even if it is not created), its files, the next directory, …, then those
    of ``finished``. There are at most `MAX_ITEMS` items, and their files have at most `MAX_BYTES`
    bytes together. Nothing is done before all bytes have arrived. Zeros may be sent as a `Hole`.

    Attributes:
        directories: The directories, with their new files.
        finished: Directories that are complete after this request.
        overwrite, parents: As in `Put`, for all files.

    Replies: `NotStored` as often as needed, then END with `FilesStored`; or `Failed`, and nothing
    is stored: ``bad-request``, ``verification-failed`` (more or fewer bytes arrived), ``too-many``,
    ``cancelled``; ``forbidden`` or ``disk-full`` if nothing can be stored anywhere in the home.
    """

    directories: Annotated[list[NewFiles], Meta(max_length=MAX_ITEMS)]
    finished: Annotated[list[Finished], Meta(max_length=MAX_ITEMS)] = []
    overwrite: Overwrite = "always"
    parents: bool = False


class ItemFailure(msgspec.Struct, frozen=True, array_like=True):
    """The reason why one item of a `PutFiles` failed, as in `Failed`.

    Attributes:
        index: Number of the item.
        message: As in `Failed`. If it begins with ``": "``, it follows the path, which both sides
            know (`behind_path`, `failed`). Shortened if it does not fit into the frame.
        rule: As in `Failed`; left out if the message had to be shortened.
        code, needed, free, what, retry_after: As in `Failed`.
    """

    index: Annotated[int, Meta(ge=0, le=MAX_ITEMS - 1)]
    code: str
    message: str
    needed: int | None = None
    free: int | None = None
    what: str | None = None
    retry_after: int | None = None
    rule: str | None = None

    @staticmethod
    def behind_path(message: str, path: bytes) -> str:
        """Return the message to send about a path: without the path, if it begins with it."""
        shown = show(path)
        return message[len(shown) :] if message.startswith(f"{shown}: ") else message

    def failed(self, path: bytes) -> Failed:
        """Return the `Failed` that a request for ``path`` alone would have got."""
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
    """A part of the reply to `PutFiles`: the items that failed, in the order of their numbers.

    Attributes:
        failures: One entry for each item that failed.
    """

    failures: Annotated[list[ItemFailure], Meta(max_length=MAX_ITEMS)]


class FilesStored(Message, frozen=True, tag="files-stored"):
    """End of the reply to `PutFiles`: all items that are in no `NotStored` were done, and are
    durable.

    Attributes:
        done: Number of these items.
    """

    done: int


class WantedFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a `GetFiles`: its name in its directory, and the size that it must have."""

    name: Name
    size: Size


class WantedFiles(msgspec.Struct, frozen=True, array_like=True):
    """Files of one directory.

    Attributes:
        path: The directory.
        files: Names and sizes of its files.
    """

    path: Path
    files: Annotated[list[WantedFile], Meta(max_length=MAX_ITEMS)]


class GetFiles(StreamFor["SendingFiles", "Sent"], frozen=True, tag="get-files"):
    """Ask for many small files: at most `MAX_ITEMS` items, counting directories, with at most
    `MAX_BYTES` bytes together. A link in place of a file is not followed.

    Attributes:
        directories: The directories, with the files to send.

    Replies: one or more `SendingFiles`, which cover all files; DATA frames with the bytes of those
    that are sent, one after another with nothing between them; END with `Sent`, whose ``size`` is
    their sum, without a digest. Or `Failed` with ``bad-request``, ``cancelled``.
    """

    directories: Annotated[list[WantedFiles], Meta(max_length=MAX_ITEMS)]


class SentFile(msgspec.Struct, frozen=True, array_like=True):
    """One file that is sent. It has exactly the requested size.

    Attributes:
        mode: Permission bits.
        mtime_ns: Time of the last change of the contents.
        digest: Digest of its bytes.
    """

    mode: Mode
    mtime_ns: int
    digest: Digest


class SendingFiles(Message, frozen=True, tag="sending-files"):
    """A part of the reply to `GetFiles`: the next files, in the order of the request.

    Attributes:
        files: The files; None for one that is not sent because it is missing, no regular file, of
            another size, not readable or damaged. A `Get` of it either succeeds or returns the
            reason.
    """

    files: Annotated[list[SentFile | None], Meta(max_length=MAX_ITEMS)]


# Changing the tree -------------------------------------------------------------------------


class MakeDir(ChangeFor["Done"], frozen=True, tag="make-dir"):
    """Create a directory.

    Attributes:
        path: Path of the directory.
        mode: Permission bits of a directory that is created.
        parents: True to create missing parents; then it is no error if the directory exists.
        fill: True if its contents are sent next: an existing directory also gets the mode bits
            0700.

    Replies: `Done`; or `Failed` with ``exists``, ``not-found``, ``not-a-directory``.
    """

    path: Path
    mode: Mode = 0o755
    parents: bool = False
    fill: bool = False


class MakeLink(ChangeFor["Done"], frozen=True, tag="make-link"):
    """Store a symbolic link as it is. It is resolved inside the home only.

    Attributes:
        path: Path of the link.
        target: The text of the link, which need not exist as a path.
        mtime_ns: Mtime to set; None for the current time.
        overwrite: As in `Put`.

    Replies: `Done`; or `Failed` with ``exists``, ``is-a-directory``, ``not-newer``, ``not-found``,
    ``not-a-directory``.
    """

    path: Path
    target: Path
    mtime_ns: TimeNs | None = None
    overwrite: Overwrite = "always"


class SetAttributes(RequestFor["Done"], frozen=True, tag="set-attributes"):
    """Set permission bits or the mtime. Set those of a directory after its contents are complete.

    Attributes:
        path: The file or directory. A link is followed.
        mode: Permission bits. Setuid, setgid and sticky are ignored; a directory keeps the setgid
            and sticky bits that it has.
        exact: True if the user asked for this mode. Otherwise it is the mode of an upload's source:
            the parent's default ACL restricts it, as it does for new files, and a directory that
            belongs to another user keeps its mode and time, with a `Remark`.
        setgid: True to set that bit of a directory, False to clear it; None leaves it unchanged.
        mtime_ns: Mtime to set; None leaves it unchanged.

    Replies: `Done`; or `Failed` with ``not-found``, ``not-a-directory``, ``not-regular``,
    ``forbidden`` (also for a file that belongs to another system user).
    """

    path: Path
    mode: Mode | None = None
    mtime_ns: TimeNs | None = None
    exact: bool = False
    setgid: bool | None = None


class BeginTree(RequestFor["Done"], frozen=True, tag="begin-tree"):
    """Collect everything that this session stores at or below ``path`` in a hidden tree, until
    `EndTree`. A session can have one such tree at a time; it is discarded when the session ends.
    Other requests see what is at ``path`` now.

    Attributes:
        path: Path of the directory to replace.
        mode: Mode to create the directory with. Its owner can fill it in any case. This is its
            final mode if the server cannot change the mode of a directory without losing its setgid
            bit.

    Replies: `Done`; or `Failed` with ``not-found`` if the parent directory is missing.
    """

    path: Path
    mode: Mode = 0o700


class EndTree(ChangeFor["Done"], frozen=True, tag="end-tree"):
    """Replace what is at the path of `BeginTree` with the hidden tree, atomically; or discard the
    tree.

    Attributes:
        commit: True to replace, False to discard.

    Replies: `Done`, when the change is durable and what it replaced is removed; or `Failed`:
    nothing was changed, and the tree was discarded.
    """

    commit: bool = True


class Remove(ChangeFor["Removed"], frozen=True, tag="remove"):
    """Remove a file, a link or an empty directory; with ``recursive``, a whole tree.

    Attributes:
        path: The path to remove.
        recursive: True to remove a directory with its contents.
        size, mtime_ns: Remove only a file or link that has this size and mtime.
        final: True to bypass the trash.
        file_only: True to refuse a directory, also an empty one.

    Replies: `Removed`; or `Failed` with ``not-found``, ``not-empty``, ``is-a-directory``,
    ``source-changed``.
    """

    path: Path
    recursive: bool = False
    size: Size | None = None
    mtime_ns: TimeNs | None = None
    final: bool = False
    file_only: bool = False

    @property
    def only_if_same(self) -> bool:
        """True if it requires a size or an mtime."""
        return self.size is not None or self.mtime_ns is not None


class Removed(Message, frozen=True, tag="removed"):
    """Reply to `Remove` and `Purge`.

    Attributes:
        files, directories, size_bytes: What was freed; or what was moved to the trash, if that was
            counted: a tree is not.
        operation: Name of the operation that it can be found under in the trash.
        trashed: True if it is in the trash; False if it was purged.
    """

    files: int
    directories: int
    size_bytes: int
    operation: OperationName | None = None
    trashed: bool = False


class Move(ChangeFor["Done"], frozen=True, tag="move"):
    """Rename a file, a link or a directory.

    Attributes:
        source: The current path.
        target: The new path.
        overwrite: ``never`` to fail if the target exists. A directory is never replaced.

    Replies: `Done`; or `Failed` with ``not-found``, ``exists``, ``is-a-directory``.
    """

    source: Path
    target: Path
    overwrite: Literal["always", "never"] = "always"


class Copy(ChangeFor["Copied"], frozen=True, tag="copy"):
    """Copy a file, or with ``recursive`` a tree, on the server. The copy counts in the quota.

    Links are copied as links, but ``source`` itself is followed if it is a link.

    Attributes:
        source: The path to copy.
        target: The path of the copy.
        recursive: True to copy a directory with its contents.
        overwrite: ``never`` to keep what exists.
        links: True to copy ``source`` itself as a link, too.

    Replies: `Copied` (with `Progress` on the way); or `Failed` with ``not-found``, ``quota``,
    ``exists``, ``is-a-directory``.
    """

    source: Path
    target: Path
    recursive: bool = False
    overwrite: Literal["always", "never"] = "always"
    links: bool = False


class Copied(Message, frozen=True, tag="copied"):
    """Reply to `Copy`. All counts but those of problems are of what was done.

    Attributes:
        files: Number of files and links that were copied.
        directories: Number of directories that were created, or that existed and were filled.
        size_bytes: Bytes of the files that were copied.
        problems: What could not be copied of a tree, and what was skipped because it exists: at
            most 100 of them, the failures first.
        more_problems: Number of further problems.
        skipped: Number of all problems that are ``exists`` with ``overwrite`` being ``never``.
    """

    files: int
    directories: int
    size_bytes: int
    problems: list[Problem] = []
    more_problems: int = 0
    skipped: int = 0


class Done(Message, frozen=True, tag="done"):
    """The change was made and is durable."""


# The trash ---------------------------------------------------------------------------------


class Operation(RequestFor["Done"], frozen=True, tag="operation"):
    """Set the command of a client that the following requests of this connection belong to. All
    connections of one command send the same; what they remove and replace is kept together.

    Attributes:
        id: A random ID that the client draws for each command; None if the following requests
            belong to no command.
        words: The command as its user would type it, for display.
        client: A random ID that each client program of a user draws once. It determines which
            command is "the last command". It is no secret.
        keep: False to keep nothing in the trash for this command.

    Replies: `Done`.
    """

    id: OperationKey | None = None
    words: Annotated[str, Meta(max_length=200)] = ""
    client: OperationKey | None = None
    keep: bool = True


class TrashItem(msgspec.Struct, frozen=True, array_like=True):
    """One item that an operation has removed, replaced, moved or restored.

    Attributes:
        name: Its name in the trash; empty if it is not in the trash.
        what: ``removed``: a file, a link or an empty directory. ``tree``: a directory with its
            contents. ``replaced``: it was replaced by something else. ``moved``: it was renamed to
            ``target``, and nothing is kept. ``restored``: it was restored from the trash.
            ``found``: it is in the trash, but no record says what it was.
        path: Its path before the operation.
        type: Type of what is, or was, in the trash.
        size: Bytes of a file or link, or of a whole ``tree``; None while they are not counted.
        files: Number of files, directories and links in it; None while they are not counted.
        state: ``kept``: it can be restored. ``restored``, ``purged``: it is no longer in the trash.
        target: The path that it was moved to.
        digest: The digest of a file, if one is stored with it.
        time_ns: Time when it was removed, replaced, moved or restored.
        within: For a version that lies in a removed directory: the path of that directory. The rest
            of ``path`` leads from the item to the version.
        mtime_ns: Mtime of the item.
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
    """An operation in the trash.

    Attributes:
        name: Its name, made of its time and a random part.
        time_ns: Time when it began, by the server's clock.
        words: The command, as in `Operation`.
        client: The client's ID, as in `Operation`.
        expires: Time when it is purged at the latest, in seconds since 1970; None if not known,
            because the trash was turned off meanwhile, or none of it is left.
        items: Number of items that it changed.
        kept: Number of these that are in the trash now.
        size, files: Bytes and number of files in the trash, as far as they are counted.
        counted: True if all of them are counted.
        undone: True if a `Restore` of the whole operation undid it.
        first: One of the paths that it changed, for display.
        undoes: The operation that this one restored from, if it was a `Restore`.
        key: The client's ID of it, from `Operation`; None if it had none.
        given_up: Bytes that were freed when it was purged because its space was
            needed (while that lasts, and if it was interrupted: the bytes that it had; 0 if they
            are not known); None if it was not removed. It stays listed for a day, so that an
            earlier command is not mistaken for the last one.
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
    """Ask for the contents of the trash, the newest operation first. What the account may not list
    at its original path is left out.

    Attributes:
        operation: List only this operation.
        below: List only what was at this path or below it; with ``versions``, only at this path.
        items: True to list each item, newest first; False to list only operations.
        versions: True to list only files and links that can be restored, whatever removed or
            replaced them.
        limit: Most operations, or with ``items`` most items, in the reply.

    Replies: `TrashPage` as often as needed, then END with `Listed`; or `Failed` with ``expired`` if
    the operation is not (or no longer) in the trash, ``forbidden``.
    """

    operation: OperationName | None = None
    below: Path | None = None
    items: bool = False
    versions: bool = False
    limit: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class TrashPage(Message, frozen=True, tag="trash-page"):
    """A part of the reply to `ListTrash`: operations, or items of the operation ``of``.

    Attributes:
        of: Name of the operation that ``items`` belong to.
        operations: Operations, without ``items``.
        items: Items of the operation ``of``.
    """

    operations: list[TrashedOperation] = []
    of: OperationName | None = None
    items: list[TrashItem] = []


class Restore(ChangeFor["Restored"], frozen=True, tag="restore"):
    """Undo an operation, its last change first: what it removed is put back, what it replaced is
    exchanged with what is there now, what it moved is moved back. The restore is an operation
    itself, and can be undone.

    Attributes:
        operation: Name of the operation.
        items: Restore only these items; empty for all.
        paths: Restore only what was at or below one of these paths, also parts of a tree; empty for
            all.
        target: Directory to restore to, instead of the original one. It is created if missing.
        conflict: What to do if something else is at the path: ``skip`` leaves it, ``replace`` moves
            it to the trash, ``beside`` restores under the name ``NAME.restored-1`` and so on.
        look: True to change nothing, and only report what would be done.

    Replies: `Restored` (after `Progress`), also if there are conflicts; or `Failed` with
    ``expired``, ``busy``, ``forbidden``, ``disk-full``.
    """

    operation: OperationName
    items: Annotated[list[ItemName], Meta(max_length=1000)] = []
    paths: Annotated[list[Path], Meta(max_length=100)] = []
    target: Path | None = None
    conflict: Literal["skip", "replace", "beside"] = "skip"
    look: bool = False


class Restored(Message, frozen=True, tag="restored"):
    """Reply to `Restore`.

    Attributes:
        items: Number of items that were restored (a tree is one).
        already: Number of further items that had been restored before.
        gone: Number of items that are gone: they expired, were removed for their space, or
            purged.
        conflicts: What was not restored, and why; at most 100.
        more_conflicts: Number of further conflicts.
        operation: Name of the operation that the restore itself is.
        paths: Some of the restored paths, with the names that they have now (see ``beside``); at
            most 100.
    """

    items: int
    already: int = 0
    gone: int = 0
    conflicts: list[Problem] = []
    more_conflicts: int = 0
    operation: OperationName | None = None
    paths: list[bytes] = []


class Purge(ChangeFor["Removed"], frozen=True, tag="purge"):
    """Purge items of the trash.

    Attributes:
        operation: Name of the operation; None for all of the account.
        items: Remove only these items of the operation; empty for all.
        before: Remove only operations that began before this time, in seconds since 1970.

    Replies: `Removed` (after `Progress`), with what was freed; or `Failed` with ``expired``,
    ``busy``, ``forbidden``.
    """

    operation: OperationName | None = None
    items: Annotated[list[ItemName], Meta(max_length=1000)] = []
    before: Annotated[int, Meta(ge=0, le=2**40)] | None = None


# Notices and failures ------------------------------------------------------------------------


class Progress(Message, frozen=True, tag="progress"):
    """NOTICE about a long request: ``done`` of ``total`` bytes (None if unknown)."""

    done: int
    total: int | None = None


class Remark(Message, frozen=True, tag="remark"):
    """NOTICE with id 0: something that the user should know, e.g. that free space is low."""

    message: str


class GoingDown(Message, frozen=True, tag="going-down"):
    """NOTICE with id 0: the server is about to close the connection, because it shuts down, the
    session or its transfer was idle for too long, or another transfer needs its slot."""

    message: str = "the server is shutting down"


class Hole(Message, frozen=True, tag="hole"):
    """NOTICE in place of DATA frames, in either direction: ``size`` zeros of the file, which take
    no space on the sender's disk."""

    size: HoleSize


class Failed(Message, frozen=True, tag="failed"):
    """Payload of an ERROR frame.

    Attributes:
        code: One of the codes in ftpwire/errors.py. An unknown one is an ordinary failure.
        message: One line for display.
        needed: Bytes or files that the request needed, if space was missing.
        free: Bytes or files that were free.
        what: The unit of these two: ``bytes`` or ``files``; None (from older servers) for bytes.
        retry_after: Seconds after which the same request may succeed.
        path: The absolute path that it is about, if the server knows it. Of two paths, the source,
            unless it is about the target.
        rule: The rule of the account's permissions that forbids it.
        versions: With the code ``version``: those that the server speaks.
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
        """Return the message to send for ``error``.

        Args:
            path: The path that it is about, unless the error has one.
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
        """Return the typed error for a failure that the peer sent.

        A code that only this side may raise, such as that of Ctrl-C, becomes an ordinary failure.

        Args:
            ends: True if the failure ends the connection. Otherwise it is about one request or one
                path, and is never a `ConnectionLost`, whatever its code is.
        """
        kind = errors.BY_CODE.get(self.code, CommandError)
        if issubclass(kind, errors.FOUND_HERE) or (issubclass(kind, ConnectionLost) and not ends):
            kind = CommandError
        path = self.path
        if path is not None and not path.startswith(b"/"):
            path = None  # callers compare it with absolute paths
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
"""All requests of a client after HELLO."""

Reply = (
    LoggedIn
    | TokenIssued
    | Tokens
    | Found
    | Page
    | Hashed
    | SpaceInfo
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
    """Return whether a request needs a server with the feature `MANY_FILES`."""
    return isinstance(request, PutFiles | GetFiles)


def needs_trash(request: RequestBase) -> bool:
    """Return whether a request needs a server with the feature `TRASH`. Other servers do not know
    it, or would reply about the file that is at the path now."""
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
    Space: ((SpaceInfo,), _NOTHING),
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
"""The messages that may answer each request: in REPLY frames, and in the END that closes a stream.
`RequestFor` and `StreamFor` declare the same for type checkers."""

encode = msgspec.msgpack.Encoder().encode
encode_into = msgspec.msgpack.Encoder().encode_into

_hello: Family[Hello] = Family(Hello, "hello")

_requests: Family[Request] = Family(Request, "request", unknown=UnknownRequest, bad=BadRequest)
decode_request = _requests.decode
"""Decode the payload of a REQUEST frame. Raises BadRequest; or, as all of these functions do,
BadMessage if it is no msgpack map or has no ``op``."""


decode_reply = Family[Reply](Reply, "reply", unknown=BadReply, bad=BadReply).decode
"""Decode the payload of a REPLY frame. Raises BadReply."""
_answers: Family[Reply | Failed] = Family(Reply | Failed, "answer", unknown=BadReply, bad=BadReply)
decode_answer = _answers.decode
"""Decode a recorded reply that is to be repeated: a `Reply` or `Failed`. Raises BadReply."""
decode_ending = Family[Ending](Ending, "closing message", unknown=BadReply, bad=BadReply).decode
"""Decode the payload of an END frame. Raises BadReply."""
_sent: Family[Sent] = Family(Sent, "closing message", unknown=BadRequest, bad=BadRequest)
decode_sent = _sent.decode
"""Decode the payload of the END that closes an upload. Raises BadRequest."""
decode_failed = Family[Failed](Failed, "failure", unknown=BadReply, bad=BadReply).decode
"""Decode the payload of an ERROR frame. Raises BadReply."""
_holes: Family[Hole] = Family(Hole, "notice", unknown=BadRequest, bad=BadRequest)
decode_hole = _holes.decode
"""Decode the payload of a NOTICE inside an upload. Raises BadRequest."""
_decode_download_hole = Family[Hole](Hole, "notice", unknown=BadReply, bad=BadMessage).decode
_decode_notice = Family[Notice](Notice, "notice", unknown=BadReply, bad=BadReply).decode


def prepare_to_serve() -> None:
    """Make all decoders for messages from clients, so that forked processes need not make them."""
    for family in (_hello, _requests, _sent, _holes):
        family.prepare()
    _answers.prepare()  # a recorded reply is decoded before it is repeated


def decode_notice(payload: Payload) -> Notice | None:
    """Decode the payload of a NOTICE frame. Return None for a notice that is unknown here.

    Raises:
        BadMessage: It is a `Hole` with an invalid size.
    """
    try:
        return _decode_notice(payload)
    except BadReply:
        pass
    try:
        return _decode_download_hole(payload)
    except BadReply:
        return None


def encode_hello(hello: Hello) -> bytes:
    """Return the payload of the first frame."""
    return MAGIC + encode(hello)


def decode_hello(payload: Payload) -> Hello:
    """Decode the payload of the first frame.

    Raises:
        BadMagic: The peer speaks something else than this protocol.
        BadMessage: The magic is right, but what follows is no valid `Hello`.
    """
    if bytes(payload[:4]) != MAGIC:
        raise BadMagic("the peer doesn't speak this protocol")
    return _hello.decode(payload[4:])
