"""The target of a sync: carrying out the steps of a plan, on the server or locally.

Lives here: what both targets have in common.
Lives elsewhere: each of the two (remote_replica.py, local_replica.py), choosing and ordering the
steps (job.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from ftpclient.connection.connection import Connection
from ftpclient.sync.plan import Plan, Route, Step
from ftpclient.transfer.job import Options, Transfer
from ftpclient.transfer.report import Listener
from ftpwire.errors import FtpError
from ftpwire.messages import Removed


class Done(Protocol):
    """Called when a step has ended. For transfers, the listener is notified instead."""

    def __call__(
        self, step: Step, error: FtpError | None, removed: Removed | None = None, /
    ) -> None:
        """Args: removed: The server's reply about something it removed."""


_Transfer = TypeVar("_Transfer", bound=Transfer)


class Replica(ABC, Generic[_Transfer]):
    """The target of a sync, which is made equal to the source.

    Args:
        done: Called at the end of each step that is not a transfer.

    Attributes:
        transfer: The upload or download that transfers the files.
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
    def check_space(self, plan: Plan, growth: int, undone: str) -> None:
        """Refuse, before the first byte, a plan that does not fit.

        Args:
            growth: The bytes that it adds.
            undone: The end of the message.

        Raises:
            QuotaExceeded, DiskFull
        """

    @abstractmethod
    def make_root(self) -> None:
        """Make the target directory, and missing ones above it. Raises OSError, CommandError."""

    @abstractmethod
    def make_dir(self, step: Step) -> None:
        """Make a directory that its owner can write to for now."""

    @abstractmethod
    def remove(self, step: Step) -> None:
        """Remove a file, a link, or a directory with everything in it."""

    @abstractmethod
    def rename(self, step: Step) -> None:
        """Move a file to another path in the target, and set attributes that differ."""

    @abstractmethod
    def send(self, step: Step) -> None:
        """Transfer a file or link."""

    @abstractmethod
    def set_attributes(self, step: Step) -> None:
        """Set a mode, an mtime, or both."""

    def settle(self) -> None:
        """Wait until all steps are done."""
        self.transfer.settle()

    def close(self) -> None:  # noqa: B027
        """Close descriptors."""
