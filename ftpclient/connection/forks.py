"""What a process inherits by a fork, and may not use: sockets, locks, pipes of its parent.

Lives here: calling those who have such things, in the child. Lives elsewhere: what each of them
does then (connection.py, interrupt.py, guard.py, aio/client.py).

TLS counts its records: two processes that write to one stream break it for both. So the child
closes its copy of the socket at once, without a word to the server.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """Something that a child process must not use as it is."""

    def _after_fork(self) -> None:
        """In the child, whose other threads are gone: let go of what belongs to the parent."""


_alive: WeakSet[Inherited] = WeakSet()


def follow(one: Inherited) -> None:
    """Have its ``_after_fork`` called in each process that is forked while it is there."""
    _alive.add(one)


def _in_child() -> None:
    for one in list(_alive):
        one._after_fork()


os.register_at_fork(after_in_child=_in_child)
