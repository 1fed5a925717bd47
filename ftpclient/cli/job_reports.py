"""The progress of a job, reported to the shell that started it.

Lives here: the listener in the job's process. Lives elsewhere: counting (bars.py), the process
(shell/job_child.py), showing it (job_lines.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from ftpclient.cli.app import App
from ftpclient.cli.bars import Counting
from ftpclient.cli.jobs import Report

_EVERY_SECONDS = 0.5


class Reports(Counting):
    """A listener that reports the progress regularly.

    As a context manager it does so in a thread, and once more at the end.

    Args:
        send: A function that any thread may call.
    """

    def __init__(self, app: App, action: str, send: Callable[[Report], None]) -> None:
        super().__init__(app, action=action)
        self._send = send
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-reports", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._end.set()
        self._thread.join()
        self._send(Report(self.headway()))

    def _run(self) -> None:
        while not self._end.wait(_EVERY_SECONDS):
            self._send(Report(self.headway()))
