"""Sessions' processes that somebody hostile has taken over, or that are watched; for the nursery.

``ftpserver.isolation.parent.CHILD`` names this module in test_isolation.py. After log-in, `WhoAmI`
runs the Python program that lies at ``/attack.py`` in the account's home, and is answered by the
repr of its ``result``. What an attack needs is imported here, before the process is confined.

FTPD_TEST_WEAKENED leaves the confinement out: then attacks have to succeed, or the tests that see
them fail would mean nothing. FTPD_TEST_GUARDED logs every import that comes too late.
"""

from __future__ import annotations

import builtins
import ctypes
import logging
import os
import signal
import socket
import stat
import sys

from ftpserver.brokering import Borrow, Cut, Share
from ftpserver.commands import COMMANDS, Command
from ftpserver.isolation import child, confinement
from ftpserver.isolation import questions as q
from ftpserver.nursery import Born
from ftpwire import messages

logger = logging.getLogger("ftpd.test")
_TOOLS = (builtins, ctypes, os, signal, socket, stat, sys, q, Borrow, Cut, Share)
LIBC = ctypes.CDLL(None, use_errno=True)


def attack(session, request):
    """Run what lies in the home, and tell how that ended."""
    path = os.path.join(session.user.home, "attack.py")
    with open(path) as file:
        program = file.read()
    scope = {
        "session": session,
        "ask": session.server._peer.ask,
        "tell": session.server._peer.tell,
        "libc": LIBC,
        **{tool.__name__.rpartition(".")[2]: tool for tool in _TOOLS},
    }
    try:
        exec(program, scope)
        return messages.LoggedIn(repr(scope["result"])[:2000])
    except BaseException as error:
        return messages.LoggedIn(f"{type(error).__name__}: {error}"[:2000])


class Guard:
    """Finds no module, and tells of each that was looked for too late."""

    def find_spec(self, name, path=None, target=None):
        if not sys.path:
            logger.error("imported too late: %s", name)
        return None


def weaken() -> None:
    """Leave out all that confines."""
    confinement.change_root = lambda directory: None
    confinement.become_stranger = lambda identity: None
    confinement.become = lambda identity, home: None
    confinement.restrict_to = lambda directory: 0
    confinement.forbid_new_privileges = lambda: None
    confinement.hide_from_others = lambda: None
    enter = child.account_of

    def account_of(told):  # it sees all, and has to find its home there
        return enter(q.structs_replace(told, os.environ["FTPD_TEST_WEAKENED"]))

    q.structs_replace = lambda told, home: type(told)(
        told.id, told.name, home.encode(), told.permissions, told.limit_rate, told.epoch
    )
    child.account_of = account_of


def main(born: Born) -> None:
    """Be the process of one session, hostile or watched."""
    COMMANDS[messages.WhoAmI] = Command(attack)
    if "FTPD_TEST_WEAKENED" in os.environ:
        weaken()
    if "FTPD_TEST_GUARDED" in os.environ:
        COMMANDS[messages.ListTokens] = Command(_fail)
        sys.meta_path.insert(0, Guard())
    child.main(born)


def _fail(session, request):
    raise KeyError("to have a traceback made")
