"""The index of an operation: the items in its directory, and what became of them.

Lives here: the lines, encoding and decoding them. Lives elsewhere: the file itself (directory.py,
operation.py).

The file is in JSON Lines format and is only ever appended to, each time by one write, because the
sessions of one command share it. A crash may leave the last line torn. A line may describe an item
that isn't there, because the crash came before its rename.

Other programs that can write into the home can write anything here. So a line that the server could
not have written is skipped, and so are all lines after the first `MOST_LINES`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"\A([0-9a-f]{8}-[0-9]{1,10})?\Z")]
"""An item's name. A line with any other name is skipped: it could lead out of the operation."""
Base64 = Annotated[
    str,
    Meta(pattern=r"\A([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z"),
]
Hexadecimal = Annotated[str, Meta(pattern=r"\A([0-9a-f]{2})*\Z")]
Key = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
Words = Annotated[str, Meta(max_length=200)]
Amount = Annotated[int, Meta(ge=0, le=2**62)]
Time = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

MOST_LINES = 1_000_000
"""Most lines of one index that are read: far more than the server writes into one."""

What = Literal["removed", "tree", "replaced", "moved", "restored"]
Became = Literal["restored", "purged"]


class Bytes(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes in JSON: as text where they are UTF-8, else in base 64."""

    text: str | None = None
    b64: Base64 | None = None

    @classmethod
    def of(cls, value: bytes) -> Bytes:
        """Encode these bytes."""
        try:
            return cls(text=value.decode())
        except UnicodeDecodeError:
            return cls(b64=base64.b64encode(value).decode())

    @property
    def value(self) -> bytes:
        """The bytes."""
        return (self.text or "").encode() if self.b64 is None else base64.b64decode(self.b64)


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a file or directory, by which it is recognized later.

    Attributes:
        inode: The inode number; 0 if it is not known: then the digest identifies the file.
        digest: The file's stored digest in hexadecimal digits, if there is one.
    """

    inode: int
    size: int
    mtime_ns: int
    digest: Hexadecimal | None = None


class Begin(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="begin"):
    """The first line: the owner of the operation. Sessions that begin it at the same time may each
    write one; the first counts.

    Attributes:
        account: The account's id in the ledger.
        user: The account's name at that time.
        time: Nanoseconds since 1970.
        words: The client's description of the command.
        key: The client's id of the operation, in hexadecimal digits; None from an older client.
        client: The client's own id, in hexadecimal digits; None from an older client.
        undoes: The operation that this one restores from.
    """

    account: Amount
    user: str
    time: Time
    words: Words = ""
    key: Key | None = None
    client: Key | None = None
    undoes: str | None = None


class Item(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="item"):
    """One file or directory that was removed, replaced, moved or restored.

    Attributes:
        name: Its name in the operation's directory; empty if nothing is kept (``moved``,
            ``restored``).
        what: See `ftpwire.messages.TrashItem`.
        path: The path where it was; for ``restored``, the path where it is.
        time: Nanoseconds since 1970.
        target: For ``moved``: the path that it was moved to.
        after: For ``replaced``, ``moved`` and ``restored``: the state of what is at the path (for
            ``moved``, at the target) since then.
        number: The number of the client's request; 0 if it had none.
        source: For ``restored``: the item's name in the operation that it was restored from.
    """

    name: Name
    what: What
    path: Bytes
    time: Time
    target: Bytes | None = None
    after: State | None = None
    number: int = 0
    source: Name | None = None


class Gone(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="gone"):
    """An item is no longer in the trash; ``purged``: if its name is there nevertheless, it is, as
    the crash came between this line and its rename.

    Attributes:
        name: The item.
        became: What happened to it.
        by: The operation that restored it.
    """

    name: Name
    became: Became
    by: str | None = None


class Measured(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="measured"):
    """The size of an item, which counts in the account's trash from this line on. Written again
    after a part of the item was taken out: the last line counts.

    Attributes:
        name: The item.
        size: Bytes; None if it is no longer known: then nothing of the item counts.
        files: The number of files, directories and links, the item included.
    """

    name: Name
    size: Amount | None
    files: Amount | None


class Undone(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="undone"):
    """The operation as a whole was undone: nothing more is added to it. To redo it, undo the
    operation ``by``."""

    by: str
    time: int


Line = Begin | Item | Gone | Measured | Undone

UNDONE = b'"is":"undone"'
"""The part of an `Undone` line that no other line has, as `encode` writes it."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def encode(lines: Iterable[Line]) -> bytes:
    """Encode lines for one write."""
    return b"".join(_encode(line) + b"\n" for line in lines)


def decode(content: bytes) -> Iterator[Line]:
    """Yield the lines of an index. Lines that a crash has torn, and lines that a later version of
    the server has written, are skipped."""
    for line in islice(BytesIO(content), MOST_LINES):
        try:
            yield _decode(line)
        except msgspec.DecodeError:
            continue


@dataclass
class Contents:
    """The content of an index.

    Attributes:
        begin: The first line; None if a crash came before it was durable.
        items: The items, in the order of their lines.
        gone: What became of items, by their names. Items that are in the trash are in it,
            whatever this says.
        measured: The sizes of items, by their names.
        undone: The line that says that the operation was undone, if there is one.
    """

    begin: Begin | None = None
    items: list[Item] = field(default_factory=list)
    gone: dict[str, Gone] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    undone: Undone | None = None

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Contents:
        """Collect the content of these lines."""
        found = cls()
        announced: set[str] = set()
        for line in lines:
            match line:
                case Begin():
                    found.begin = found.begin or line
                case Item(name=name) if name in announced:
                    pass  # written again, because the disk was full in the middle of the first try
                case Item(name=name):
                    found.items.append(line)
                    if name:
                        announced.add(name)
                case Gone():
                    found.gone[line.name] = line
                    if line.became != "purged":  # that line comes before the item goes
                        found.measured.pop(line.name, None)
                case Measured():
                    found.measured[line.name] = line
                case Undone():
                    found.undone = line
        return found

    @property
    def only_versions(self) -> bool:
        """True if all that it keeps are replaced versions, nothing removed."""
        return all(item.what == "replaced" or not item.name for item in self.items)

    def counted(self, names: Sequence[str] | None = None) -> tuple[int, int]:
        """Return the bytes and files that count in the account's trash: of these items, or of all
        that were measured."""
        all_of = self.measured.values() if names is None else _some(self.measured, names)
        known = [(one.size or 0, one.files or 0) for one in all_of]
        return sum(size for size, _ in known), sum(files for _, files in known)


def _some(measured: dict[str, Measured], names: Sequence[str]) -> list[Measured]:
    return [measured[name] for name in names if name in measured]
