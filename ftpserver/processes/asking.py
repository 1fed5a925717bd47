"""Sending a request to several workers at once, and collecting the replies.

Lives here: the deadline, and which workers are left out. Lives elsewhere: the requests
(supervisor.py), one worker's reply (worker_handle.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

from ftpserver.errors import StateError
from ftpserver.processes.rpc import EndpointGone
from ftpserver.processes.worker_handle import ANSWER_SECONDS, WorkerHandle
from ftpserver.processes.worker_interfaces import WorkerForServer
from ftpwire.errors import FtpError

logger = logging.getLogger("ftpd.workers")

_Answer = TypeVar("_Answer")


class Answers(NamedTuple, Generic[_Answer]):
    """The replies, and the reasons of missing ones. Workers that have ended are in neither."""

    given: dict[WorkerHandle, _Answer]
    missing: dict[WorkerHandle, str]


def ask_all(
    workers: Sequence[WorkerHandle], ask: Callable[[WorkerForServer], Future[_Answer]]
) -> Answers[_Answer]:
    """Send a request to each worker that can serve, and wait for the replies."""
    futures = [(one, one.ask(ask)) for one in workers if one.ready]
    until = time.monotonic() + ANSWER_SECONDS
    answers: Answers[_Answer] = Answers({}, {})
    for worker, future in futures:
        try:
            answers.given[worker] = future.result(max(0.0, until - time.monotonic()))
        except EndpointGone:
            pass  # it has ended: the supervisor replaces it
        except (FtpError, OSError, StateError) as error:
            answers.missing[worker] = str(error) or "it doesn't answer"
            logger.warning("%s: %s", worker, answers.missing[worker])
    return answers
