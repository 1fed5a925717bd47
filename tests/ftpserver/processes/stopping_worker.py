"""A worker that stops at a moment that its test has set, by the environment.

Lives here: the hooks. Lives elsewhere: the tests (test_stopped_workers.py).
"""

from __future__ import annotations

import os
import signal

from ftpserver.processes import worker
from ftpserver.processes.forkserver import Born


def main(born: Born) -> None:
    """Be a worker, as far as the test lets it."""
    if _is_named("STOPPED_AT_START", born):
        os.kill(os.getpid(), signal.SIGSTOP)
    if _is_named("HANGS_AT_START", born):
        signal.pause()
    if _is_named("STOPPED_AT_OFFER", born):
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
    worker.main(born)


def _is_named(hook: str, born: Born) -> bool:
    return str(born.number) in os.environ.get(hook, "").split(",")
