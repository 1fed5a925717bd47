"""Objects that a forked process inherits but must not use: sockets, locks and pipes of its parent.

Lives here: calling these objects in the child.
Lives elsewhere: what each of them does then (connection.py, interrupt.py, guard.py, aio/client.py).

TLS numbers its records: if two processes write to one stream, it breaks for both. So the child
closes its copy of the socket at once, without sending anything.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """An object that a child process must not use as it is."""

    def _after_fork(self) -> None:
        """Release, in the child, what belongs to the parent. Other threads do not exist there."""


_alive: WeakSet[Inherited] = WeakSet()


def follow(one: Inherited) -> None:
    """Call the object's ``_after_fork`` in each process that is forked during its lifetime."""
    _alive.add(one)


def _in_child() -> None:
    for one in list(_alive):
        one._after_fork()


os.register_at_fork(after_in_child=_in_child)
