"""The target of a sync: doing the steps of a plan, on the server or here.

Lives here: one class for each of the two, with the same verbs; whether a plan fits there.
Lives elsewhere: which steps, and in which order (job.py), moving bytes (transfer/upload.py,
transfer/download.py), confinement (transfer/local_tree.py).

On the server nothing waits for its answer until ``settle``: a step costs no round trip.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from ftpclient.connection.connection import Call, Connection
from ftpclient.sync.directories import parts_of
from ftpclient.sync.plan import Plan, Route, Step
from ftpclient.transfer import preflight
from ftpclient.transfer.download import Download
from ftpclient.transfer.file_call import Item
from ftpclient.transfer.job import Options, Transfer
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.report import Listener
from ftpclient.transfer.upload import Upload
from ftpwire import paths
from ftpwire.errors import CommandError, FtpError, NotFound, from_oserror
from ftpwire.messages import MakeDir, Move, Remove, Request, Room, SetAttributes, Space

Done = Callable[[Step, FtpError | None], None]
"""Hears of a step's end. Of transfers the listener does."""


_Transfer = TypeVar("_Transfer", bound=Transfer)


class Replica(ABC, Generic[_Transfer]):
    """Where the steps are done: what becomes the same as the source.

    Args:
        done: Hears of the end of each step that is no transfer.

    Attributes:
        transfer: What moves the bytes.
    """

    _transfer_class: type[_Transfer]

    def __init__(
        self,
        connection: Connection,
        route: Route,
        options: Options,
        listener: Listener,
        done: Done,
    ) -> None:
        self.transfer = self._transfer_class(connection, options, listener)
        self._connection = connection
        self._route = route
        self._done = done

    @abstractmethod
    def check_room(self, plan: Plan, growth: int, undone: str) -> None:
        """Have a plan that can't fit refused before its first byte.

        Args:
            growth: Bytes that it adds.
            undone: What the refusal says besides.

        Raises:
            QuotaExceeded, DiskFull
        """

    @abstractmethod
    def make_root(self) -> None:
        """Make the target itself, and what is above it. Raises OSError, CommandError."""

    @abstractmethod
    def make_dir(self, step: Step) -> None:
        """Make a directory that can be written into for now."""

    @abstractmethod
    def remove(self, step: Step) -> None:
        """Remove something, with all that is in it."""

    @abstractmethod
    def rename(self, step: Step) -> None:
        """Move a file to another place in the target, and set what differs."""

    @abstractmethod
    def send(self, step: Step) -> None:
        """Transfer a file or link."""

    @abstractmethod
    def set_attributes(self, step: Step) -> None:
        """Set a mode, an mtime, or both."""

    def settle(self) -> None:
        """Wait until all of it is done."""
        self.transfer.settle()

    def close(self) -> None:  # noqa: B027
        """Give descriptors back."""


class RemoteReplica(Replica[Upload]):
    """A directory on the server."""

    _transfer_class = Upload

    def check_room(self, plan: Plan, growth: int, undone: str) -> None:
        reply = self._connection.ask(Space())
        assert isinstance(reply, Room)
        preflight.check(reply, growth, undone)

    def make_root(self) -> None:
        try:
            mode = os.stat(self._route.local).st_mode & 0o777
        except OSError as error:
            raise from_oserror(error, paths.show(self._route.local)) from None
        self._connection.ask(MakeDir(self._route.remote, mode | 0o700, parents=True))

    def make_dir(self, step: Step) -> None:
        assert step.mode is not None
        path = self._route.remote_path(step.path)
        self._ask(step, MakeDir(path, step.mode | 0o700, parents=True, fill=True))

    def remove(self, step: Step) -> None:
        path = self._route.remote_path(step.path)
        self._ask(step, Remove(path, recursive=step.type == "dir"))

    def rename(self, step: Step) -> None:
        path = self._route.remote_path(step.path)
        move = _StepCall(step, self._done)
        self._connection.submit(move, Move(self._route.remote_path(step.source), path, "never"))
        if step.mode is not None or step.mtime_ns is not None:
            dressing = _StepCall(Step("attributes", step.path), self._done, after=move)
            self._connection.submit(dressing, SetAttributes(path, step.mode, step.mtime_ns))

    def send(self, step: Step) -> None:
        self.transfer.add(self._route.local_path(step.path), self._route.remote_path(step.path))

    def set_attributes(self, step: Step) -> None:
        path = self._route.remote_path(step.path)
        self._ask(step, SetAttributes(path, step.mode, step.mtime_ns))

    def _ask(self, step: Step, request: Request) -> None:
        self._connection.submit(_StepCall(step, self._done), request)


class _StepCall(Call):
    """A step on its way. Nobody hears of it when the one that it depended on has failed."""

    def __init__(self, step: Step, done: Done, *, after: Call | None = None) -> None:
        super().__init__()
        self._step = step
        self._tell = done
        self._after = after

    def on_done(self) -> None:
        if self._after is not None and self._after.error is not None:
            return
        error = self.error
        if self._step.action == "delete" and isinstance(error, NotFound):
            error = None  # somebody else was quicker
        self._tell(self._step, error)


class LocalReplica(Replica[Download]):
    """A directory here. No link below it is followed."""

    _transfer_class = Download
    _opened: LocalTree | None = None

    def check_room(self, plan: Plan, growth: int, undone: str) -> None:
        local = self._route.local

        def parts() -> int:
            """Bytes that an earlier try has brought."""
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
                self._tree.remove(parts)
            except FileNotFoundError:
                pass  # somebody else was quicker

        self._do(step, remove)

    def rename(self, step: Step) -> None:
        raise AssertionError("renamed files are found for uploads only")

    def send(self, step: Step) -> None:
        self._connection.check()
        source, shown = self._route.remote_path(step.path), self._route.local_path(step.path)
        item = Item(source, shown, self._tree, parts_of(step.path))
        self.transfer.add_below(item, step.entry)

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


AnyReplica = RemoteReplica | LocalReplica


def replica_for(
    connection: Connection, route: Route, options: Options, listener: Listener, done: Done
) -> AnyReplica:
    """That of a sync's direction."""
    kind = RemoteReplica if route.upload else LocalReplica
    return kind(connection, route, options, listener, done)
