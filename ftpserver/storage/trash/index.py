"""The index of an operation: what lies in its directory, and what became of it.

Lives here: the lines, writing them as bytes, reading them back. Lives elsewhere: the file itself
(directory.py, operation.py).

The file is JSON Lines, and only ever appended to, each time by one write: sessions of one command
share it. A crash may leave the last line torn; a line may tell of a thing that isn't there, because
the crash came before its rename.

Who may write into the home by other ways than this server can write anything here: a line is passed
over unless it is one that the server could have written, and so is what is more than `MOST_LINES`.
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
"""An item's name. A line in which it is anything else is passed over: it could lead elsewhere."""
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
"""Lines of one index that are read: far more than fit what a session writes into one."""

What = Literal["removed", "tree", "replaced", "moved", "restored"]
Became = Literal["restored", "purged"]


class Bytes(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes in JSON: as text where they are UTF-8, else in base 64."""

    text: str | None = None
    b64: Base64 | None = None

    @classmethod
    def of(cls, value: bytes) -> Bytes:
        """These bytes."""
        try:
            return cls(text=value.decode())
        except UnicodeDecodeError:
            return cls(b64=base64.b64encode(value).decode())

    @property
    def value(self) -> bytes:
        """The bytes."""
        return (self.text or "").encode() if self.b64 is None else base64.b64decode(self.b64)


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What something at a path was, to know it again by.

    Attributes:
        inode: 0 where it was not looked at: then the digest says it.
        digest: Of a file where one is kept, in hexadecimal digits.
    """

    inode: int
    size: int
    mtime_ns: int
    digest: Hexadecimal | None = None


class Begin(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="begin"):
    """The first line: whose operation it is. Sessions that begin it at the same time may each write
    one; the first counts.

    Attributes:
        account: Its id in the ledger.
        user: Its name then.
        key: The client's id of the operation, in hexadecimal digits; None of an older client.
        client: The client's own id, in the same way.
        time: Nanoseconds since 1970.
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
    """One thing that was removed, replaced, moved or restored.

    Attributes:
        name: In the operation's directory; empty where nothing is kept (``moved``, ``restored``).
        what: See `ftpwire.messages.TrashItem`.
        path: Where it was; of what was restored, where it is.
        time: Nanoseconds since 1970.
        target: Of what was moved, where to.
        after: Of what was replaced, moved or restored: what is at the path (at the target) since.
        number: Of the client's request; 0: it had none.
        source: Of what was restored: the item's name in the operation that it was restored from.
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
    """An item isn't in the trash any more.

    Attributes:
        by: The operation that restored it.
    """

    name: Name
    became: Became
    by: str | None = None


class Measured(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="measured"):
    """How much an item is, which counts in the account's trash from here on. Again, after a part of
    it was taken: the last one holds.

    Attributes:
        size: Bytes; None: it isn't known any more, and nothing of it counts.
        files: Files, directories and links, itself among them.
    """

    name: Name
    size: Amount | None
    files: Amount | None


class Undone(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="undone"):
    """The operation as a whole was undone: nothing more is added to it, and doing it again is
    undoing ``by``."""

    by: str
    time: int


Line = Begin | Item | Gone | Measured | Undone

UNDONE = b'"is":"undone"'
"""In the line that says so, as `encode` writes it, and in no other."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def encode(lines: Iterable[Line]) -> bytes:
    """Lines as they are appended, by one write."""
    return b"".join(_encode(line) + b"\n" for line in lines)


def decode(content: bytes) -> Iterator[Line]:
    """The lines of an index. What a crash has torn, and what a later version has written, is passed
    over."""
    for line in islice(BytesIO(content), MOST_LINES):
        try:
            yield _decode(line)
        except msgspec.DecodeError:
            continue


@dataclass
class Contents:
    """What an index says.

    Attributes:
        begin: None: a crash came before it was durable.
        items: In the order in which they were announced.
        gone: What became of items, by their names.
        measured: How much they are, by their names.
    """

    begin: Begin | None = None
    items: list[Item] = field(default_factory=list)
    gone: dict[str, Gone] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    undone: Undone | None = None

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Contents:
        """What these lines say."""
        found = cls()
        announced: set[str] = set()
        for line in lines:
            match line:
                case Begin():
                    found.begin = found.begin or line
                case Item(name=name) if name in announced:
                    pass  # written once more, because the disk was full in the middle of it
                case Item(name=name):
                    found.items.append(line)
                    if name:
                        announced.add(name)
                case Gone():
                    found.gone[line.name] = line
                    found.measured.pop(line.name, None)
                case Measured():
                    found.measured[line.name] = line
                case Undone():
                    found.undone = line
        return found

    @property
    def only_versions(self) -> bool:
        """Whether all that it keeps was replaced, and nothing removed."""
        return all(item.what == "replaced" or not item.name for item in self.items)

    def counted(self, names: Sequence[str] | None = None) -> tuple[int, int]:
        """Bytes and files that count in the account's trash: of these items, or all."""
        all_of = self.measured.values() if names is None else _some(self.measured, names)
        known = [(one.size or 0, one.files or 0) for one in all_of]
        return sum(size for size, _ in known), sum(files for _, files in known)


def _some(measured: dict[str, Measured], names: Sequence[str]) -> list[Measured]:
    return [measured[name] for name in names if name in measured]
