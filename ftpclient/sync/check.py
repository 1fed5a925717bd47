"""Comparing local files with those on the server, without changing anything.

Lives here: how a check reports each difference; comparing two files; the order, the totals.
Lives elsewhere: finding differences (diff.py), and what counts as a difference (policy.py): both
are shared with sync.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from msgspec import structs

from ftpclient.connection.connection import Connection
from ftpclient.sync.diff import Comparison
from ftpclient.sync.directories import Awaited, Directory, join
from ftpclient.sync.kept_times import KeptTimes, Pair
from ftpclient.sync.local_reader import LocalReader, is_partial
from ftpclient.sync.plan import Options, Route
from ftpclient.sync.planning import compare
from ftpclient.sync.policy import FromServer, OnResult, Policy, ToServer
from ftpclient.transfer.job import Options as TransferOptions
from ftpclient.transfer.job import Transfer
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.patterns import option_rules
from ftpclient.transfer.report import Finding, Listener, Result, State, Summary
from ftpclient.transfer.selection import Filter
from ftpclient.transfer.spool import Spool, Table, sort
from ftpwire import beneath, paths
from ftpwire.errors import CommandError, NotFound, VerificationFailed, from_oserror
from ftpwire.messages import Entry, FileType, Stat


@dataclass(frozen=True)
class CheckOptions:
    """How to compare.

    Attributes:
        size_only: True to regard files of the same size as the same, without comparing digests.
        one_way: True to ignore what exists only in the second tree.
        patterns: Patterns to leave out (True) or include (False); the last match decides.
        ignore_files: True to apply the .ftpignore files of the first tree as well.
        same: True to report entries that are the same, too.
    """

    size_only: bool = False
    one_way: bool = False
    patterns: tuple[tuple[bool, str], ...] = ()
    ignore_files: bool = False
    same: bool = False


class CheckSummary(Summary):
    """The totals of a check: files, directories and links below the two roots.

    Attributes:
        same: Entries that are the same. ``exit_code`` is 0 if all are.
        differ: Entries that both trees have, and that differ.
        only_here, only_there: Entries of only one tree; a directory counts once, with everything
            in it.
        unreadable: Entries that could not be compared. ``exit_code`` is 8 if a file on the
            server is damaged.
    """

    same: int = 0
    differ: int = 0
    only_here: int = 0
    only_there: int = 0
    unreadable: int = 0

    def note(self, state: State) -> None:
        """Count a finding."""
        if state == "same":
            self.same += 1
        elif state == "differs":
            self.differ += 1
        elif state == "only-here":
            self.only_here += 1
        elif state == "only-there":
            self.only_there += 1
        else:
            self.unreadable += 1

    @property
    def differences(self) -> int:
        """The number of entries that are not known to be the same."""
        return self.differ + self.only_here + self.only_there + self.unreadable


class Check(Transfer):
    """A check. Call ``run``, then ``finish``; after a lost connection call ``run`` again.

    Args:
        route: The two roots. The source is the first one.
    """

    def __init__(
        self, connection: Connection, route: Route, options: CheckOptions, listener: Listener
    ) -> None:
        super().__init__(connection, TransferOptions(), listener)
        self.totals = CheckSummary()
        self.summary = self.totals
        self._route = route
        self._check_options = options
        self._findings: _Findings

    def run(self) -> None:
        """Compare, and report what was found.

        Raises:
            NotFound: One of the two is missing.
            CommandError: One of the two cannot be read.
            ConnectionLost, Interrupted
        """
        with closing(_Findings(self._route, self._check_options)) as self._findings:
            self._compare()
            for finding in self._findings.in_order():
                self.go_on()
                self.totals.note(finding.state)
                if finding.state != "same" or self._check_options.same:
                    self.listener.found(finding)
            self.totals.same += self._findings.same
        if self._findings.damaged:
            self.totals.exit_code = VerificationFailed.exit_code
        elif self.totals.differences:
            self.totals.exit_code = 1

    def _compare(self) -> None:
        route = self._route
        there = self.connection.ask(Stat(route.remote, follow=True)).entry
        try:
            info = os.stat(route.local)
        except OSError as error:
            raise from_oserror(error, paths.show(route.local)) from None
        if there.type == "dir" and stat.S_ISDIR(info.st_mode):
            rules = Filter(
                option_rules(self._check_options.patterns), lambda: self.connection.check()
            )
            policy = compare(
                self.connection, route, self._options(), rules, self._trouble, make=self._policy
            )
            policy.plan.close()
            return
        if there.type == "dir":
            route = Route(
                route.upload,
                route.local,
                paths.child(route.remote, _name_of(route.local)),
            )
            there = self.connection.ask(Stat(route.remote, follow=True)).entry
        elif stat.S_ISDIR(info.st_mode):
            local = paths.child(route.local, paths.name_of(route.remote))
            route = Route(route.upload, local, route.remote)
            try:
                info = os.stat(local)
            except OSError as error:
                raise from_oserror(error, paths.show(local)) from None
        self._compare_two(route, info, there)

    def _compare_two(self, route: Route, info: os.stat_result, there: Entry) -> None:
        """Compare two entries that are not both directories."""
        above = Route(
            route.upload,
            os.path.dirname(os.path.abspath(route.local)),
            paths.parent_of(route.remote),
        )
        local = Entry(
            _name_of(route.local),
            beneath.entry_type(info.st_mode),
            info.st_size,
            stat.S_IMODE(info.st_mode),
            beneath.clamped_mtime_ns(info),
        )
        there = structs.replace(there, path=paths.name_of(route.remote))
        policy = self._policy(self.connection, above, None, self._options(), self._trouble)
        with closing(policy.plan):
            policy.local = LocalReader(
                None, self.connection.check, policy.local_trouble, follow=above.local
            )
            Comparison(policy, Filter()).run_for_two(local, there)
        self._findings.rename(local.path, policy.pair(local, there)[0].path)

    def _options(self) -> Options:
        size_only = self._check_options.size_only
        return Options(checksum=not size_only, size_only=size_only, dry_run=True)

    def _policy(
        self,
        connection: Connection,
        route: Route,
        tree: LocalTree | None,
        options: Options,
        report: OnResult,
    ) -> Policy:
        kind = _CheckToServer if route.upload else _CheckFromServer
        return kind(connection, route, tree, options, report).noting(self._findings)

    def _trouble(self, result: Result) -> None:
        assert result.step is not None and isinstance(result.error, CommandError)
        self._findings.unreadable(result.step.path, result.error)


def _name_of(local: bytes) -> bytes:
    return os.path.basename(local.rstrip(b"/"))


class _Findings:
    """The findings, in any order; on disk if there are many. Close it after use.

    Attributes:
        same: Number of entries that are the same and are not among the findings.
        damaged: True if a file on the server does not have its stored digest.
    """

    def __init__(self, route: Route, options: CheckOptions) -> None:
        self.options = options
        self.same = 0
        self.damaged = False
        self._upload = route.upload
        self._found = Spool(Finding)
        self._renamed: tuple[bytes, bytes] | None = None

    def add(self, path: bytes, state: State, kind: FileType, why: str = "") -> None:
        """Add a finding.

        Entries that may get two findings go into the spool, to be merged later: an unchanged
        directory may still turn out to be unreadable.
        """
        if state == "same" and kind != "dir" and not self.options.same:
            self.same += 1
        else:
            self._found.add(Finding(path, state, kind, why))

    def only_one_has(self, path: bytes, kind: FileType, *, here: bool) -> None:
        """Add an entry that exists in only one tree."""
        if not (self.options.one_way and here != self._upload):
            self.add(path, "only-here" if here else "only-there", kind)

    def unreadable(self, path: bytes, error: CommandError) -> None:
        """Add an entry that cannot be compared."""
        self.damaged |= error.exit_code == VerificationFailed.exit_code
        self._found.add(Finding(path, "unreadable", "file", "", error.code, str(error)))

    def rename(self, path: bytes, name: bytes) -> None:
        """Report the entry with this path under another name."""
        self._renamed = (path, name)

    def in_order(self) -> Iterator[Finding]:
        """Iterate over the findings by path, one per path; a directory's entries follow it."""
        last: bytes | None = None
        for finding in sort(self._found, _place, kind=Finding):
            if finding.path == last:
                continue
            last = finding.path
            if self._renamed is not None and finding.path == self._renamed[0]:
                finding = structs.replace(finding, path=self._renamed[1])
            yield finding

    def close(self) -> None:
        """Remove the file."""
        self._found.close()


def _place(finding: Finding) -> tuple[bytes, int]:
    """Return the sort key of a finding. Of several for one path, the worst comes first."""
    rank = 0 if finding.state == "unreadable" else 2 if finding.state == "same" else 1
    return finding.path.replace(b"/", b"\0"), rank


class _AnyTimes(KeptTimes):
    """Regards all times as the same. No disk is asked, because that would write to it."""

    def __init__(self) -> None:
        super().__init__(lambda times, directory: times)

    def missing(self, pairs: Iterable[Pair]) -> set[int]:
        return set()

    def are_same(self, source: Entry, target: Entry) -> bool:
        return True


class _Noting(Policy):
    """Records each difference. It adds no steps to its plan, so no renames are searched either."""

    _findings: _Findings

    def noting(self, findings: _Findings) -> Policy:
        """Record differences in ``findings``; return the policy itself."""
        self._findings = findings
        self.times = _AnyTimes()
        return self

    @property
    def quick(self) -> bool:
        return False

    def read_rules(self, here: Directory, fd: int, theirs: Table[Entry]) -> bytes:
        if not self._findings.options.ignore_files:
            return b""
        return super().read_rules(here, fd, theirs)  # type: ignore[safe-super]  # a mixin

    def make_root(self, source: Entry, rules: Filter) -> Directory | None:
        shown = self._route.shown_target()
        raise NotFound(f"{shown}: no such directory")  # it was removed meanwhile

    def meet(self, here: Directory, local: Entry, there: Entry) -> None:
        if local.type != there.type:  # also if one of them is "other"
            self._change_type(here, join(here.path, local.path), *self.pair(local, there))
        else:
            super().meet(here, local, there)

    def not_compared(
        self, here: Directory, local: Entry, there: Entry, error: OSError | CommandError
    ) -> None:
        path = join(here.path, local.path)
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(self._route.local_path(path)))
        self._findings.unreadable(path, error)

    def _unchanged(self, path: bytes, source: Entry) -> None:
        self._findings.add(path, "same", source.type)

    def _same_bytes(self, path: bytes, source: Entry, target: Entry) -> None:
        self._compare_modes(path, source, target)

    def _compare_modes(self, path: bytes, source: Entry, target: Entry) -> None:
        why = self._attributes_differ(path, source, target)
        self._findings.add(path, "differs" if why else "same", source.type, why)

    def _transfer(
        self,
        here: Directory,
        path: bytes,
        source: Entry,
        why: str,
        target: Entry | None = None,
    ) -> None:
        self._findings.add(path, "differs", source.type, why)

    def _change_type(self, here: Directory, path: bytes, source: Entry, target: Entry) -> None:
        self._findings.add(path, "differs", source.type, "type")

    def only_here(self, here: Directory, local: Entry, replacement: Entry | None = None) -> None:
        if not is_partial(local):
            self._findings.only_one_has(join(here.path, local.path), local.type, here=True)

    def _only_there(self, here: Directory, name: bytes, there: Entry) -> None:
        self._findings.only_one_has(join(here.path, name), there.type, here=False)

    def went_away(self, above: Directory, path: bytes, gone: Awaited, rules: Filter) -> None:
        self._findings.only_one_has(path, "dir", here=True)

    def left(self, here: Directory) -> None:
        if here.path:  # not the roots: their attributes and names are not compared
            assert here.source is not None and here.target is not None
            source = self._granted(here.path, here.source, here.target)
            self._compare_modes(here.path, source, here.target)


class _CheckToServer(_Noting, ToServer):
    """A check whose first tree is the local one."""


class _CheckFromServer(_Noting, FromServer):
    """A check whose first tree is the remote one."""
