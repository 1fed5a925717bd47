"""The failures of a request with many files, as messages of a size that the client takes.

Lives elsewhere: what fails (storage/file_run.py), sending (exchange.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from ftpwire import messages
from ftpwire.errors import FACTS
from ftpwire.messages import Failed, ItemFailure, NotStored

_FACTS = [name for name in FACTS if name != "path"]  # the index names the path
_AROUND = 64
"""Bytes of a message besides its failures, rounded up."""
MAX_ANSWER_SIZE = 256 * 1024
"""Most bytes for all failures of a request: as many as the files that it stores."""


def not_stored(
    failures: Mapping[int, Failed], paths: Mapping[int, bytes], page_size: int
) -> Iterator[NotStored]:
    """Yield messages with the failures, by index.

    Args:
        paths: The paths of the failures. The client knows them, so texts don't begin with them.
        page_size: Most bytes of a message.
    """
    items = [_item(index, failure, paths.get(index)) for index, failure in failures.items()]
    sizes = [len(messages.encode(item)) for item in items]
    most = page_size - _AROUND
    if sum(sizes) > MAX_ANSWER_SIZE:  # each failure gets the same share
        most = min(most, MAX_ANSWER_SIZE // len(items))
    page: list[ItemFailure] = []
    left = page_size - _AROUND
    for item, size in zip(items, sizes, strict=True):
        if size > most:
            item = _shortened(item, size - most)
            size = len(messages.encode(item))
        if page and size > left:
            yield NotStored(page)
            page, left = [], page_size - _AROUND
        page.append(item)
        left -= size
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
    """Return a shorter copy: paths in its text or rule may be longer than a message."""
    text = item.message.encode()
    if item.rule is not None:
        excess -= len(item.rule.encode())
        item = replace(item, rule=None)
    if excess > 0:
        cut = text[: max(0, len(text) - excess - len("…".encode()))]
        item = replace(item, message=cut.decode(errors="ignore") + "…")
    return item
