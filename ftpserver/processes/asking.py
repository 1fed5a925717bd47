"""Asking several workers at once, for as long as somebody waits for the answer.

Lives here: the questions' way, and who is left out. Lives elsewhere: what is asked (supervisor.py),
the way of one question (rpc.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeVar

import msgspec

from ftpserver.errors import StateError
from ftpserver.processes.child_process import WorkerHandle
from ftpserver.processes.rpc import Carried, PeerGone
from ftpwire.errors import FtpError

logger = logging.getLogger("ftpd.workers")

ANSWER_SECONDS = 8.0
"""That a worker gets to answer; then the answer is given without it. Less than who asks the server
waits for (daemon/control.py)."""
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


def ask_all(
    workers: Sequence[WorkerHandle], question: msgspec.Struct, kind: type[_Answer]
) -> list[tuple[WorkerHandle, _Answer | None]]:
    """What each of those that can serve answers; None where it doesn't in time."""
    futures = [(one, one.peer.ask_later(question)) for one in workers if one.ready]
    until = time.monotonic() + ANSWER_SECONDS
    return [(one, _result(one, future, kind, until)) for one, future in futures]


def _result(
    worker: WorkerHandle, future: Future[Carried], kind: type[_Answer], until: float
) -> _Answer | None:
    try:
        answer = future.result(max(0.0, until - time.monotonic())).message
    except PeerGone:
        return None  # it is being looked after
    except (FtpError, OSError, StateError) as error:
        logger.warning("%s doesn't answer: %s", worker, str(error) or "it takes too long")
        return None
    return answer if isinstance(answer, kind) else None
