"""Passwords: hashing and checking them without slowing down running sessions.

Lives here: argon2id, how many hashes run at once, the thread that hashes. Lives elsewhere: the
accounts (accounts.py), who may try (limits.py).
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ftpserver.cpus import cpus
from ftpwire.errors import BadAccount

MAX_PASSWORD = 1024
"""The longest password, in bytes of UTF-8."""
MIN_PASSWORD = 8
"""The minimum length of a new password, in characters (NIST SP 800-63B, 5.1.1.2)."""
# 19 MiB, t=2, p=1: OWASP's first choice for argon2id; about 20 ms
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
HASHES_AT_ONCE = max(1, cpus() // 2)
"""Each takes 19 MiB and a core: a flood of log-ins must leave some for the sessions. With all cores
it halved the speed of transfers, even at a lower priority (``in_background``)."""
_hashing = threading.BoundedSemaphore(HASHES_AT_ONCE)
# checked for an unknown name, so that it takes the same time as a wrong password
DUMMY_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$QUFBQUFBQUFBQUFBQUFBQQ$"
    "l0sYHAaYZRDlAVaISCgBfVXxP7JHAOFXzAFwGMX5Qpc"
)

_NICE = 15
"""Added to the nice value of the hashing thread. While other threads compete for the processor it
gets a thirtieth of their share. With 19 that would be less than half, and log-ins would take
seconds during many transfers."""
_Result = TypeVar("_Result")


def check_new_password(password: str) -> None:
    """Check a new password without hashing it. Passwords already set stay valid.

    Raises:
        BadAccount: It is too short, too long, or not UTF-8 text.
    """
    _check_usable(password)
    if len(password) < MIN_PASSWORD:
        raise BadAccount(f"the password is shorter than {MIN_PASSWORD} characters")


def _check_usable(password: str) -> None:
    if not password:
        raise BadAccount("the password is empty")
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise BadAccount("the password is not UTF-8 text") from None
    if size > MAX_PASSWORD:
        raise BadAccount(f"the password is longer than {MAX_PASSWORD} bytes")


def hash_password(password: str) -> str:
    """Return the argon2id hash to store. Raises BadAccount if the password cannot be used."""
    _check_usable(password)
    with _hashing:
        return in_background(lambda: _hasher.hash(password))


def verify_password(stored: str, password: str) -> bool:
    given = password.encode("utf-8", "surrogatepass")
    if len(given) > MAX_PASSWORD:
        given = b""
    with _hashing:
        try:
            return in_background(lambda: _hasher.verify(stored, given))
        except (VerificationError, InvalidHashError):
            return False


def random_password() -> str:
    """Make a password of 100 bits that is easy to read aloud and to type."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))


def in_background(work: Callable[[], _Result]) -> _Result:
    """Run ``work`` in a thread of low priority; return what it returns.

    A thread can lower its priority, but not raise it again: so each call starts a new one, which
    costs a hundredth of what a hash does. The work should not hold the interpreter's lock for long:
    threads that wait for the lock would wait until this thread runs.
    """
    if sys.platform != "linux":
        return work()  # elsewhere the nice value is the whole process's
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            mine = threading.get_native_id()
            nice = os.getpriority(os.PRIO_PROCESS, mine) + _NICE
            os.setpriority(os.PRIO_PROCESS, mine, min(19, nice))
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="aside")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
