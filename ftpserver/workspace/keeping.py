"""Which operation of the trash a session's requests belong to.

Lives here: what the client has said of its command, and the name that goes with it, for as long as
the session has it.
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
"""So long one operation takes what comes from a client that says none."""


class Keeping:
    """What a session's requests are an operation of. For one thread.

    Args:
        user: The account's name.
        make_room: See `Operation`.
    """

    def __init__(
        self,
        quota_store: QuotaStore,
        account_id: int,
        user: str,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self._quota_store = quota_store
        self._account_id = account_id
        self._user = user
        self._make_room = make_room
        self._said = messages.Operation()
        self._name: str | None = None
        self._begun = 0.0

    @property
    def said(self) -> messages.Operation:
        """What the client has said last; without an ``id`` where it has said none."""
        return self._said

    @property
    def name(self) -> str | None:
        """The name in the trash of what is there of it; None: nothing is yet."""
        return self._name

    def begin(self, request: messages.Operation) -> None:
        """The following requests belong to another command, or to none."""
        self._said, self._name = request, None

    def open(self, home: Home, policy: Policy) -> Operation | None:
        """The operation that things go to now; None: they are gone for good.

        Args:
            policy: What holds for the account at this moment.
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
        operation.make_room = self._make_room
        return operation

    def command(self, undoes: str | None = None) -> Command:
        """What the client has said, as it is written down.

        Args:
            undoes: The operation that it restores from.
        """
        said = self._said
        return Command(self._account_id, self._user, said.words, said.id, said.client, undoes)

    @property
    def make_room(self) -> Callable[[], bool]:
        """See `Operation`."""
        return self._make_room

    def _ask_name(self) -> str:
        if self._name is None:
            self._name = self._quota_store.operation(self._account_id, self._said.id)
            self._begun = time.monotonic()
        return self._name

    def _ask_another(self, alone: bool) -> str:
        """The name of another operation for the same command; for this session only if ``alone``,
        else the other sessions of the command find it as well."""
        if self._name is not None and not alone:
            self._quota_store.close_operation(self._account_id, self._name)
        self._name = self._quota_store.operation(self._account_id, None if alone else self._said.id)
        self._begun = time.monotonic()
        return self._name
