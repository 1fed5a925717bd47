"""CPUs: how many this process may use, whatever the machine has.

Lives here: asking the system, and reading control groups. Lives elsewhere: what depends on the
number, such as how many workers there are (settings/table.py) and how many passwords are hashed at
once (accounts/passwords.py).

A container sees all CPUs of its machine, but may have a quota of CPU time. With two processes for
each of 64 CPUs, most would wait for the next period while they hold locks. So the lowest of these
limits applies: the affinity (sched_setaffinity(2), cpuset) and the quotas of the process's own
control group and of all groups above it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")
_UNLIMITED = "max"


def cpus(proc: Path = _PROC) -> int:
    """Return how many CPUs this process may use: at least 1, fractions rounded down.

    Args:
        proc: The directory in /proc that describes this process.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, int(min([count, *_quotas(proc)])))


def _quotas(proc: Path) -> Iterator[float]:
    """Yield each CPU quota that applies to this process, in CPUs; nothing if none is known."""
    try:
        groups = (proc / "cgroup").read_text()
        mounts = (proc / "mountinfo").read_text()
    except (OSError, UnicodeDecodeError):
        return  # a system without control groups
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            read, top = _quota_v2, _mounted(mounts, "cgroup2", path)
        elif "cpu" in controllers.split(","):
            read, top = _quota_v1, _mounted(mounts, "cgroup", path, "cpu")
        else:
            continue
        if top is None:
            continue
        mount, group = top
        for directory in [group, *group.parents]:
            quota = read(directory)
            if quota is not None:
                yield quota
            if directory == mount:
                break


def _mounted(
    mounts: str, kind: str, path: str, controller: str | None = None
) -> tuple[Path, Path] | None:
    """Find the mount point of a hierarchy of control groups, and the directory of a group in it.

    Args:
        mounts: The text of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
        path: The path of the group from the top of its hierarchy, as in /proc/PID/cgroup.
        controller: The controller that the hierarchy must have. In version 1, each controller may
            have a hierarchy of its own.

    Returns:
        None if no such hierarchy is mounted.
    """
    for line in mounts.splitlines():
        fields = line.split(" ")
        after = fields.index("-") + 1
        if fields[after] != kind:
            continue
        if controller is not None and controller not in fields[after + 2].split(","):
            continue
        root, mount = Path(_plain(fields[3])), Path(_plain(fields[4]))
        try:
            return mount, mount / Path(path).relative_to(root)
        except ValueError:  # not below this mount, or outside of this namespace
            return mount, mount
    return None


def _plain(field: str) -> str:
    """Decode a path of mountinfo, where a space is written as \\040."""
    for written, meant in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(written, meant)
    return field


def _quota_v2(directory: Path) -> float | None:
    """Read ``cpu.max`` (microseconds per period, and the period) in CPUs; None for no limit."""
    try:
        quota, period = (directory / "cpu.max").read_text().split()
        return None if quota == _UNLIMITED else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no such file at the top or in a group without the controller


def _quota_v1(directory: Path) -> float | None:
    """Read the same from the two files of version 1, where -1 means no limit."""
    try:
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
        return None if quota <= 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return None
