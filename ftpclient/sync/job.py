"""A one-way mirror of a tree, from here to the server or from there to here.

Lives here: safety limits, the order of the steps, the totals.
Lives elsewhere: comparing (diff.py), renamed files (renames.py), plans (plan.py), doing the
steps (apply.py), what a lost connection means (client.py): all of it begins again then, and
finds what was done.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ftpclient.connection.connection import Connection
from ftpclient.sync.apply import LocalTarget, RemoteTarget, Target
from ftpclient.sync.diff import Comparison, told_time
from ftpclient.sync.filters import Filter, option_rules
from ftpclient.sync.plan import Options, Plan, Route, Step
from ftpclient.sync.renames import Renames
from ftpclient.transfer import preflight
from ftpclient.transfer.job import JobOver, Transfer, words_for_all
from ftpclient.transfer.job import Options as TransferOptions
from ftpclient.transfer.local_tree import LocalTree, withheld
from ftpclient.transfer.report import Listener, Result, Status, Summary
from ftpwire import paths
from ftpwire.errors import (
    ConnectionLost,
    FtpError,
    Interrupted,
    NotADirectory,
    NotFound,
    SafetyLimit,
    from_oserror,
)
from ftpwire.job_end import ENDINGS, STAYS
from ftpwire.messages import Entry, Space, Stat
from ftpwire.units import human

__all__ = ["Confirm", "Options", "Plan", "Route", "Step", "Sync", "SyncSummary"]

Confirm = Callable[[Plan], bool]
"""Asks whether the deletions of a plan are meant."""

_MOST_TOLD = 100_000
"""Failures that are remembered, so that none of them is told twice."""


@dataclass
class SyncSummary(Summary):
    """The totals of a sync, or with a dry run what they would be.

    Attributes:
        sent: Files and links that were transferred; ``size`` are their bytes.
        deleted: Files, links and directories.
        directories: Those that were made.
        attributes: Files and directories whose mode or mtime was brought in line.
        dry_run: Nothing of it was done.
    """

    sent: int = 0
    deleted: int = 0
    renamed: int = 0
    directories: int = 0
    attributes: int = 0
    dry_run: bool = False

    def add(self, result: Result) -> None:
        """Count the end of a step."""
        size = self.size
        if result.status == "planned":
            result = replace(result, status="done")
        super().add(result)
        step = result.step
        if step is None or result.status != "done":
            return
        if step.action in ("put", "get"):
            self.sent += not result.unchanged
            return
        self.size = size
        if step.action == "delete":
            self.deleted += step.count
        elif step.action == "rename":
            self.renamed += 1
        elif step.action == "mkdir":
            self.directories += 1
        else:
            self.attributes += 1


class Sync(Transfer):
    """One sync: ``run``, then ``finish``. After a lost connection ``run`` once more.

    Args:
        confirm: Asked before anything is deleted; None to delete without asking.
    """

    def __init__(
        self,
        connection: Connection,
        route: Route,
        options: Options,
        listener: Listener,
        confirm: Confirm | None = None,
    ) -> None:
        super().__init__(connection, TransferOptions(), listener)
        self.totals = SyncSummary(dry_run=options.dry_run)
        self.summary = self.totals
        self._route = route
        self.writes_here = not route.upload
        self._sync_options = options
        self._confirm = confirm
        self._confirmed = 0
        self._rules = Filter(option_rules(options.patterns), lambda: self.connection.check())
        self._troubles: set[bytes] = set()
        self._told_odd_times = False
        self._told_withheld = False
        self._failures = _Failures()
        self._failed_renames: list[Step] = []

    def run(self) -> None:
        """Make a plan, and carry it out.

        Raises:
            SafetyLimit: It would delete what it may not. Nothing was changed.
            QuotaExceeded, DiskFull: It can't fit. Nothing was changed.
            NotFound, NotADirectory: A root is missing, or is no directory.
            ConnectionLost, Interrupted
        """
        try:
            plan = self._make_plan()
        except OSError as error:
            raise from_oserror(error, paths.show(self._route.local)) from None
        try:
            # what was sent before the connection was lost is found unchanged
            self.totals.unchanged = max(0, plan.unchanged - self.totals.sent)
            if self._sync_options.dry_run:
                for step in self._each(plan.steps()):
                    self._tell(replace(self._result(step, None), status="planned"))
                self._check_limits(plan)
                return
            self._check_limits(plan)
            self._check_room(plan)
            self._ask(plan)
            self.size = None
            self.announce(plan.files, plan.size)
            self._carry_out(plan)
        finally:
            plan.close()

    # from the trees to a plan --------------------------------------------------------------

    def _make_plan(self) -> Plan:
        remote = self._remote_root()
        tree = self._local_root()
        try:
            local = None if tree is None else _root_entry(tree)
            source, target = (local, remote) if self._route.upload else (remote, local)
            assert source is not None
            return self._compare(tree, source, target)
        finally:
            if tree is not None:
                tree.close()

    def _compare(self, tree: LocalTree | None, source: Entry, target: Entry | None) -> Plan:
        comparison = Comparison(
            self.connection,
            self._route,
            tree,
            self._sync_options,
            self._rules,
            self._tell_trouble,
        )
        try:
            comparison.run(source, target)
            if comparison.missing:
                Renames(self.connection, self._route, comparison).find()
        except BaseException as error:
            comparison.plan.close()
            if not isinstance(error, (ConnectionLost, Interrupted)):  # whose own cleaning up comes
                self.connection.cancel_all()
            raise
        self._tell_odd_times(comparison)
        self._tell_withheld(comparison)
        return comparison.plan

    def _tell_odd_times(self, comparison: Comparison) -> None:
        count, first = comparison.odd_times, comparison.first_odd_time
        if first is None or self._told_odd_times:
            return
        self._told_odd_times = True
        disk = "server's disk" if self._route.upload else "disk here"
        path = paths.show(self._route.target(first))
        others = "" if count == 1 else f" and of {count - 1} more"
        self.listener.remark(
            f"the {disk} can't keep the time of {path}{others}: it has the nearest, and counts as "
            "the same"
        )

    def _tell_withheld(self, comparison: Comparison) -> None:
        if comparison.first_withheld is not None and not self._told_withheld:
            self._told_withheld = True
            self.listener.remark(withheld(self._route.target(comparison.first_withheld)))

    def _remote_root(self) -> Entry | None:
        path = self._route.remote
        try:
            reply = self.connection.ask(Stat(path, follow=True))
        except NotFound:
            if self._route.upload:
                return None
            raise
        if reply.entry.type != "dir":
            raise NotADirectory(f"{paths.show(path)}: not a directory (for files: put, get)")
        return reply.entry

    def _local_root(self) -> LocalTree | None:
        path = self._route.local
        try:
            return LocalTree(path)
        except FileNotFoundError:
            if not self._route.upload and not os.path.lexists(path):
                return None
            raise
        except NotADirectoryError:
            shown = paths.show(path)
            raise NotADirectory(f"{shown}: not a directory (for files: put, get)") from None

    def _tell_trouble(self, result: Result) -> None:
        """What the comparison has met. Told once, also when it is made again."""
        if result.target not in self._troubles:
            if len(self._troubles) < _MOST_TOLD:
                self._troubles.add(result.target)
            self._tell(result)

    # safety --------------------------------------------------------------------------------

    def _check_limits(self, plan: Plan) -> None:
        options = self._sync_options
        if not plan.doomed:
            return
        what = "1 thing" if plan.doomed == 1 else f"{plan.doomed} things"
        if options.max_delete is not None and plan.doomed > options.max_delete:
            raise SafetyLimit(
                f"{what} would be deleted, and --max-delete is {options.max_delete}: "
                "nothing was changed"
            )
        if options.force:
            return
        source = self._route.shown_source()
        if plan.source_is_empty:
            raise SafetyLimit(
                f"{source} is empty, and {what} would be deleted: "
                "nothing was changed (--force does it)"
            )
        if plan.unreadable:
            raise SafetyLimit(
                f"not all of {source} could be read, and {what} would be deleted: "
                "nothing was changed (--force does it)"
            )

    def _check_room(self, plan: Plan) -> None:
        """Have a job that can't fit refused before its first byte."""
        growth = plan.growth
        if self._sync_options.delete_before:
            growth -= plan.freed
        if growth <= 0:
            return
        undone = "nothing was changed"
        if self._may_delete_before(plan):
            undone += f" (--delete-before deletes {human(plan.freed)} first)"
        if self._route.upload:
            reply = self.connection.ask(Space())
            preflight.check(reply, growth, undone)
            return
        local = self._route.local

        def parts() -> int:
            return sum(
                preflight.part_of(local, tuple(step.path.split(b"/"))) for step in plan.transfers
            )

        preflight.check_get(local, growth, parts, undone)

    def _may_delete_before(self, plan: Plan) -> bool:
        """Whether it would make room to delete first, and that wasn't asked for."""
        options = self._sync_options
        return options.delete and not options.delete_before and plan.freed > 0

    def _ask(self, plan: Plan) -> None:
        if self._confirm is None or plan.doomed <= self._confirmed:
            return
        if not self._confirm(plan):
            raise SafetyLimit("the deletions were not confirmed: nothing was changed")
        self._confirmed = plan.doomed

    # doing it ------------------------------------------------------------------------------

    def _carry_out(self, plan: Plan) -> None:
        kind = RemoteTarget if self._route.upload else LocalTarget
        options = TransferOptions(resume=self._sync_options.resume)
        target: Target = kind(self.connection, self._route, options, _Relay(self), self._done)
        for transfer in (self, target.transfer):
            transfer.rest = STAYS
            if self._may_delete_before(plan):
                transfer.more_room = "--delete-before deletes first"
        target.transfer.headway = self.headway
        try:
            self._do(plan, target)
        finally:
            target.close()

    def _do(self, plan: Plan, target: Target) -> None:
        self._failures.begin()
        first = self._sync_options.delete_before
        for step in self._possible(plan.openings, target):
            target.set_attributes(step)
        for step in self._possible(plan.obstacles, target):
            target.remove(step)
        if first and not plan.renamed:
            self._delete(plan, target)
        for step in self._possible(plan.directories, target):
            if not step.path:
                self._make_root(target)
            target.make_dir(step)
        for step in self._possible(plan.renames, target):
            target.rename(step)
        if plan.renamed:
            self._settle(target)
            if first:  # what was renamed may have been in a directory that goes
                self._delete(plan, target)
        renames, self._failed_renames = self._failed_renames, []
        for step in renames:  # what was to be moved is not what it was
            target.send(step)
        for step in self._possible(plan.transfers, target):
            target.send(step)
        for step in self._possible(plan.attributes, target):
            target.set_attributes(step)
        self._settle(target)
        kept = 0
        if not first:
            if self._failures.count and not self._sync_options.force:
                kept = sum(step.count for step in plan.deletions)
            else:
                self._delete(plan, target)
        for step in self._possible(plan.endings, target):
            target.set_attributes(step)
        self._settle(target)
        if kept:
            self._tell_kept(kept)

    def _make_root(self, target: Target) -> None:
        try:
            target.make_root()
        except ENDINGS as error:
            root = self._route.target(b"")
            raise words_for_all(root, error, "", local=self.writes_here) from None

    def _delete(self, plan: Plan, target: Target) -> None:
        for step in self._possible(plan.deletions, target):
            target.remove(step)

    def _possible(self, steps: Iterable[Step], target: Target) -> Iterator[Step]:
        """The steps that can succeed.

        Raises:
            JobOver: Nothing more can.
            Enough: The listener wants no more.
        """
        for step in self._each(steps):
            self._check_over(target)
            if not self._failures.explain(step):
                yield step

    def _each(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Steps, one by one. Raises Enough when the listener wants no more."""
        for step in steps:
            self.go_on()
            yield step

    def _settle(self, target: Target) -> None:
        """Wait until all of it is done. Raises JobOver when nothing more can succeed."""
        try:
            target.settle()
        except JobOver:
            pass  # of the target's transfer: what it was is taken over below
        self._check_over(target)

    def _check_over(self, target: Target) -> None:
        self._over = self._over or target.transfer.over
        self.check_over()

    def _tell_kept(self, count: int) -> None:
        error = SafetyLimit(
            f"{count} {'thing was' if count == 1 else 'things were'} not deleted, "
            "because not everything could be transferred (--force does it)"
        )
        self._tell(self._result(Step("delete", b"", "dir", count=count), error))
        self.totals.exit_code = error.exit_code

    def _done(self, step: Step, error: FtpError | None) -> None:
        """A step that is no transfer has ended."""
        if isinstance(error, ConnectionLost):
            return  # it is found done, or is done again
        if error is None:
            self.headway.done(self._route.target(step.path))
        if error is not None and step.action == "rename":
            self._failed_renames.append(step)
        elif error is not None:
            self._failed(step, error)
        elif step.why:
            self._tell(self._result(step, None))

    def _failed(self, step: Step, error: FtpError) -> None:
        """A step failed; what an earlier failure explains is not told again."""
        if self._over is not None:
            return  # it was under way when the job ended
        target = self._route.target(step.path)
        over = self.ended_by(target, error, 0, local=self.writes_here)
        if self._failures.add(step):
            self._tell(self._result(step, over or error))

    def _result(self, step: Step, error: FtpError | None) -> Result:
        target = self._route.target(step.path)
        if step.action == "rename":
            source = self._route.target(step.source)
        else:
            source = self._route.source(step.path)
        status: Status = "failed" if error is not None else "done"
        return Result(source, target, step.size, status, error=error, step=step)

    def transferred(self, result: Result) -> None:
        """A file or link has ended."""
        root = self._route.target(b"").rstrip(b"/")
        step = Step(self._route.verb, result.target[len(root) + 1 :], size=result.size)
        if result.status != "failed" or self._failures.add(step):
            self._tell(replace(result, step=step))


class _Failures:
    """The failures of a sync: each path is told of once, and of a directory that can't be made not
    all that was to be in it.

    Attributes:
        count: How many there were since ``begin``, told or not.
    """

    def __init__(self) -> None:
        self.count = 0
        self._paths: set[bytes] = set()
        self._above: set[bytes] = set()
        """Directories in which something failed."""
        self._not_made: set[bytes] = set()

    def begin(self) -> None:
        """All of it is done (again), and may succeed."""
        self.count = 0
        self._not_made.clear()
        self._above.clear()

    def add(self, step: Step) -> bool:
        """Note one; returns whether it is to be told."""
        self.count += 1
        # its own contents explain why a directory's time can't be set
        told = not (
            self.explain(step)
            or step.path in self._paths
            or (step.action == "attributes" and not step.why and step.path in self._above)
        )
        if step.action == "mkdir" and len(self._not_made) < _MOST_TOLD:
            self._not_made.add(step.path)
        if len(self._paths) < _MOST_TOLD:
            self._paths.add(step.path)
            self._above.add(step.path.rpartition(b"/")[0])
        return told

    def explain(self, step: Step) -> bool:
        """Whether it is in a directory that could not be made, or is about that."""
        path = step.path
        while self._not_made and path:
            if path in self._not_made:
                return True
            path = path.rpartition(b"/")[0]
        return b"" in self._not_made


class _Relay(Listener):
    """Hears of the transfers of a sync, and says whose they are."""

    def __init__(self, sync: Sync) -> None:
        self._sync = sync

    def started(self, name: bytes, size: int | None) -> None:
        self._sync.listener.started(name, size)

    def advanced(self, count: int) -> None:
        self._sync.advanced(count)

    @property
    def enough(self) -> bool:  # type: ignore[override]
        return self._sync.listener.enough

    def finished(self, result: Result) -> None:
        self._sync.transferred(result)

    def remark(self, text: str) -> None:
        self._sync.listener.remark(text)

    def lost(self, error: FtpError) -> None:
        self._sync.listener.lost(error)

    def waiting(self, lost: float, left: float) -> None:
        self._sync.listener.waiting(lost, left)

    def regained(self) -> None:
        self._sync.listener.regained()


def _root_entry(tree: LocalTree) -> Entry:
    info = os.fstat(tree.directory(()))
    return Entry(b"", "dir", info.st_size, stat.S_IMODE(info.st_mode), told_time(info))
