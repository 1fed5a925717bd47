"""CPUs: how many this process may use, whatever the machine has.

Lives here: asking the system, and reading control groups. Lives elsewhere: what follows from it,
as how many workers there are (settings/table.py) and how many passwords are hashed at once
(accounts/passwords.py).

A container sees all CPUs of its machine, and may have a quota of time on them: of two processes for
each of 64 CPUs, most would wait for the next period while they hold locks. So the least holds of
affinity (sched_setaffinity(2), cpuset) and of the quotas of the own control group and all above it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")
_UNLIMITED = "max"


def cpus(proc: Path = _PROC) -> int:
    """How many this process may use; at least 1. Of a part of one, as in a quota of 1.5, nothing.

    Args:
        proc: Where the system tells of this process.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, int(min([count, *_quotas(proc)])))


def _quotas(proc: Path) -> Iterator[float]:
    """How many CPUs each quota comes to that holds for this process; none where nothing is told."""
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
    """Where a hierarchy of control groups is mounted, and the directory of a group in it.

    Args:
        mounts: As in /proc/PID/mountinfo (proc_pid_mountinfo(5)).
        path: Of the group, as in /proc/PID/cgroup: from the top of the hierarchy.
        controller: That the hierarchy has to have; of version 1, each may have one of its own.
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
        except ValueError:  # another part of the hierarchy, or one outside of this namespace
            return mount, mount
    return None


def _plain(field: str) -> str:
    """A path of mountinfo, where a space is written as \\040."""
    for written, meant in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(written, meant)
    return field


def _quota_v2(directory: Path) -> float | None:
    """Of ``cpu.max``: microseconds in each period, and the period's; None for no limit."""
    try:
        quota, period = (directory / "cpu.max").read_text().split()
        return None if quota == _UNLIMITED else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # the top has none, nor has a group without the controller


def _quota_v1(directory: Path) -> float | None:
    """The same of two files; -1 for no limit."""
    try:
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
        return None if quota <= 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return None
