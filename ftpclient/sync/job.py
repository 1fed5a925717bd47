"""A one-way mirror of a tree, from the local machine to the server or in reverse.

Lives here: the order of the steps, failures, the totals.
Lives elsewhere: making a plan (planning.py, plan.py), safety limits (deletions.py), carrying out
the steps (apply.py), retrying after a lost connection (transfer/retry.py): then everything begins
again, and finds what is already done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from msgspec import structs

from ftpclient.connection.connection import Connection
from ftpclient.sync.apply import Replica
from ftpclient.sync.deletions import check_limits, kept_back, may_delete_before
from ftpclient.sync.plan import Options, Plan, Route, Step
from ftpclient.sync.planning import compare
from ftpclient.sync.policy import Policy
from ftpclient.transfer.job import RESUME_FROM, JobOver, Transfer, words_for_all
from ftpclient.transfer.job import Options as TransferOptions
from ftpclient.transfer.local_modes import withheld
from ftpclient.transfer.path_list import PathList
from ftpclient.transfer.patterns import option_rules
from ftpclient.transfer.report import Forwarding, Listener, Result, Status, Summary
from ftpclient.transfer.selection import Filter
from ftpwire import paths
from ftpwire.errors import (
    ConnectionLost,
    FtpError,
    SafetyLimit,
)
from ftpwire.job_end import CANCELLED, ENDINGS, STAYS
from ftpwire.messages import Removed
from ftpwire.units import human

__all__ = ["Confirm", "Options", "Plan", "Route", "Step", "Sync", "SyncSummary"]

Confirm = Callable[[Plan], bool]
"""Asks the user to confirm the deletions of a plan."""

_MAX_REPORTED = 100_000
"""Maximum number of failures to remember, so that none is reported twice."""


class SyncSummary(Summary):
    """The totals of a sync; of a dry run, what they would be.

    Attributes:
        sent: Files and links that were transferred; ``size`` is their size in bytes.
        deleted: Files, links and directories that were deleted.
        directories: Directories that were made.
        attributes: Files and directories whose mode or mtime was changed.
        dry_run: True if nothing was done.
    """

    sent: int = 0
    deleted: int = 0
    renamed: int = 0
    directories: int = 0
    attributes: int = 0
    dry_run: bool = False

    def add(self, result: Result) -> None:
        """Count the result of a step."""
        size = self.size
        if result.status == "planned":
            result = structs.replace(result, status="done")
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
    """A sync. Call ``run``, then ``finish``; after a lost connection call ``run`` again.

    Args:
        confirm: Called before anything is deleted; None to delete without asking.
        only: A list of paths to which the sync is limited, if any.
    """

    def __init__(
        self,
        connection: Connection,
        route: Route,
        options: Options,
        listener: Listener,
        confirm: Confirm | None = None,
        only: PathList | None = None,
    ) -> None:
        super().__init__(connection, TransferOptions(), listener)
        self.totals = SyncSummary(dry_run=options.dry_run)
        self.summary = self.totals
        self._route = route
        self.writes_here = not route.upload
        self._sync_options = options
        self._confirm = confirm
        self._confirmed = 0
        self._only = only
        self._rules = Filter(
            option_rules(options.patterns),
            lambda: self.connection.check(),
            options.limits(),
            only,
        )
        self._worker: Callable[[Connection], Transfer] | None = None
        self._troubles: set[bytes] = set()
        self._reported_odd_times = False
        self._reported_withheld = False
        self._failures = _Failures()
        self._failed_renames: list[Step] = []

    def run(self) -> None:
        """Make a plan, and carry it out.

        Raises:
            SafetyLimit: It would delete more than allowed. Nothing was changed.
            QuotaExceeded, DiskFull: It does not fit. Nothing was changed.
            NotFound, NotADirectory: A root is missing, or is not a directory.
            ConnectionLost, Interrupted
        """
        route, options = self._route, self._sync_options
        policy = compare(
            self.connection, route, options, self._rules, self._report_trouble, self._only
        )
        with closing(policy.plan) as plan:
            self._report_odd_times(policy)
            self._report_withheld(policy)
            # files sent before a lost connection are found unchanged, but have been counted already
            self.totals.unchanged = max(0, plan.unchanged - self.totals.sent)
            if options.dry_run:
                for step in self._each(plan.steps()):
                    self._report(structs.replace(self._result(step, None), status="planned"))
                self._check_limits(plan)
                return
            self._check_limits(plan)
            with closing(self._replica(policy.replica_class(), plan)) as replica:
                self._check_space(plan, replica)
                self._ask(plan)
                self.size = None
                self.announce(plan.files, plan.size)
                self._do(plan, replica)

    # remarks and errors of the comparison --------------------------------------------------

    def _report_odd_times(self, policy: Policy) -> None:
        count, first = policy.odd_times, policy.first_odd_time
        if first is None or self._reported_odd_times:
            return
        self._reported_odd_times = True
        path = paths.show(self._route.target(first))
        others = "" if count == 1 else f" and {count - 1} more"
        self.listener.remark(
            f"the {policy.target_disk} cannot store the exact time of {path}{others}: the nearest "
            "one counts as the same"
        )

    def _report_withheld(self, policy: Policy) -> None:
        if policy.first_withheld is not None and not self._reported_withheld:
            self._reported_withheld = True
            self.listener.remark(withheld(self._route.target(policy.first_withheld)))

    def _report_trouble(self, result: Result) -> None:
        """Report an error of the comparison, once even if the trees are compared again."""
        if result.target not in self._troubles:
            if len(self._troubles) < _MAX_REPORTED:
                self._troubles.add(result.target)
            self._report(result)

    # safety --------------------------------------------------------------------------------

    def _check_limits(self, plan: Plan) -> None:
        check_limits(plan, self._sync_options, self._route.shown_source())

    def _check_space(self, plan: Plan, replica: Replica[Any]) -> None:
        """Refuse, before the first byte, a job that does not fit."""
        growth = plan.growth
        if self._sync_options.delete_before:
            growth -= plan.freed
        if growth <= 0:
            return
        undone = "nothing was changed"
        if may_delete_before(plan, self._sync_options):
            undone += f" (--delete-before deletes {human(plan.freed)} first)"
        replica.check_space(plan, growth, undone)

    def _ask(self, plan: Plan) -> None:
        if self._confirm is None or plan.doomed <= self._confirmed:
            return
        if not self._confirm(plan):
            raise SafetyLimit(CANCELLED)
        self._confirmed = plan.doomed

    # carrying out the plan -----------------------------------------------------------------

    def _replica(self, kind: type[Replica[Any]], plan: Plan) -> Replica[Any]:
        options = TransferOptions(
            resume=self._sync_options.resume,
            copy_links=self._sync_options.copy_links and self._route.upload,
        )
        made = kind(self.connection, self._route, options, _Relay(self), self._done)
        for transfer in (self, made.transfer):
            transfer.rest = STAYS
            if may_delete_before(plan, self._sync_options):
                transfer.space_hint = "--delete-before deletes first"
        made.transfer.headway = self.headway
        made.transfer.workers = self.workers
        self._worker = made.transfer.worker
        return made

    def keeps(self, moved: int, size: int | None) -> bool:
        if self.totals.sent:
            return True  # they are found unchanged, even without resuming
        return self._sync_options.resume and moved >= RESUME_FROM

    def worker(self, connection: Connection) -> Transfer:
        """Return a worker for this sync, with a connection of its own."""
        assert self._worker is not None
        return self._worker(connection)

    def _do(self, plan: Plan, replica: Replica[Any]) -> None:
        self._failures.begin()
        first = self._sync_options.delete_before
        for step in self._possible(plan.openings, replica):
            replica.set_attributes(step)
        for step in self._possible(plan.obstacles, replica):
            replica.remove(step)
        if first and not plan.renamed:
            self._delete(plan, replica)
        for step in self._possible(plan.directories, replica):
            if not step.path:
                self._make_root(replica)
            replica.make_dir(step)
        for step in self._possible(plan.renames, replica):
            replica.rename(step)
        if plan.renamed:
            self._settle(replica)
            if first:  # not before: renamed files may have been in a deleted directory
                self._delete(plan, replica)
        renames, self._failed_renames = self._failed_renames, []
        for step in renames:  # the file to be renamed has changed: send it instead
            replica.send(step)
        if self.workers.may_share:
            self._settle(replica)  # from here on only the workers report results
        for step in self._possible(plan.transfers, replica):
            try:
                replica.send(step)
            except JobOver:
                pass  # found by a worker; `_possible` or `_settle` raises it
        if self.workers.pool is not None:
            self._settle(replica)
        for step in self._possible(plan.attributes, replica):
            replica.set_attributes(step)
        self._settle(replica)
        kept = 0
        if not first:
            if self._failures.count and not self._sync_options.force:
                kept = sum(step.count for step in plan.deletions)
            else:
                self._delete(plan, replica)
        for step in self._possible(plan.endings, replica):
            replica.set_attributes(step)
        self._settle(replica)
        if kept:
            self._report_kept(kept)

    def _make_root(self, replica: Replica[Any]) -> None:
        try:
            replica.make_root()
        except ENDINGS as error:
            root = self._route.target(b"")
            raise words_for_all(root, error, "", local=self.writes_here) from None

    def _delete(self, plan: Plan, replica: Replica[Any]) -> None:
        for step in self._possible(plan.deletions, replica):
            replica.remove(step)

    def _possible(self, steps: Iterable[Step], replica: Replica[Any]) -> Iterator[Step]:
        """Iterate over the steps that can succeed.

        Raises:
            JobOver: No further step can.
            Enough: The listener asked to stop.
        """
        for step in self._each(steps):
            self._check_over(replica)
            if not self._failures.explain(step):
                yield step

    def _each(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Iterate over steps. Raises Enough if the listener asked to stop."""
        for step in steps:
            self.go_on()
            yield step

    def _settle(self, replica: Replica[Any]) -> None:
        """Wait until all steps are done. Raises JobOver if no further step can succeed."""
        try:
            self.workers.finish()
            replica.settle()
        except JobOver:
            pass  # raised by the replica's transfer: `_check_over` takes over its cause
        self._check_over(replica)

    def _check_over(self, replica: Replica[Any]) -> None:
        self._over = self._over or replica.transfer.over
        self.check_over()

    def _report_kept(self, count: int) -> None:
        error = kept_back(count)
        self._report(self._result(Step("delete", b"", "dir", count=count), error))
        self.totals.exit_code = error.exit_code

    def _done(self, step: Step, error: FtpError | None, removed: Removed | None = None) -> None:
        """Record the result of a step that is not a transfer."""
        if isinstance(error, ConnectionLost):
            return  # after reconnecting it is found done, or done again
        if error is None:
            self.headway.done(self._route.target(step.path))
        if error is not None and step.action == "rename":
            self._failed_renames.append(step)
        elif error is not None:
            self._failed(step, error)
        elif step.why:
            self._report(structs.replace(self._result(step, None), removed=removed))

    def _failed(self, step: Step, error: FtpError) -> None:
        """Report a failed step, unless an earlier failure explains it."""
        if self._over is not None:
            return  # it was already under way when the job ended
        target = self._route.target(step.path)
        over = self.ended_by(target, error, 0, local=self.writes_here)
        if self._failures.add(step):
            self._report(self._result(step, over or error))

    def _result(self, step: Step, error: FtpError | None) -> Result:
        target = self._route.target(step.path)
        if step.action == "rename":
            source = self._route.target(step.source)
        else:
            source = self._route.source(step.path)
        status: Status = "failed" if error is not None else "done"
        return Result(source, target, step.size, status, error=error, step=step)

    def transferred(self, result: Result) -> None:
        """Report the result of a file or link."""
        root = self._route.target(b"").rstrip(b"/")
        step = Step(self._route.verb, result.target[len(root) + 1 :], size=result.size)
        if result.status != "failed" or self._failures.add(step):
            self._report(structs.replace(result, step=step))


class _Failures:
    """The failures of a sync. Each path is reported once.

    If a directory cannot be made, what was to be in it is not reported.

    Attributes:
        count: Number of failures since ``begin``, reported or not.
    """

    def __init__(self) -> None:
        self.count = 0
        self._paths: set[bytes] = set()
        self._above: set[bytes] = set()
        """Directories in which a step failed."""
        self._not_made: set[bytes] = set()

    def begin(self) -> None:
        """Begin a (new) try, in which every step may succeed."""
        self.count = 0
        self._not_made.clear()
        self._above.clear()

    def add(self, step: Step) -> bool:
        """Note a failed step. Return whether to report it."""
        self.count += 1
        # a failure in a directory explains why its time cannot be set
        shown = not (
            self.explain(step)
            or step.path in self._paths
            or (step.action == "attributes" and not step.why and step.path in self._above)
        )
        if step.action == "mkdir" and len(self._not_made) < _MAX_REPORTED:
            self._not_made.add(step.path)
        if len(self._paths) < _MAX_REPORTED:
            self._paths.add(step.path)
            self._above.add(step.path.rpartition(b"/")[0])
        return shown

    def explain(self, step: Step) -> bool:
        """Return whether a step is about a directory that could not be made, or below one."""
        path = step.path
        while self._not_made and path:
            if path in self._not_made:
                return True
            path = path.rpartition(b"/")[0]
        return b"" in self._not_made


class _Relay(Forwarding):
    """Receives the results of a sync's transfers, and adds the steps to which they belong."""

    def __init__(self, sync: Sync) -> None:
        super().__init__(sync.listener)
        self._sync = sync

    def totals(self, files: int, size: int) -> None:
        """Ignore them: the totals of the plan were announced already."""

    def advanced(self, count: int) -> None:
        self._sync.advanced(count)

    def finished(self, result: Result) -> None:
        self._sync.transferred(result)
