"""What somebody hostile tries who has taken over a session's process (hostile_child.py runs it).

Lives here: the programs, and how one that failed says so.
Lives elsewhere: the servers that they are tried on (test_isolation*.py), what it says to its server
(test_hostile_messages.py).

A program leaves something in ``result`` when it has succeeded.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Mapping

OTHER = "daemon"
"""A system user that there is everywhere, and nobody is logged in as."""
_SEIZE = """
failed = libc.ptrace(0x4206, {whom}, None, None)
assert failed == 0, os.strerror(ctypes.get_errno())
result = 0
"""
_READ_MEMORY = """
here = ctypes.create_string_buffer(8)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
mine, theirs = Vector(ctypes.addressof(here), 8), Vector({address}, 8)
count = libc.process_vm_readv({pid}, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
assert count == 8, os.strerror(ctypes.get_errno())
result = here.raw
"""
_TAKE_DESCRIPTOR = """
pidfd = libc.syscall(434, {whom}, 0)
assert pidfd >= 0, os.strerror(ctypes.get_errno())
taken = libc.syscall(438, pidfd, 2, 0)
assert taken >= 0, os.strerror(ctypes.get_errno())
result = 0
"""

ON_PROCESSES = {
    "its-memory": _READ_MEMORY,
    "tracing-it": _SEIZE.replace("{whom}", "{pid}"),
    "its-descriptors-by-number": _TAKE_DESCRIPTOR.replace("{whom}", "{pid}"),
}
"""On the server's process."""
BY_SIGNALS = {"signals": "os.kill({pid}, 0); result = 0"}
BY_NETWORK = {
    "a-connection": """
with socket.socket() as one:
    one.connect({address_of_server})
result = 0
""",
}
BY_DATAGRAMS = {
    "a-datagram": """
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.sendto(b"x", ("127.0.0.1", 9))
result = 0
""",
}
ON_FILES = {
    "another-home": "result = open('{root}/bob/secret').read()",
    "another-home-by-a-process": "result = open('/proc/{pid}/root{root}/bob/secret').read()",
    "accounts": "result = len(open('{root}/.ftpd/state.db', 'rb').read())",
    "records-of-the-past": "open('{root}/.ftpd/audit.jsonl', 'r+').truncate(0); result = 0",
    "the-servers-descriptors": "result = len(os.listdir('/proc/{pid}/fd'))",
    "the-servers-key": "result = len(open('{root}/.ftpd/key.pem').read())",
    "that-there-is-another-home": "result = os.stat('{root}/bob').st_size",
}
ON_ANOTHER_SESSION = {
    "tracing-another-session": _SEIZE.replace("{whom}", "{sibling}"),
    "descriptors-of-another-session": _TAKE_DESCRIPTOR.replace("{whom}", "{sibling}"),
}
SIGNAL_TO_ANOTHER_SESSION = {"a-signal-to-another-session": "os.kill({sibling}, 0); result = 0"}
A_DEVICE = {
    "making-a-device": """
os.mknod(os.path.join(session.account.home, "device"), 0o600 | stat.S_IFCHR, os.makedev(1, 1))
result = 0
""",
}
OUT_OF_THE_EMPTY_DIRECTORY = """
try:
    os.setresuid(0, 0, 0)
except OSError:
    pass  # who isn't root needn't be
try:
    os.chmod("/", 0o700)
    os.mkdir("/below")
    os.chroot("/below")
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
finally:
    result = len(open("{root}/.ftpd/state.db", "rb").read())
"""
"""Before log-in: by the one capability that chroot takes, which leads out where something can be
made. (Not to be tried without the empty directory: it changes its root.)"""
NOT_PREVENTED = {
    "limits-of-the-server": """
before = resource.prlimit({pid}, resource.RLIMIT_CORE)
resource.prlimit({pid}, resource.RLIMIT_CORE, before)
result = 0
""",
    "priority-of-the-server": """
os.setpriority(os.PRIO_PROCESS, {pid}, os.getpriority(os.PRIO_PROCESS, {pid}))
result = 0
""",
}
"""Of the same user. docs/decisions/0020-isolation.md says so."""


class Secret:
    """Bytes of this process whose address is known."""

    def __init__(self, data: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(data)
        self.address = ctypes.addressof(self._buffer)


def fill_in(program: str, values: Mapping[str, object]) -> str:
    """A program with what it needs to know. (It has braces of its own.)"""
    for name, value in values.items():
        program = program.replace("{" + name + "}", str(value))
    return program


def has_failed(answer: str) -> bool:
    """Whether an attack was answered by the system's refusal, and not by a mistake in it."""
    refusals = (
        *("PermissionError", "FileNotFoundError", "Operation not permitted"),
        *("ProcessLookupError", "unreachable"),
    )
    return any(word in answer for word in refusals)


@functools.cache
def can_leave_network() -> bool:
    """Whether this system lets the user that runs the tests make a network namespace."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", *([] if os.geteuid() == 0 else ["--user"]), "--net", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0
