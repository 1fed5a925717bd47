"""A worker that stops at a moment that its test has set, by the environment.

Lives here: the hooks. Lives elsewhere: the tests (test_stopped_workers.py).
"""

from __future__ import annotations

import os
import signal

from ftpserver.processes import worker
from ftpserver.processes.forkserver import ChildArguments


def main(arguments: ChildArguments) -> None:
    """Be a worker, as far as the test lets it."""
    if _is_named("STOPPED_AT_START", arguments):
        os.kill(os.getpid(), signal.SIGSTOP)
    if _is_named("HANGS_AT_START", arguments):
        signal.pause()
    if _is_named("STOPPED_AT_OFFER", arguments):
        offer = worker.Worker.offer
        stops = [True]
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])

        def stop_first(self: worker.Worker, number: int) -> None:
            if stops:
                stops.clear()
                os.kill(os.getpid(), signal.SIGSTOP)  # another thread of it may stop first
                signal.sigwait([signal.SIGCONT])
            offer(self, number)

        worker.Worker.offer = stop_first
    worker.main(arguments)


def _is_named(hook: str, arguments: ChildArguments) -> bool:
    return str(arguments.number) in os.environ.get(hook, "").split(",")
