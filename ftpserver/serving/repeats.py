"""Requests that are sent again because their reply was lost: the reply is repeated, not the work.

Lives here: what one session does about the numbers of its requests. Lives elsewhere: the stored
replies (storage/ledger.py), requests under way in other sessions (storage/request_numbers.py), what
the trash knows of a request (storage/trash/repeating.py), sending requests again (ftpclient).

A number is claimed before the work. After the work the reply is stored, then sent, and the number
is released. So a retry finds the reply, or waits for the session that handles the request, or may
do the work. The decisions are in docs/decisions/0030-repeated-answers.md.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ftpserver.storage.quota import NOT_NOW
from ftpserver.storage.request_numbers import RequestNumbers
from ftpserver.storage.trash.repeating import done_before
from ftpwire import messages
from ftpwire.errors import (
    BY_CODE,
    BadMessage,
    Busy,
    Cancelled,
    DiskFailed,
    DiskFull,
    DiskGone,
    FtpError,
    Internal,
    NotLoggedIn,
    QuotaExceeded,
    ReadOnly,
    TooMany,
)
from ftpwire.messages import ChangeFor, Failed, Message

if TYPE_CHECKING:
    from ftpserver.audit.context import AuditContext
    from ftpserver.storage.batch import Outcome
    from ftpserver.storage.quota import QuotaStore
    from ftpserver.workspace.workspace import Workspace

logger = logging.getLogger("ftpd.repeats")

NOT_THE_LAST_WORD = (
    *(Busy, Cancelled, TooMany, Internal, NotLoggedIn),
    *(QuotaExceeded, DiskFull, DiskGone, DiskFailed, ReadOnly),
)
"""Failures that say "not now": a retry does the work again instead of getting the failure again."""
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOTED_AT_ONCE = 1000
MAX_RECORDED = 10_000
"""Numbers that stay claimed for a lost connection that may still have requests to handle. Each
takes memory, here and in the kernel, which searches all of them at each claim."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two checks whether another session has finished a request."""


class Waiting(Protocol):
    """The session's exchange, as far as this module uses it."""

    def commit(self) -> None:
        """Commit the changes in the batch."""

    def will_block(self) -> None:
        """Announce that the next step takes long."""

    def look_for_cancel(self) -> None:
        """Check for a cancel. Raises Cancelled."""

    def progressed(self, count: int) -> None:
        """Note work. Raises SessionEnded if the session is to end."""


class Repeats:
    """The numbered requests of one session. For its thread.

    Args:
        quota_store: The store of the replies.
    """

    def __init__(
        self, exchange: Waiting, audit_context: AuditContext, quota_store: QuotaStore
    ) -> None:
        self._exchange = exchange
        self._audit_context = audit_context
        self._quota_store = quota_store
        self._key: bytes | None = None
        self._numbers: RequestNumbers | None = None
        self._current = 0
        """The number of the request under way; 0 if its reply need not be stored."""
        self._waiting: list[tuple[int, int]] = []
        """The request ids and numbers of what waits in the batch."""
        self._recorded: dict[int, None] = {}
        """Numbers that were retried in this session, the earliest first. They stay claimed: the
        session of the lost connection may still have these requests to handle, and has to see that
        they are done."""

    def begin_operation(self, key: bytes | None) -> None:
        """Use the numbers of another operation from now on; None for requests without one."""
        if key != self._key:
            self.close()
            self._key = key

    def begin(self, workspace: Workspace, request: Message) -> Message | None:
        """Claim the number of a request that is about to be done.

        Returns:
            The stored reply if it was done before: then it isn't done again.

        Raises:
            Cancelled, SessionEnded: While waiting for another session that handles it.
            OSError: What the trash knows of it cannot be read.
        """
        key, number = self._key, request.number if isinstance(request, ChangeFor) else 0
        if key is None or not number:
            return None
        again = request.again  # type: ignore[attr-defined]  # it has a number
        if again:
            self._exchange.commit()  # the request may be in this session's own batch
        # Claimed before the stored replies are read. A session that finishes the request stores the
        # reply before it releases the number: so after a claim a missing reply means not done.
        claimed = self._claim(workspace, key, number)
        if claimed and not again:
            self._current = number
            return None
        try:
            reply = self._noted(workspace, key, number)
            if reply is None and not claimed:
                reply = self._wait_for(workspace, key, number)
                claimed = reply is None
        except BaseException:  # release it for the next retry, on any connection
            if claimed and number not in self._recorded:
                self._let_go(number)
            raise
        if claimed:
            self._keep(number)
        if reply is not None:
            self._audit_context.repeated()
            return reply
        self._current = number
        return done_before(
            workspace.home, lambda: self._quota_store.operation(workspace.account.id, key), request
        )

    def _keep(self, number: int) -> None:
        """Keep a number claimed until the session ends, or too many are."""
        self._recorded.pop(number, None)
        self._recorded[number] = None
        if len(self._recorded) > MAX_RECORDED:
            earliest = next(iter(self._recorded))
            del self._recorded[earliest]
            self._let_go(earliest)

    def _let_go(self, number: int) -> None:
        if self._numbers is not None:
            self._numbers.give_back([number])

    def _claim(self, workspace: Workspace, key: bytes, number: int) -> bool:
        """Claim a number. Returns True also if claims are impossible."""
        if self._numbers is None:
            home = workspace.home
            if home.read_only:
                return True  # nothing will be changed
            try:
                self._numbers = RequestNumbers(home, workspace.account.id, key)
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                return True  # a full disk must not prevent removals
        return self._numbers.claim(number)

    def _wait_for(self, workspace: Workspace, key: bytes, number: int) -> Message | None:
        """Wait for the session that handles a request, and return its reply. None if it has ended
        without one: then the number is claimed."""
        exchange, pause = self._exchange, _FIRST_PAUSE
        exchange.commit()  # that session may wait for one of these in turn
        exchange.will_block()
        while not self._claim(workspace, key, number):
            reply = self._noted(workspace, key, number)
            if reply is not None:
                return reply
            exchange.progressed(0)
            exchange.look_for_cancel()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._noted(workspace, key, number)

    def _noted(self, workspace: Workspace, key: bytes, number: int) -> Message | None:
        """Return the stored reply; None if there is none."""
        noted = self._quota_store.answer(workspace.account.id, key, number)
        if noted is None:
            return None
        try:
            return messages.decode_answer(noted)
        except BadMessage as error:  # stored by another version of the server
            logger.warning("%s: a stored reply cannot be read: %s", workspace, error)
            return None

    # its reply ---------------------------------------------------------------------------

    def joined(self, request_id: int) -> None:
        """Note that the request under way, or its reply, waits in the batch."""
        if self._key is not None:
            self._waiting.append((request_id, self._current))
        self._current = 0

    def answered(self, workspace: Workspace | None, reply: Message) -> None:
        """Store the reply to the request under way, before it is sent."""
        number, self._current = self._current, 0
        if number and workspace is not None:
            self._note(workspace, [(number, reply)])

    def committed(self, workspace: Workspace, outcomes: Sequence[Outcome]) -> None:
        """Store the replies of a committed batch, before they are sent."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rest = iter(waiting)
        answers = []
        for request_id, outcome in outcomes:
            for waiting_id, number in rest:
                if waiting_id == request_id:
                    if number and isinstance(outcome, Message):
                        answers.append((number, outcome))
                    break
        if answers:
            self._note(workspace, answers)

    def _note(self, workspace: Workspace, answers: Sequence[tuple[int, Message]]) -> None:
        # The reply is stored before the number is released, in this order: see `begin`.
        assert self._key is not None
        self._exchange.will_block()  # the database may wait for other processes
        last = [(number, reply) for number, reply in answers if _is_the_last_word(reply)]
        done = {number for number, _ in answers}
        noted = [(number, messages.encode(reply)) for number, reply in last]
        try:
            for at in range(0, len(noted), _NOTED_AT_ONCE):
                some = noted[at : at + _NOTED_AT_ONCE]
                self._quota_store.note_answers(workspace.account.id, self._key, some)
        except NOT_NOW as error:  # the work is done all the same: the numbers stay claimed
            logger.warning("%s: replies could not be stored: %s", workspace, error)
            done -= {number for number, _ in last}
        for number in done - {number for number, _ in last}:
            self._recorded.pop(number, None)
        if self._numbers is not None:
            self._numbers.give_back(done - self._recorded.keys())

    # its end -----------------------------------------------------------------------------

    def go_idle(self) -> None:
        """Close what is open after a while without requests, if it isn't needed."""
        if not self._recorded:
            self._give_back()

    def close(self) -> None:
        """Release all claimed numbers. Can be called twice."""
        self._recorded.clear()
        self._waiting.clear()
        self._give_back()

    def _give_back(self) -> None:
        numbers, self._numbers = self._numbers, None
        if numbers is not None:
            numbers.close()


def _is_the_last_word(reply: Message) -> bool:
    """Return whether a retry gets this reply again."""
    if not isinstance(reply, Failed):
        return True
    kind: type[FtpError] = BY_CODE.get(reply.code, Internal)
    return not issubclass(kind, NOT_THE_LAST_WORD)
