"""How many CPUs a process may use, by affinity and by the quotas of control groups."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpserver.cpus import cpus

V2 = "30 25 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 25 0:27 {root} {mount} rw shared:5 master:2 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = (
    "29 25 0:25 / {mount}-other rw - cgroup cgroup rw,memory\n22 1 8:1 / / rw - ext4 /dev/x rw\n"
)


@pytest.fixture
def affinity(monkeypatch) -> Callable[[int], None]:
    def let(count: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)), raising=False)

    let(16)
    return let


class Groups:
    """A /proc/self and a hierarchy of control groups of a test's own."""

    def __init__(self, place: Path) -> None:
        self.proc, self.mount = place / "proc", place / "cg roups"
        for directory in (self.proc, self.mount):
            directory.mkdir()

    def belong(self, line: str, mount: str, root: str = "/") -> None:
        """Be in a group of a hierarchy that is mounted."""
        where = str(self.mount).replace(" ", "\\040")
        reported = (OTHER + mount).format(root=root, mount=where)
        (self.proc / "cgroup").write_text(f"9:memory:/other\n{line}\n")
        (self.proc / "mountinfo").write_text(reported)

    def limit(self, group: str, **files: str) -> None:
        directory = self.mount / group
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def groups(tmp_path) -> Groups:
    return Groups(tmp_path)


def test_affinity(affinity, groups):
    assert cpus(groups.proc) == 16, "nothing is told of groups"
    affinity(1)
    assert cpus(groups.proc) == 1


def test_without_affinity(monkeypatch, groups):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus(groups.proc) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus(groups.proc) == 1


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("150000 100000", 1),
        ("299999 100000", 2),
        ("20000 100000", 1),
        ("100000 50000", 2),
        ("6400000 100000", 16),
        ("", 16),
        ("rubbish", 16),
        ("1 0", 16),
    ],
)
def test_a_quota_of_version_2(affinity, groups, quota, count):
    groups.belong("0::/system.slice/ftpd.service", V2)
    groups.limit("system.slice/ftpd.service", cpu__max=quota)
    assert cpus(groups.proc) == count


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [("-1", "100000", 16), ("300000", "100000", 3), ("150000", "100000", 1), ("1000", "100000", 1)],
)
def test_a_quota_of_version_1(affinity, groups, quota, period, count):
    groups.belong("4:cpu,cpuacct:/docker/abc", V1)
    groups.limit("docker/abc", cpu__cfs_quota_us=quota, cpu__cfs_period_us=period)
    assert cpus(groups.proc) == count


def test_the_least_of_a_group_and_those_above_it(affinity, groups):
    groups.belong("0::/outer/middle/own", V2)
    groups.limit("outer/middle/own", cpu__max="800000 100000")
    groups.limit("outer", cpu__max="300000 100000")
    assert cpus(groups.proc) == 3, "the group in the middle says nothing"
    groups.limit("outer/middle", cpu__max="200000 100000")
    assert cpus(groups.proc) == 2
    affinity(1)
    assert cpus(groups.proc) == 1


def test_a_container_sees_its_own_group_as_the_top(affinity, groups):
    groups.belong("0::/", V2)
    groups.limit(".", cpu__max="200000 100000")
    assert cpus(groups.proc) == 2


def test_a_part_of_the_hierarchy_is_mounted(affinity, groups):
    """As in a container without a namespace for control groups."""
    groups.belong("4:cpu:/docker/abc/own", V1, root="/docker/abc")
    groups.limit("own", cpu__cfs_quota_us="500000", cpu__cfs_period_us="100000")
    groups.limit(".", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert cpus(groups.proc) == 3


def test_a_group_outside_of_what_is_mounted(affinity, groups):
    groups.belong("4:cpu:/elsewhere", V1, root="/docker/abc")
    groups.limit(".", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert cpus(groups.proc) == 3


def test_a_hierarchy_that_is_not_mounted(affinity, groups):
    groups.belong("0::/", "")
    assert cpus(groups.proc) == 16


def test_nothing_above_the_mount_is_read(affinity, groups):
    groups.belong("0::/own", V2)
    groups.limit("own", cpu__max="max 100000")
    groups.limit("..", cpu__max="100000 100000")
    assert cpus(groups.proc) == 16


def test_this_process():
    assert cpus() >= 1
