"""What failed of a request of many files, as messages that the client takes.

Lives elsewhere: what fails (storage/file_run.py), sending (exchange.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from ftpwire import messages
from ftpwire.errors import FACTS
from ftpwire.messages import Failed, ItemFailure, NotStored

_FACTS = [name for name in FACTS if name != "path"]  # its index says what it is about
_AROUND = 64
"""Bytes of a message beside the failures in it, and some more."""
MOST_TOLD = 256 * 1024
"""Bytes that tell all failures of a request, at most; as many as the files that it stores."""


def not_stored(
    failures: Mapping[int, Failed], paths: Mapping[int, bytes], page_size: int
) -> Iterator[NotStored]:
    """The messages that tell these, by their indexes.

    Args:
        paths: What they are about, which the client knows: a message doesn't begin with it.
        page_size: Bytes of a message, at most.
    """
    items = [_item(index, failure, paths.get(index)) for index, failure in failures.items()]
    sizes = [len(messages.encode(item)) for item in items]
    most = page_size - _AROUND
    if sum(sizes) > MOST_TOLD:  # each has the same part of it
        most = min(most, MOST_TOLD // len(items))
    page: list[ItemFailure] = []
    room = page_size - _AROUND
    for item, size in zip(items, sizes, strict=True):
        if size > most:
            item = _shortened(item, size - most)
            size = len(messages.encode(item))
        if page and size > room:
            yield NotStored(page)
            page, room = [], page_size - _AROUND
        page.append(item)
        room -= size
    if page:
        yield NotStored(page)


def _item(index: int, failure: Failed, path: bytes | None) -> ItemFailure:
    message = failure.message
    if path is not None:
        message = ItemFailure.behind_path(message, path)
    return ItemFailure(
        index, failure.code, message, **{name: getattr(failure, name) for name in _FACTS}
    )


def _shortened(item: ItemFailure, excess: int) -> ItemFailure:
    """The same with fewer bytes: paths in its text, and in a rule, may be longer than a message."""
    text = item.message.encode()
    if item.rule is not None:
        excess -= len(item.rule.encode())
        item = replace(item, rule=None)
    if excess > 0:
        cut = text[: max(0, len(text) - excess - len("…".encode()))]
        item = replace(item, message=cut.decode(errors="ignore") + "…")
    return item
