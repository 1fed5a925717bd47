"""Descriptors that travel beside a message on a Unix socket (SCM_RIGHTS, unix(7)).

Lives here: packing them, taking them out, giving them back.
Lives elsewhere: the messages (processes/rpc.py, processes/forkserver.py).
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterable, Sequence


def beside(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """What ``sendmsg`` takes, to send these along. They stay open here."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def room_for(count: int) -> int:
    """Bytes of ancillary data that ``recvmsg`` needs for so many."""
    return socket.CMSG_SPACE(count * array.array("i").itemsize)


def taken_from(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Those that came along; they belong to the caller, and no program inherits them."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return list(found)


def close_all(descriptors: list[int]) -> None:
    """Close them, and take them off the list."""
    while descriptors:
        os.close(descriptors.pop())
