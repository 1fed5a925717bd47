"""The target of a sync from the server: a local directory.

Lives here: carrying out the steps of a plan.
Lives elsewhere: choosing and ordering the steps (job.py), transferring bytes
(transfer/download.py), confinement (transfer/local_tree.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ftpclient.sync.apply import Replica
from ftpclient.sync.directories import parts_of
from ftpclient.sync.plan import Plan, Step
from ftpclient.transfer import preflight
from ftpclient.transfer.download import Download
from ftpclient.transfer.file_call import Item
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.run_size import MOST_EACH
from ftpwire import beneath, paths
from ftpwire.errors import CommandError, SourceChanged, from_oserror


class LocalReplica(Replica[Download]):
    """A local directory. No link below it is followed."""

    _transfer_class = Download
    _opened: LocalTree | None = None

    def check_space(self, plan: Plan, growth: int, undone: str) -> None:
        local = self._route.local

        def parts() -> int:
            """Return how many bytes an earlier try has transferred."""
            return sum(preflight.part_of(local, parts_of(step.path)) for step in plan.transfers)

        preflight.check_get(local, growth, parts, undone)

    @property
    def _tree(self) -> LocalTree:
        if self._opened is None:
            self._opened = LocalTree(self._route.local)
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def make_root(self) -> None:
        try:
            os.makedirs(self._route.local, exist_ok=True)
        except OSError as error:
            raise from_oserror(error, paths.show(self._route.local)) from None

    def make_dir(self, step: Step) -> None:
        assert step.mode is not None
        mode = step.mode
        self._do(step, lambda parts: self._tree.make_dir(parts, mode))

    def remove(self, step: Step) -> None:
        def remove(parts: tuple[bytes, ...]) -> None:
            try:
                there = self._tree.stat(parts)
                if there and step.mtime_ns not in (None, beneath.clamped_mtime_ns(there)):
                    raise SourceChanged("changed since the comparison, so it is not deleted")
                self._tree.remove(parts)
            except FileNotFoundError:
                pass  # another process has removed it already

        self._do(step, remove)

    def rename(self, step: Step) -> None:
        raise AssertionError("renamed files are found for uploads only")

    def send(self, step: Step) -> None:
        self._connection.check()
        source, shown = self._route.remote_path(step.path), self._route.local_path(step.path)
        transfer, entry, parts = self.transfer, step.entry, parts_of(step.path)
        workers, top = transfer.workers, self._route.local
        workers.expect(step.size)
        if workers.pool is None or workers.for_pieces(step.size, self._connection):
            transfer.add_below(Item(source, shown, self._tree, parts), entry)
            return
        workers.pool.give(
            lambda worker: worker.get_for(transfer, top, source, entry, shown, parts, follow=True),
            small=step.size <= MOST_EACH,
        )

    def set_attributes(self, step: Step) -> None:
        def set_them(parts: tuple[bytes, ...]) -> None:
            if step.type != "dir":
                self._tree.set_attributes(parts, step.mode, step.mtime_ns)
            elif step.mode is not None and step.mtime_ns is not None:
                self._tree.finish_dir(parts, step.mode, step.mtime_ns)
            elif step.mode is not None:
                self._tree.open_for_owner(parts)

        self._do(step, set_them)

    def _do(self, step: Step, action: Callable[[tuple[bytes, ...]], object]) -> None:
        self._connection.check()
        error: CommandError | None = None
        try:
            action(parts_of(step.path))
        except OSError as failure:
            shown = self._route.local_path(step.path)
            error = self._tree.failure(failure, shown) if self._opened is not None else None
            error = error or from_oserror(failure, paths.show(shown))
        except CommandError as failure:
            error = failure
        self._done(step, error)
