"""Descriptors sent with a message on a Unix socket (SCM_RIGHTS, unix(7)).

Lives here: packing them, unpacking them, closing them.
Lives elsewhere: the messages (processes/rpc.py, processes/forkserver.py).
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterable, Sequence


def beside(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Return the ancillary data for ``sendmsg`` that sends these along. They stay open here."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def ancillary_size(count: int) -> int:
    """Return the bytes of ancillary data that ``recvmsg`` needs for ``count`` descriptors."""
    return socket.CMSG_SPACE(count * array.array("i").itemsize)


def taken_from(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the received descriptors. The caller owns them, and no program inherits them."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return list(found)


def close_all(descriptors: list[int]) -> None:
    """Close the descriptors, and remove them from the list."""
    while descriptors:
        os.close(descriptors.pop())
