"""The target of a sync: doing the steps of a plan, on the server or here.

Lives here: one class for each of the two, with the same verbs.
Lives elsewhere: which steps, and in which order (job.py), moving bytes (transfer/upload.py,
transfer/download.py), confinement (transfer/local_tree.py).

On the server nothing waits for its answer until ``settle``: a step costs no round trip.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.sync.plan import Route, Step
from ftpclient.transfer.download import Download
from ftpclient.transfer.job import Options, Transfer
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.report import Listener
from ftpclient.transfer.upload import Upload
from ftpwire import paths
from ftpwire.errors import CommandError, FtpError, NotFound, from_oserror
from ftpwire.messages import MakeDir, Move, Remove, Request, SetAttributes

Done = Callable[[Step, FtpError | None], None]
"""Hears of a step's end. Of transfers the listener does."""


class Target(ABC):
    """Where the steps are done.

    Attributes:
        transfer: What moves the bytes.
    """

    transfer: Transfer

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


class RemoteTarget(Target):
    """The server."""

    def __init__(
        self,
        connection: Connection,
        route: Route,
        options: Options,
        listener: Listener,
        done: Done,
    ) -> None:
        self.transfer = self._upload = Upload(connection, options, listener)
        self._connection = connection
        self._route = route
        self._done = done

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
        self._upload.add(self._route.local_path(step.path), self._route.remote_path(step.path))

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


class LocalTarget(Target):
    """A directory here. No link below it is followed."""

    def __init__(
        self,
        connection: Connection,
        route: Route,
        options: Options,
        listener: Listener,
        done: Done,
    ) -> None:
        self.transfer = self._download = Download(connection, options, listener)
        self._connection = connection
        self._route = route
        self._done = done
        self._opened: LocalTree | None = None

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
        self._download.add_below(
            self._route.remote_path(step.path),
            step.entry,
            self._route.local_path(step.path),
            self._tree,
            _parts(step),
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
            action(_parts(step))
        except OSError as failure:
            shown = self._route.local_path(step.path)
            error = self._tree.failure(failure, shown) if self._opened is not None else None
            error = error or from_oserror(failure, paths.show(shown))
        except CommandError as failure:
            error = failure
        self._done(step, error)


def _parts(step: Step) -> tuple[bytes, ...]:
    """Names that came from here, or were checked when the plan was made."""
    return tuple(step.path.split(b"/")) if step.path else ()
