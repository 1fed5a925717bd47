"""Requests that come again because their answer was lost: it is repeated instead of the work.

Lives here: what one session does about the numbers of its requests. Lives elsewhere: the answers
themselves (storage/ledger.py), what is under way elsewhere (storage/request_numbers.py), what the
trash knows of a request (storage/trash/repeating.py), who asks again (ftpclient).

The number is claimed before the work. After the work the answer is noted, then sent, and the number
is given back. So whoever asks again finds the answer, or waits for whoever is at the request, or
may do it. The decisions are in docs/decisions/0030-repeated-answers.md.
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
"""Failures that say "not now": who asks again is not told these once more, but it is tried."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOTED_AT_ONCE = 1000
MOST_KEPT = 10_000
"""Numbers that stay claimed for a lost connection, which has no more before itself. Each of them
takes memory, here and in the kernel, which looks through all of them for each claim."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two looks whether another session is done with a request."""


class Waiting(Protocol):
    """The session's exchange, as far as this module knows it."""

    def commit(self) -> None:
        """Finish the changes that wait in the batch."""

    def will_block(self) -> None:
        """What follows takes its time."""

    def look_for_cancel(self) -> None:
        """Raises Cancelled."""

    def progressed(self, count: int) -> None:
        """Raises SessionEnded."""


class Repeats:
    """The numbered requests of one session. For its thread.

    Args:
        quota_store: Where answers are noted.
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
        """The number of the request under way; 0: none that has to be noted."""
        self._waiting: list[tuple[int, int]] = []
        """What waits in the batch: its request ids, and their numbers."""
        self._kept: dict[int, None] = {}
        """Numbers that were asked for again here, the earliest first. They stay claimed: the
        session of the lost connection may have these requests still before itself, and has to see
        that they are done."""

    def begin_operation(self, key: bytes | None) -> None:
        """Numbers are those of another operation from here on; None: of none."""
        if key != self._key:
            self.close()
            self._key = key

    def begin(self, workspace: Workspace, request: Message) -> Message | None:
        """A request is about to be done: claim its number.

        Returns:
            Its answer, where it was done before: then it isn't done again.

        Raises:
            Cancelled, SessionEnded: While another session was waited for that is at it.
            OSError: What the trash knows of it can't be read.
        """
        key, number = self._key, request.number if isinstance(request, ChangeFor) else 0
        if key is None or not number:
            return None
        again = request.again  # type: ignore[attr-defined]  # it has a number
        if again:
            self._exchange.commit()  # it may be among these
        claimed = self._claim(workspace, key, number)
        if claimed and not again:
            self._current = number
            return None
        try:
            told = self._noted(workspace, key, number)
            if told is None and not claimed:
                told = self._wait_for(workspace, key, number)
                claimed = told is None
        except BaseException:  # whoever asks once more, over whatever connection, may have it
            if claimed and number not in self._kept:
                self._let_go(number)
            raise
        if claimed:
            self._keep(number)
        if told is not None:
            self._audit_context.repeated()
            return told
        self._current = number
        return done_before(
            workspace.home, lambda: self._quota_store.operation(workspace.account.id, key), request
        )

    def _keep(self, number: int) -> None:
        """Let a number stay claimed."""
        self._kept.pop(number, None)
        self._kept[number] = None
        if len(self._kept) > MOST_KEPT:
            earliest = next(iter(self._kept))
            del self._kept[earliest]
            self._let_go(earliest)

    def _let_go(self, number: int) -> None:
        if self._numbers is not None:
            self._numbers.give_back([number])

    def _claim(self, workspace: Workspace, key: bytes, number: int) -> bool:
        """Claim a number; True also where that can't be done."""
        if self._numbers is None:
            home = workspace.home
            if home.read_only:
                return True  # nothing is going to be changed
            try:
                self._numbers = RequestNumbers(home, workspace.account.id, key)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                return True  # removing is what mends that
        return self._numbers.claim(number)

    def _wait_for(self, workspace: Workspace, key: bytes, number: int) -> Message | None:
        """Wait for the session that is at a request: for its answer; None: it has ended without
        one, and the number is claimed."""
        exchange, pause = self._exchange, _FIRST_PAUSE
        exchange.commit()  # it may wait for one of these in turn
        exchange.will_block()
        while not self._claim(workspace, key, number):
            told = self._noted(workspace, key, number)
            if told is not None:
                return told
            exchange.progressed(0)
            exchange.look_for_cancel()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._noted(workspace, key, number)

    def _noted(self, workspace: Workspace, key: bytes, number: int) -> Message | None:
        """The answer that was noted; None without one."""
        noted = self._quota_store.answer(workspace.account.id, key, number)
        if noted is None:
            return None
        try:
            return messages.decode_answer(noted)
        except BadMessage as error:  # by another version of the server
            logger.warning("%s: a noted answer can't be read: %s", workspace, error)
            return None

    # its answer --------------------------------------------------------------------------

    def joined(self, request_id: int) -> None:
        """The request under way waits in the batch, or its answer does."""
        if self._key is not None:
            self._waiting.append((request_id, self._current))
        self._current = 0

    def answered(self, workspace: Workspace | None, reply: Message) -> None:
        """The request under way is done: note its answer, before it is sent."""
        number, self._current = self._current, 0
        if number and workspace is not None:
            self._note(workspace, [(number, reply)])

    def committed(self, workspace: Workspace, outcomes: Sequence[Outcome]) -> None:
        """The batch is done: note its answers, before they are sent."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rest = iter(waiting)
        answers = []
        for request_id, outcome in outcomes:
            for asked_id, number in rest:
                if asked_id == request_id:
                    if number and isinstance(outcome, Message):
                        answers.append((number, outcome))
                    break
        if answers:
            self._note(workspace, answers)

    def _note(self, workspace: Workspace, answers: Sequence[tuple[int, Message]]) -> None:
        assert self._key is not None
        self._exchange.will_block()  # the books may wait for other processes
        last = [(number, reply) for number, reply in answers if _is_the_last_word(reply)]
        done = {number for number, _ in answers}
        noted = [(number, messages.encode(reply)) for number, reply in last]
        try:
            for at in range(0, len(noted), _NOTED_AT_ONCE):
                some = noted[at : at + _NOTED_AT_ONCE]
                self._quota_store.note_answers(workspace.account.id, self._key, some)
        except NOT_NOW as error:  # it is done all the same; the numbers stay claimed
            logger.warning("%s: answers could not be noted: %s", workspace, error)
            done -= {number for number, _ in last}
        for number in done - {number for number, _ in last}:
            self._kept.pop(number, None)
        if self._numbers is not None:
            self._numbers.give_back(done - self._kept.keys())

    # its end -----------------------------------------------------------------------------

    def go_idle(self) -> None:
        """Nothing was asked for some time: close what is open, if it isn't needed."""
        if not self._kept:
            self._give_back()

    def close(self) -> None:
        """Give back all that is claimed. Can be called twice."""
        self._kept.clear()
        self._waiting.clear()
        self._give_back()

    def _give_back(self) -> None:
        numbers, self._numbers = self._numbers, None
        if numbers is not None:
            numbers.close()


def _is_the_last_word(reply: Message) -> bool:
    """Whether whoever asks again gets the same answer."""
    if not isinstance(reply, Failed):
        return True
    kind: type[FtpError] = BY_CODE.get(reply.code, Internal)
    return not issubclass(kind, NOT_THE_LAST_WORD)
