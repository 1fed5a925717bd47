"""Confining this process, step by step, so that what it doesn't need any more is out of reach.

Lives here: capabilities, user and groups, namespaces, chroot, Landlock, resource limits,
descriptors, imports.
Lives elsewhere: when each step comes (session_process.py), what all of it is worth
(docs/decisions/0020-isolation.md).

Capabilities, Landlock and no_new_privs are for each thread on its own: all of this happens while
there is only one. The system calls that have no function in Python are made through the C library.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAP_VERSION_3 = 0x20080522
_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT = 6, 7, 18
_LAST_CAP = 63
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000

# the same on every architecture (kernel 5.13)
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1

# linux/landlock.h: each right is a bit, and each ABI adds some
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = range(6)
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = range(6, 13)
_REFER, _TRUNCATE, _IOCTL_DEV = 13, 14, 15
_FS_BITS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NEEDED = (
    *(_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE),
    *(_MAKE_DIR, _MAKE_REG, _MAKE_SYM, _REFER, _TRUNCATE),
)
_NEVER_NEEDED = (_EXECUTE, _MAKE_CHAR, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _IOCTL_DEV)
_NET_ALL = 0b11  # bind and connect
_SCOPE_ALL = 0b11  # abstract Unix sockets, and signals

MAX_DESCRIPTORS = 1024
MAX_MEMORY = 4 * 2**30
"""Bytes of data that a session's process may have; it needs some tens of MiB."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class CantConfine(Exception):
    """A step of the confinement failed: the session must not go on."""


@dataclass(frozen=True)
class Identity:
    """Who a process is to the system. ``groups``: the supplementary ones."""

    uid: int
    gid: int
    groups: Sequence[int] = ()


def _check(result: int, what: str) -> int:
    if result < 0:
        raise CantConfine(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, value: int, what: str) -> None:
    nothing = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), nothing, nothing, nothing), what)


def must_be_alone() -> None:
    """Raise CantConfine if there is another thread, which would keep what this one gives up."""
    if threading.active_count() != 1:
        raise CantConfine("there are other threads")


# descriptors, memory ---------------------------------------------------------------------------


def close_all_but(kept: Iterable[int]) -> None:
    """Close all descriptors but these; 0, 1 and 2 lead nowhere afterwards."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in range(3):
        os.dup2(nowhere, standard, inheritable=False)
    start = 3
    for fd in sorted(set(kept)):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, max(start, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def limit_resources() -> None:
    """No core dumps, a bounded number of descriptors, bounded memory: for good."""
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_DESCRIPTORS),
        (resource.RLIMIT_DATA, MAX_MEMORY),
    ):
        _, hard = resource.getrlimit(kind)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


# privileges --------------------------------------------------------------------------------------


def forbid_new_privileges() -> None:
    """From here on no program that is run gets more than this process has (prctl(2))."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")


def hide_from_others() -> None:
    """Nobody of the same user may look into this process's memory, or trace it."""
    _prctl(_PR_SET_DUMPABLE, 0, "dumpable")


def can_become_others() -> bool:
    """Whether this process may change its user and its root. Root may not, where its capabilities
    were taken from it (a container that drops them, a unit that bounds them)."""
    if os.geteuid() != 0:
        return False
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(_capability_header(), data), "capget")
    (effective,) = struct.unpack_from("=I", data)
    needed = sum(1 << one for one in (_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT))
    return bool(effective & needed == needed)


def become_stranger(identity: Identity) -> None:
    """Give up all privileges but those that `become` takes. For who `can_become_others`."""
    _bound_capabilities()
    os.setgroups([])
    os.setresgid(identity.gid, identity.gid, identity.gid)
    _prctl(_PR_SET_KEEPCAPS, 1, "keepcaps")
    os.setresuid(identity.uid, identity.uid, identity.uid)
    set_capabilities((_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT))


def _bound_capabilities() -> None:
    """Have no capability that is given up ever come back."""
    for capability in range(_LAST_CAP + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # the kernel knows no more


def enter_user_namespace() -> bool:
    """Be in a user namespace of its own, with the one capability that chroot takes. For who can't
    become others: there, this process has no say over those outside, whose user it stays.

    Returns:
        Whether that was possible: a system may permit it to nobody.
    """
    if not _make_user_namespace():
        return False
    _bound_capabilities()
    set_capabilities((_CAP_SYS_CHROOT,))
    return True


def leave_network() -> bool:
    """Be where there is no network and nothing is shared but files; what is connected stays so.

    Returns:
        Whether that was possible.
    """
    if can_become_others():  # in another user namespace it couldn't any more
        return bool(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) == 0)
    made = _make_user_namespace(_CLONE_NEWNET | _CLONE_NEWIPC)
    if made:
        set_capabilities(())
    return made


def _make_user_namespace(more: int = 0) -> bool:
    """Be in another user namespace, as the same user and with all capabilities there, and in other
    namespaces besides."""
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWUSER | more) < 0:
        return False
    try:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    except OSError:  # a security module lets it have the namespace, and nothing in it
        set_capabilities(())
        return False
    return True


def enter(home: int) -> None:
    """Have the home be all that there is, without any capability, for good; as the same user."""
    change_root(home)
    set_capabilities(())


def become(identity: Identity, home: int) -> None:
    """Be somebody else, whose home is all that there is, without any capability, for good.

    The home is entered as that user: others may not be able to.
    """
    os.setgroups(list(identity.groups))
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    change_root(home)
    set_capabilities(())
    if os.getresuid() != (identity.uid,) * 3 or os.getresgid() != (identity.gid,) * 3:
        raise CantConfine("it is still somebody else")


def set_capabilities(kept: Sequence[int]) -> None:
    """Have these capabilities and no other, permitted and effective (capset(2))."""
    low = high = 0
    for capability in kept:
        if capability < 32:
            low |= 1 << capability
        else:
            high |= 1 << (capability - 32)
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _check(_libc.capset(_capability_header(), data), "capset")


def _capability_header() -> ctypes.Array[ctypes.c_char]:
    """What capget and capset begin with: it is about this thread."""
    return ctypes.create_string_buffer(struct.pack("=Ii", _CAP_VERSION_3, 0))


def change_root(directory: int) -> None:
    """Have an open directory be all that there is (chroot(2))."""
    os.fchdir(directory)
    os.chroot(".")
    os.chdir("/")


# Landlock ----------------------------------------------------------------------------------------


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    made = [
        ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments
    ]
    return int(_libc.syscall(ctypes.c_long(number), *made))


def landlock_abi() -> int:
    """The version of Landlock that the kernel has; 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))


def keep_to_itself() -> int:
    """Have nothing to do with other processes from here on: none from before can be traced, looked
    into or, where the kernel can, sent a signal; no connection can be made. No program can be run
    and nothing but files, directories and links made. Files stay within reach.

    Returns:
        As `restrict_to`.
    """
    abi = landlock_abi()
    # who doesn't handle this one forbids it everywhere, also to `restrict_to`
    everywhere = 1 << _REFER if abi >= 2 else 0
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handled = sum(1 << right for right in _NEVER_NEEDED) | everywhere
        return _restrict(abi, handled, everywhere, top)
    finally:
        os.close(top)


def restrict_to(directory: int) -> int:
    """Have files below an open directory be all that can be opened or changed from here on.

    Where the kernel can, no connection can be made either, and no signal sent to any process from
    before.

    Returns:
        The version of Landlock that does it; 0 when there is none, and nothing was done.
    """
    return _restrict(landlock_abi(), -1, sum(1 << right for right in _NEEDED), directory)


def _restrict(abi: int, handled: int, allowed: int, directory: int) -> int:
    """Forbid what is handled, of what the kernel knows, and allow some of it below a directory."""
    if not abi:
        return 0
    handled &= (1 << _FS_BITS_OF_ABI.get(abi, max(_FS_BITS_OF_ABI.values()))) - 1
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", _NET_ALL)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPE_ALL)
    ruleset = _check(
        _syscall(_SYS_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0),
        "landlock_create_ruleset",
    )
    try:
        if allowed & handled:
            rule = struct.pack("=Qi", allowed & handled, directory)
            added = _syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
            _check(added, "landlock_add_rule")
        _check(_syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    return abi


# Python ------------------------------------------------------------------------------------------


def forbid_imports() -> None:
    """Import nothing any more from files: the paths of modules lead into a user's home now."""
    sys.path[:] = []
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
