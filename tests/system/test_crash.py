"""Acknowledged is durable: crashes and power cuts at random moments, and what must survive them.

A few rounds run every time, and show that these tests themselves work; ``-m long`` has as many as
it takes to find something. ROUNDS says how many it should be instead.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpserver.admin import verify
from tests.system.crash_support import (
    MIB,
    SINGLE_FILES,
    CannotMount,
    Crash,
    Disk,
    LargeFiles,
    Root,
    SmallFiles,
    Worker,
)
from tests.system.programs import eventually, program

QUOTA = 300 * MIB
DISK_SIZE = 400 * MIB
NEW_LINE = "\n"
_ON_ITS_WAY = frozenset({"staging", "trash"})
"""What a server that has started just now is at: removing what is left over, and thinning."""
WORKERS: tuple[tuple[type[Worker], ...], ...] = (
    (SmallFiles, LargeFiles),  # whose syncs help each other out
    (SmallFiles,),
    (SmallFiles,),
    (LargeFiles,),
)


def rounds(short: int, long: int) -> list[object]:
    """How often, as parameters: for every day, and before a release."""
    fixed = os.environ.get("ROUNDS")
    return [
        pytest.param(int(fixed or short), id="short", marks=pytest.mark.timeout(3600)),
        pytest.param(
            int(fixed or long), id="long", marks=[pytest.mark.long, pytest.mark.timeout(4 * 3600)]
        ),
    ]


class Rounds:
    """Crash after crash on one root, each in the middle of work, each compared afterwards.

    Args:
        crash: Ends the server, in whatever way.
        revive: Makes the root usable again, before the next server starts on it.
        workers: Who may be at work in a round.
    """

    def __init__(
        self,
        root: Root,
        crash: Callable[[], None],
        revive: Callable[[], None],
        seed: int,
        workers: tuple[tuple[type[Worker], ...], ...] = WORKERS,
    ) -> None:
        self.root = root
        self._workers = workers
        self._crash = crash
        self._revive = revive
        self._random = random.Random(seed)
        self._count = 0

    def run(self, place: Path) -> list[str]:
        """One round; returns what was lost, or is wrong otherwise."""
        self._count += 1
        self.root.start()
        if self._random.random() < 0.5:  # else there is work already while it recounts
            wrong = self.verified()
            if wrong:
                return wrong
        wrong = self._missing_in_trash()  # also after the start's cleaning
        if wrong:
            return wrong
        self.root.empty_trash()
        crash = self._a_crash()
        workers = [
            worker(
                self.root.port,
                self.root.expected,
                crash,
                place / f"{worker.__name__}-{self._count}",
                self._random.randrange(2**32),
            )
            for worker in self._random.choice(self._workers)
        ]
        for worker in workers:  # else the files of a tree go together
            worker.one_by_one = self._count % 3 == 0
        self._work(workers, crash)
        self.root.kill()
        self._revive()
        if self.root.without_rename_flags:
            self.root.start()  # puts back what was moved aside, before it listens
            self.root.kill()
        wrong = self._missing_in_trash()
        return wrong + self.root.expected.compare(self.root.contents())

    def _missing_in_trash(self) -> list[str]:
        """What of that was acknowledged as removed or replaced, and lies in no trash."""
        trash = self.root.trash()
        if not trash.is_whole:
            return trash.wrong
        missing = self.root.expected.trashed - trash.things
        return trash.wrong + [f"{path!r}: {was!r} isn't in the trash" for path, was in missing]

    def _a_crash(self) -> Crash:
        """After some time, or right after something: then luck has least time to save it."""
        kind = self._random.choice(["time", "acknowledgement", "acknowledgement", "command"])
        if kind == "time":
            return Crash(self._crash, self._random.uniform(0.02, 0.6))
        if kind == "acknowledgement":
            return Crash(self._crash, 3.0, acknowledgements=int(2 ** self._random.uniform(0, 8)))
        return Crash(self._crash, 3.0, commands=self._random.randrange(1, 10))

    def _work(self, workers: list[Worker], crash: Crash) -> None:
        for worker in workers:
            worker.start()
        crash.start()
        crash.join()
        self.root.kill()
        for worker in workers:
            worker.join()
        for worker in workers:
            if worker.failure is not None:
                raise worker.failure
            worker.sources.remove()

    def verified(self) -> list[str]:
        """What the administrators' verifier finds, with a server that is idle by now."""
        self.root.wait_for_recount()
        findings = verify.check(self.root.path, read=True)
        left = [finding for finding in findings if finding.kind in _ON_ITS_WAY]
        if left:  # the start's last acts remove it, and what is in it counts until then
            eventually(lambda: not self._has_left_overs(), f"no {left[0]}")
            findings = verify.check(self.root.path, read=True)
        return [str(finding) for finding in findings]

    def _has_left_overs(self) -> bool:
        return any(finding.kind in _ON_ITS_WAY for finding in verify.check(self.root.path))


# SIGKILL -----------------------------------------------------------------------------------


FLAGS = pytest.mark.parametrize("flags", [True, False], ids=["flags", "no-rename-flags"])


@FLAGS
@pytest.mark.parametrize("rounds", rounds(3, 500))
def test_killed_at_any_moment(programs, tmp_path, rounds, flags):
    """What the kernel has is not lost with the process: names, contents and books agree."""
    root = Root(tmp_path / "root", QUOTA, programs, tmp_path, without_rename_flags=not flags)
    root.make()
    survived(Rounds(root, lambda: root.kill(), lambda: None, new_seed()), rounds, tmp_path)
    assert "Traceback" not in root.log, root.log


@pytest.mark.parametrize(
    "options",
    [("--workers", "2"), ("--isolation", "process"), ("--threads", "0")],
    ids=["workers", "process", "thread-each"],
)
@pytest.mark.parametrize("rounds", rounds(1, 200))
def test_killed_in_other_ways_of_serving(programs, tmp_path, rounds, options):
    """The processes of sessions end with that of the server, a moment later."""
    root = Root(tmp_path / "root", QUOTA, programs, tmp_path, options=options)
    root.make()
    survived(Rounds(root, lambda: root.kill(), lambda: None, new_seed()), rounds, tmp_path)


def new_seed() -> int:
    return random.randrange(2**32)


def survived(crashes: Rounds, rounds: int, place: Path) -> None:
    """Nothing is lost in so many rounds, and the verifier agrees at the end.

    A busy machine may get nothing acknowledged before the crash: then there are more rounds.
    """
    root = crashes.root
    for number in itertools.count():
        if number >= rounds and root.expected.acknowledged > rounds:
            break
        assert number < 20 * rounds, "hardly anything was ever acknowledged"
        wrong = crashes.run(place)
        assert not wrong, f"round {number}: {NEW_LINE.join(wrong)}\n{root.log[-3000:]}"
    root.start()
    assert not crashes.verified()
    root.stop()
    checked = root.programs.run(
        [*program("ftpd"), "check", "--read", "--strict", "--root", str(root.path)], cwd=place
    )
    assert checked.text.endswith("no problems found\n")


# power cuts --------------------------------------------------------------------------------


@contextmanager
def plugged_in(place: Path) -> Iterator[Disk]:
    """A disk of one's own; skips where there cannot be one."""
    disk = Disk(place, DISK_SIZE)
    try:
        try:
            disk.make()
        except CannotMount as why:
            pytest.skip(str(why))
        yield disk
    finally:
        disk.close()


def with_a_disk(
    disk: Disk, root: Root, workers: tuple[tuple[type[Worker], ...], ...] = WORKERS
) -> Rounds:
    def cut() -> None:
        disk.cut()
        root.kill()

    def revive() -> None:
        disk.unmount()
        disk.mount()

    return Rounds(root, cut, revive, new_seed(), workers)


@FLAGS
@pytest.mark.parametrize("rounds", rounds(2, 200))
def test_power_cut_at_any_moment(programs, tmp_path, rounds, flags):
    """What was acknowledged is on the disk: it survives without the kernel's memory."""
    with plugged_in(tmp_path) as disk:
        place = disk.mount_point / "root"
        root = Root(place, QUOTA, programs, tmp_path, without_rename_flags=not flags)
        root.make()
        survived(with_a_disk(disk, root), rounds, tmp_path)


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one", "workers"])
@pytest.mark.parametrize("rounds", rounds(1, 100))
def test_a_power_cut_where_sessions_share_their_syncs(programs, tmp_path, rounds, options):
    """Who was acknowledged by the sync of another session has his file, too."""
    with plugged_in(tmp_path) as disk:
        root = Root(disk.mount_point / "root", QUOTA, programs, tmp_path, options=options)
        root.make()
        survived(with_a_disk(disk, root, (SINGLE_FILES,)), rounds, tmp_path)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("variant", ["late-joiners", "no-lease-sync"])
def test_a_power_cut_finds_out_where_sessions_share_their_syncs(programs, tmp_path, variant):
    """The same with a server that tells those who come during a sync that it was for them; and with
    one whose leases are lost, so that nothing says that the home is to be counted."""
    with plugged_in(tmp_path) as disk:
        root = Root(disk.mount_point / "root", QUOTA, programs, tmp_path, variant)
        root.make()
        crashes = with_a_disk(disk, root, (SINGLE_FILES,))
        for number in range(1, 21):
            if wrong := crashes.run(tmp_path):
                print(f"{variant}: caught after {number} rounds: {wrong[0]}")
                break
        else:
            pytest.fail("20 power cuts did not notice it")
        root.kill()


@pytest.mark.timeout(3600)  # a round takes ten times longer on a machine that is busy
@pytest.mark.parametrize(
    ("variant", "options", "rounds"),
    [
        # bounds: ten times what was needed at most in 20 runs of each, see docs/durability.md
        pytest.param("no-file-sync", (), 20, id="no-file-sync"),
        pytest.param("no-file-fsync", (), 40, id="no-file-fsync", marks=pytest.mark.long),
        pytest.param("no-file-syncfs", (), 40, id="no-file-syncfs", marks=pytest.mark.long),
        pytest.param("no-directory-sync", (), 40, id="no-directory-sync", marks=pytest.mark.long),
        pytest.param("no-directory-fsync", (), 40, id="no-directory-fsync", marks=pytest.mark.long),
        pytest.param(
            "no-directory-syncfs", (), 400, id="no-directory-syncfs", marks=pytest.mark.long
        ),
        pytest.param("no-index-sync", (), 60, id="no-index-sync", marks=pytest.mark.long),
        pytest.param(
            "as-is", ("--durability", "none"), 20, id="durability-none", marks=pytest.mark.long
        ),
    ],
)
def test_a_power_cut_finds_out(programs, tmp_path, variant, options, rounds):
    """The same rounds with a server that breaks the promise: they have to notice."""
    with plugged_in(tmp_path) as disk:
        root = Root(disk.mount_point / "root", QUOTA, programs, tmp_path, variant, options)
        root.make()
        crashes = with_a_disk(disk, root)
        for number in range(1, rounds + 1):
            wrong = crashes.run(tmp_path)
            if wrong:
                print(f"{variant} {options}: caught after {number} rounds: {wrong[0]}")
                break
        else:
            pytest.fail(f"{rounds} power cuts did not notice {variant} {options}")
        root.kill()
