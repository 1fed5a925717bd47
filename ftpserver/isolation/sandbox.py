"""Confining this process step by step, so that all it no longer needs is out of reach.

Lives here: capabilities, user and groups, namespaces, chroot, Landlock, resource limits,
descriptors, imports.
Lives elsewhere: when each step is taken (session_process.py), what they protect from
(docs/decisions/0020-isolation.md).

Capabilities, Landlock and no_new_privs belong to each single thread: all steps are taken while
there is only one. System calls that Python has no function for are made through the C library.
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

# linux/landlock.h: each right is a bit; newer ABIs add some
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
"""The limit for a session process's data, in bytes; it needs some tens of MiB."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class CantConfine(Exception):
    """A step of the confinement failed. The session must not go on."""


@dataclass(frozen=True)
class Identity:
    """The user and groups of a process. ``groups`` are the supplementary ones."""

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
    """Raise CantConfine if there are other threads, which would keep what this one gives up."""
    if threading.active_count() != 1:
        raise CantConfine("there are other threads")


# descriptors, memory -----------------------------------------------------------------------------


def close_all_but(kept: Iterable[int]) -> None:
    """Close all descriptors but these, and redirect 0, 1 and 2 to /dev/null."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in range(3):
        os.dup2(nowhere, standard, inheritable=False)
    start = 3
    for fd in sorted(set(kept)):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, max(start, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def limit_resources() -> None:
    """Limit descriptors and memory and forbid core dumps, irrevocably."""
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
    """Keep all programs run from now on from having more rights than this process (prctl(2))."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")


def hide_from_others() -> None:
    """Keep other processes of the same user from reading this one's memory or tracing it."""
    _prctl(_PR_SET_DUMPABLE, 0, "dumpable")


def can_become_others() -> bool:
    """Return True if this process may change its user and its root.

    Root may not if its capabilities were removed (by a container, or by a systemd unit).
    """
    if os.geteuid() != 0:
        return False
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(_capability_header(), data), "capget")
    (effective,) = struct.unpack_from("=I", data)
    needed = sum(1 << one for one in (_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT))
    return bool(effective & needed == needed)


def give_up_privileges(identity: Identity) -> None:
    """Give up all privileges but those that `become` needs. Only if `can_become_others`."""
    _bound_capabilities()
    os.setgroups([])
    os.setresgid(identity.gid, identity.gid, identity.gid)
    _prctl(_PR_SET_KEEPCAPS, 1, "keepcaps")
    os.setresuid(identity.uid, identity.uid, identity.uid)
    set_capabilities((_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT))


def _bound_capabilities() -> None:
    """Keep all capabilities that are given up from coming back."""
    for capability in range(_LAST_CAP + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # the kernel has no further capabilities


def enter_user_namespace() -> bool:
    """Move to a new user namespace, with only the one capability that chroot needs.

    For processes that cannot become other users. In the namespace the process keeps its user, but
    has no rights over processes outside.

    Returns:
        True if it worked; a system may not allow it to any user.
    """
    if not _make_user_namespace():
        return False
    _bound_capabilities()
    set_capabilities((_CAP_SYS_CHROOT,))
    return True


def leave_network() -> bool:
    """Move to namespaces without network, which share only files. Open connections stay open.

    Returns:
        True if it worked.
    """
    if can_become_others():  # a new user namespace would take that away
        return bool(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) == 0)
    made = _make_user_namespace(_CLONE_NEWNET | _CLONE_NEWIPC)
    if made:
        set_capabilities(())
    return made


def _make_user_namespace(more: int = 0) -> bool:
    """Move to a new user namespace, as the same user and with all capabilities in it, and to
    other new namespaces."""
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
    except OSError:  # a security module allows the namespace, but no rights in it
        set_capabilities(())
        return False
    return True


def enter(home: int) -> None:
    """Make the home the root directory and give up all capabilities, irrevocably."""
    change_root(home)
    set_capabilities(())


def become(identity: Identity, home: int) -> None:
    """Become another user, make its home the root directory and give up all capabilities,
    irrevocably.

    The home is entered as that user, as others may not be allowed to.
    """
    os.setgroups(list(identity.groups))
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    change_root(home)
    set_capabilities(())
    if os.getresuid() != (identity.uid,) * 3 or os.getresgid() != (identity.gid,) * 3:
        raise CantConfine("the change of user did not take effect")


def set_capabilities(kept: Sequence[int]) -> None:
    """Set the permitted and effective capabilities to exactly these (capset(2))."""
    low = high = 0
    for capability in kept:
        if capability < 32:
            low |= 1 << capability
        else:
            high |= 1 << (capability - 32)
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _check(_libc.capset(_capability_header(), data), "capset")


def _capability_header() -> ctypes.Array[ctypes.c_char]:
    """Make the first argument of capget and capset, which names the calling thread."""
    return ctypes.create_string_buffer(struct.pack("=Ii", _CAP_VERSION_3, 0))


def change_root(directory: int) -> None:
    """Make an open directory the root (chroot(2))."""
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
    """Return the kernel's version of Landlock; 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))


def keep_to_itself() -> int:
    """Cut this process off from all others, irrevocably.

    It cannot trace, inspect or (where the kernel has that) send signals to earlier processes, make
    connections, run programs, or make anything but files, directories and links. Files stay within
    reach.

    Returns:
        As `restrict_to`.
    """
    abi = landlock_abi()
    # a ruleset that doesn't handle this right forbids it everywhere, even for `restrict_to`
    everywhere = 1 << _REFER if abi >= 2 else 0
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handled = sum(1 << right for right in _NEVER_NEEDED) | everywhere
        return _restrict(abi, handled, everywhere, top)
    finally:
        os.close(top)


def restrict_to(directory: int) -> int:
    """Restrict opening and changing files to those below an open directory, irrevocably.

    If the kernel supports that, no connection can be made either, and no signal sent to earlier
    processes.

    Returns:
        The version of Landlock used; 0 if there is none, and nothing was restricted.
    """
    return _restrict(landlock_abi(), -1, sum(1 << right for right in _NEEDED), directory)


def _restrict(abi: int, handled: int, allowed: int, directory: int) -> int:
    """Forbid the handled rights that the kernel knows, and allow some below a directory."""
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
    """Disable imports from files, as the paths of modules now lead into a user's home."""
    sys.path[:] = []
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
