"""The operation of the trash that a session's requests belong to.

Lives here: what the client has said about its command, and the name of the operation.
Lives elsewhere: the operation's directory (storage/trash/operation.py), names (storage/ledger.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpserver.storage.home import Home
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.trash.operation import Command, Operation
from ftpserver.storage.trash.policy import Policy
from ftpwire import messages

_UNSAID_SECONDS = 600.0
"""Seconds that one operation is used for a client that announces none."""


class Keeping:
    """Keeps track of the operation that a session's requests belong to. For one thread.

    Args:
        user: The account's name.
        free_space: See `Operation`.
    """

    def __init__(
        self,
        quota_store: QuotaStore,
        account_id: int,
        user: str,
        free_space: Callable[[], bool] = lambda: False,
    ) -> None:
        self._quota_store = quota_store
        self._account_id = account_id
        self._user = user
        self._free_space = free_space
        self._said = messages.Operation()
        self._name: str | None = None
        self._begun = 0.0

    @property
    def said(self) -> messages.Operation:
        """The operation that the client has announced last; without an ``id`` if it has announced
        none."""
        return self._said

    @property
    def name(self) -> str | None:
        """The operation's name in the trash; None if nothing was added to it yet."""
        return self._name

    def begin(self, request: messages.Operation) -> None:
        """Begin another operation: the following requests belong to it, or to none."""
        self._said, self._name = request, None

    def open(self, home: Home, policy: Policy) -> Operation | None:
        """Return the operation that keeps what is removed and replaced now; None if nothing is
        kept.

        Args:
            home: The account's home.
            policy: The account's present policy.
        """
        said = self._said
        if not policy.on or not said.keep:
            return None
        if said.id is None and self._name and time.monotonic() - self._begun > _UNSAID_SECONDS:
            self._name = None
        command = self.command()
        there = home.operation
        keeps = policy.versions > 0
        if there is not None and there.command == command and there.name == self._name:
            there.keep_replaced = keeps
            return there
        operation = Operation(
            home, command, self._ask_name, another=self._ask_another, keep_replaced=keeps
        )
        operation.free_space = self._free_space
        return operation

    def command(self, undoes: str | None = None) -> Command:
        """Return what is recorded about the client's command.

        Args:
            undoes: The operation that the command restores from.
        """
        said = self._said
        return Command(self._account_id, self._user, said.words, said.id, said.client, undoes)

    @property
    def free_space(self) -> Callable[[], bool]:
        """See `Operation`."""
        return self._free_space

    def _ask_name(self) -> str:
        if self._name is None:
            self._name = self._quota_store.operation(self._account_id, self._said.id)
            self._begun = time.monotonic()
        return self._name

    def _ask_another(self, alone: bool) -> str:
        """Return the name of another operation for the same command.

        Args:
            alone: True if only this session may use it; False if the other sessions of the command
                are to use it, too.
        """
        if self._name is not None and not alone:
            self._quota_store.close_operation(self._account_id, self._name)
        self._name = self._quota_store.operation(self._account_id, None if alone else self._said.id)
        self._begun = time.monotonic()
        return self._name
