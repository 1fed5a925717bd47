"""Sessions' processes that somebody hostile has taken over, or that are watched; for the fork
server.

``ftpserver.isolation.supervisor.CHILD`` names this module in test_isolation.py. After log-in,
`WhoAmI` runs the Python program that lies at ``/attack.py`` in the account's home, and is answered
by the repr of its ``result``. Before log-in a `Login` as ``attack`` runs its password. What an
attack needs is imported here, before the process is confined.

FTPD_TEST_WEAKENED leaves the confinement out: then attacks have to succeed, or the tests that see
them fail would mean nothing. FTPD_TEST_GUARDED logs every import that comes too late, and
every decoder that is made then.
FTPD_TEST_NO_NAMESPACES has the system permit no user namespaces.
"""

from __future__ import annotations

import builtins
import ctypes
import logging
import os
import resource
import signal
import socket
import stat
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ftpserver import interfaces
from ftpserver.interfaces import Carried, Descriptors, notification, request
from ftpserver.isolation import sandbox, session_process
from ftpserver.isolation.interfaces import Known
from ftpserver.processes.forkserver import ChildArguments
from ftpserver.serving.commands import COMMANDS, Command
from ftpserver.storage.quota import Lease
from ftpwire import messages

logger = logging.getLogger("ftpd.test")
_TOOLS = (builtins, ctypes, os, resource, signal, socket, stat, struct, sys, msgspec)
_NAMES = {
    one.__name__: one
    for one in (request, notification, Protocol, Any, Descriptors, Carried, Known, Lease)
}
LOG_IN = COMMANDS[messages.Login]
DECODER = msgspec.msgpack.Decoder
LIBC = ctypes.CDLL(None, use_errno=True)


def attack(client, request):
    """Run what lies in the home, and tell how that ended."""
    path = os.path.join(client.user.home, "attack.py")
    with open(path) as file:
        return run(client, file.read())


def attack_before_log_in(client, request):
    """The same of a stranger, whose program is in what it asks."""
    if request.user == "attack":
        return run(client, request.password)
    return LOG_IN.identify(client, request)


def run(client, program):
    """Run a program, and tell how that ended."""
    (session,) = client._server.sessions
    peer = session.server._endpoint
    scope = {
        "session": session,
        "own": session.account and session.account.id,
        "server": session.server._server,
        "books": session.server.ledger,
        "make_proxy": lambda interface: interfaces.make_proxy(interface, peer),
        "send": lambda data: peer._socket.sendall(data),
        "libc": LIBC,
        **_NAMES,
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


def LateDecoder(*arguments, **keywords):
    """One that should have been made in the fork server."""
    logger.error("made too late: a decoder")
    return DECODER(*arguments, **keywords)


def weaken() -> None:
    """Leave out all that confines."""
    sandbox.change_root = lambda directory: None
    sandbox.give_up_privileges = lambda identity: None
    sandbox.become = lambda identity, home: None
    sandbox.restrict_to = lambda directory: 0
    sandbox.forbid_new_privileges = lambda: None
    sandbox.hide_from_others = lambda: None
    sandbox.keep_to_itself = lambda: 0
    sandbox.enter_user_namespace = lambda: False

    def account_of(self, notification):  # it sees all, and has to find its home there
        return replace(notification.account(), home=Path(os.environ["FTPD_TEST_WEAKENED"]))

    session_process.SessionProcess._account_of = account_of


def prepare() -> None:
    """For the fork server: leave the network, unless that is to be left out."""
    if "FTPD_TEST_NO_NAMESPACES" in os.environ:
        sandbox._make_user_namespace = lambda more=0: False
    if "FTPD_TEST_WEAKENED" not in os.environ:
        session_process.prepare()


def main(arguments: ChildArguments) -> None:
    """Be the process of one session, hostile or watched."""
    COMMANDS[messages.WhoAmI] = Command(identify=attack)
    COMMANDS[messages.Login] = replace(LOG_IN, identify=attack_before_log_in)
    if "FTPD_TEST_WEAKENED" in os.environ:
        weaken()
    if "FTPD_TEST_GUARDED" in os.environ:
        COMMANDS[messages.ListTokens] = Command(identify=_fail)
        sys.meta_path.insert(0, Guard())
        msgspec.msgpack.Decoder = LateDecoder
    session_process.main(arguments)


def _fail(session, request):
    raise KeyError("to have a traceback made")
