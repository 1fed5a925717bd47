"""The target of a sync: doing the steps of a plan, on the server or here.

Lives here: what both have in common. Lives elsewhere: each of the two (remote_replica.py,
local_replica.py), which steps, and in which order (job.py).
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
    """Hears of a step's end. Of transfers the listener does."""

    def __call__(
        self, step: Step, error: FtpError | None, removed: Removed | None = None, /
    ) -> None:
        """Args: removed: What a server has said of something that it removed."""


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
