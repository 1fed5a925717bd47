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


def not_stored(failures: Mapping[int, Failed], page_size: int) -> Iterator[NotStored]:
    """The messages that tell these, by their indexes.

    Args:
        page_size: Bytes of a message, at most.
    """
    page: list[ItemFailure] = []
    room = page_size - _AROUND
    for index, failure in failures.items():
        facts = {name: getattr(failure, name) for name in _FACTS}
        item = ItemFailure(index, failure.code, failure.message, **facts)
        size = len(messages.encode(item))
        if size > page_size - _AROUND:
            item = _shortened(item, size - (page_size - _AROUND))
            size = len(messages.encode(item))
        if page and size > room:
            yield NotStored(page)
            page, room = [], page_size - _AROUND
        page.append(item)
        room -= size
    if page:
        yield NotStored(page)


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
