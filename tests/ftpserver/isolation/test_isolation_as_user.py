"""Isolated sessions of a server that isn't root: what a hostile one reaches, and what it doesn't.

The server is a process of a plain user, by a user namespace where root runs the tests. What is
tried is in attacks.py; the same for a server that is root is in test_isolation.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ftpserver.isolation import sandbox
from ftpwire.messages import LoggedIn, Login, WhoAmI
from tests.ftpserver.isolation import attacks
from tests.peer import Peer, eventually

HERE = Path(__file__).parent
PATIENCE = 60.0

_SEPARATE = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]


def plain_user() -> list[str] | None:
    """What goes before a command, to have a plain user run it; None: it cannot be had."""
    if os.geteuid():
        return []
    if shutil.which("unshare") is None:
        return None
    tried = subprocess.run([*_SEPARATE, "true"], capture_output=True)
    return _SEPARATE if tried.returncode == 0 else None


def can_make_namespaces(prefix: list[str]) -> bool:
    """Whether a plain user may: then sessions are in an empty directory before log-in."""
    command = [*prefix, "unshare", "--user", "--net", "--map-root-user", "chroot", "/", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


def may_trace() -> bool:
    """Whether processes of a user may look into each other at all."""
    try:
        return Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() == "0"
    except FileNotFoundError:
        return True


PLAIN_USER = plain_user()
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(PLAIN_USER is None, reason="root cannot be a plain user here"),
    pytest.mark.skipif(
        sandbox.landlock_abi() < 6, reason="this kernel's Landlock doesn't keep from signals"
    ),
]
HAS_NAMESPACES = PLAIN_USER is not None and can_make_namespaces(PLAIN_USER)
has_namespaces = pytest.mark.skipif(
    not HAS_NAMESPACES, reason="a plain user may make no namespaces here"
)


class UserServer:
    """The server's process, and attacks on it as alice; bob is logged in as well."""

    def __init__(self, root: Path, stack: ExitStack, *, weakened: bool, namespaces: bool) -> None:
        assert PLAIN_USER is not None
        self.root = root
        environment = dict(os.environ, PYTHONPATH=str(HERE))
        if weakened:
            environment["FTPD_TEST_WEAKENED"] = str(root / "alice")
        if not namespaces:
            environment["FTPD_TEST_NO_NAMESPACES"] = "1"
        self._log = stack.enter_context(open(root.with_name("log"), "wb"))
        self._process = stack.enter_context(
            subprocess.Popen(
                [*PLAIN_USER, sys.executable, str(HERE / "user_server.py"), str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                cwd="/",
            )
        )
        reported = self._heard()
        assert reported["uid"] != 0
        self._address = (reported["address"][0], reported["address"][1])
        self.bob = stack.enter_context(Peer.connect(self._address))
        self.bob.log_in("bob")
        (sibling,) = eventually(lambda: [pid for pid in self.sessions() if pid])
        # the records of that log-in are written a moment later, and some attacks are on that file
        eventually((root / ".ftpd" / "audit.jsonl").exists)
        self._values = {
            "root": root,
            "pid": reported["pid"],
            "address": reported["secret"],
            "address_of_server": self._address,
            "sibling": sibling,
        }

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log
        return json.loads(line)

    @property
    def log(self) -> str:
        """What it has logged."""
        return Path(self._log.name).read_text()

    def sessions(self) -> list[int]:
        """The processes of who is logged in."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return list(self._heard()["sessions"])

    def attack(self, program: str, *, logged_in: bool = True) -> str:
        """How an attack ended."""
        filled = attacks.fill_in(program, self._values)
        with Peer.connect(self._address) as peer:
            if logged_in:
                path = self.root / "alice" / "attack.py"
                path.write_text(filled)
                peer.log_in()
                answer = peer.ask(WhoAmI())
            else:
                peer.hello()
                answer = peer.ask(Login("attack", filled))
        assert isinstance(answer, LoggedIn), answer
        return answer.user


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., UserServer]]:
    with ExitStack() as stack:

        def started(*, weakened: bool = False, namespaces: bool = HAS_NAMESPACES) -> UserServer:
            return UserServer(tmp_path / "root", stack, weakened=weakened, namespaces=namespaces)

        yield started


AFTER_LOG_IN = {
    **attacks.ON_FILES,
    **attacks.ON_PROCESSES,
    **attacks.BY_SIGNALS,
    **attacks.BY_NETWORK,
    **attacks.ON_ANOTHER_SESSION,
    **attacks.SIGNAL_TO_ANOTHER_SESSION,
}


with_and_without = pytest.mark.parametrize(
    "namespaces", [pytest.param(True, marks=has_namespaces), False]
)
"""What Landlock alone does has to hold, too: a system may permit namespaces to nobody."""


@pytest.mark.system
@with_and_without
def test_a_hostile_session_reaches_nothing(start, namespaces):
    server = start(namespaces=namespaces)
    tried = dict(AFTER_LOG_IN)
    if namespaces:
        tried |= attacks.BY_DATAGRAMS
    else:
        del tried["that-there-is-another-home"]  # Landlock doesn't hide that
    for name, program in tried.items():
        answer = server.attack(program)
        assert attacks.has_failed(answer), (name, answer)
    records = (server.root / ".ftpd" / "audit.jsonl").read_text()
    assert '"start"' in records and "bob" in records, "what was recorded before is still there"


@pytest.mark.system
@with_and_without
def test_a_hostile_stranger_reaches_no_process(start, namespaces):
    """Before log-in."""
    server = start(namespaces=namespaces)
    for name, program in {
        **attacks.ON_PROCESSES,
        **attacks.BY_SIGNALS,
        **attacks.BY_NETWORK,
        **attacks.ON_ANOTHER_SESSION,
        **attacks.SIGNAL_TO_ANOTHER_SESSION,
    }.items():
        answer = server.attack(program, logged_in=False)
        assert attacks.has_failed(answer), (name, answer)


@pytest.mark.system
@has_namespaces
def test_a_hostile_stranger_reaches_no_file(start):
    server = start()
    for name, program in {
        **attacks.ON_FILES,
        **attacks.BY_DATAGRAMS,
        "out": attacks.OUT_OF_THE_EMPTY_DIRECTORY,
        "another-namespace": "assert libc.unshare(0x10000000) == 0, os.strerror("
        "ctypes.get_errno())\nresult = 0",
    }.items():
        answer = server.attack(program, logged_in=False)
        assert attacks.has_failed(answer), (name, answer)


@pytest.mark.system
def test_the_attacks_would_succeed_without_confinement(start):
    server = start(weakened=True)
    tried = {**AFTER_LOG_IN, **attacks.BY_DATAGRAMS}
    if not may_trace():
        for name in (*attacks.ON_PROCESSES, *attacks.ON_ANOTHER_SESSION):
            del tried[name]
    for logged_in in (True, False):
        for name, program in tried.items():
            answer = server.attack(program, logged_in=logged_in)
            assert "Error" not in answer, (name, logged_in, answer)


@pytest.mark.system
def test_without_namespaces_an_unauthenticated_clients_process_has_the_servers_files(start):
    """As the documentation and the log say; if this fails, they may promise more."""
    server = start(namespaces=False)
    assert "the system does not permit user namespaces" in server.log
    for name in ("accounts", "another-home", "the-servers-key"):
        answer = server.attack(attacks.ON_FILES[name], logged_in=False)
        assert "Error" not in answer, (name, answer)


@pytest.mark.system
@pytest.mark.parametrize("name", attacks.NOT_PREVENTED)
def test_what_the_documentation_says_cant_be_prevented(start, name):
    """If this fails, the kernel has learned something: then the documentation may promise more."""
    answer = start().attack(attacks.NOT_PREVENTED[name])
    assert answer == "0"


def test_a_session_has_what_it_should(start):
    server = start()
    (pid,) = server.sessions()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    capabilities = ("CapEff", "CapPrm", "CapAmb", *(["CapBnd"] if HAS_NAMESPACES else []))
    assert all(int(status[kind], 16) == 0 for kind in capabilities)
    if HAS_NAMESPACES and os.geteuid() == 0:  # nobody else may look
        assert os.path.samefile(f"/proc/{pid}/root", server.root / "bob")
    assert "Landlock confines them" in server.log
    assert ("does not permit user namespaces" in server.log) != HAS_NAMESPACES
